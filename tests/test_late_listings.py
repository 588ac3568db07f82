"""A folder's listing that comes late: what is in it is there all the same."""

from __future__ import annotations

import errno
import os
import stat
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clock_fixture import OwnClock
from faults_fixture import handlers

from jobs import attempt, entry
from jobs.attempt import numbers
from jobs.context import Outcome
from jobs.storage import Storage
from jobs.task import Task, read_record
from sharedfs import files
from sharedfs.documents import read_json

__all__ = ["handlers"]


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Have a folder's listing, and names that were looked for in it, stay as they are until this node changes it."""
    kept: dict[str, set[str]] = {}
    scandir, system_open, system_stat = os.scandir, os.open, os.stat

    def keep(folder: Path) -> None:
        kept[str(folder)] = {path.name for path in folder.iterdir()}

    class Listing(list[Any]):
        def __enter__(self) -> Listing:
            return self

        def __exit__(self, *_error: object) -> None:
            return

    def listed(path: Any = ".") -> Any:
        names = kept.get(str(path))
        return scandir(path) if names is None else Listing(entry for entry in scandir(path) if entry.name in names)

    def check(path: Any) -> None:
        folder, _, name = str(path).rpartition("/")
        if folder in kept and name == "record.json" and name not in kept[folder]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            kept.pop(str(path).rpartition("/")[0], None)
        check(path)
        return system_open(path, flags, *more, **named)

    def stated(path: Any, *more: Any, **named: Any) -> os.stat_result:
        check(path)
        return system_stat(path, *more, **named)

    monkeypatch.setattr(os, "scandir", listed)
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "stat", stated)
    return keep


def test_an_attempt_that_no_listing_shows_yet_is_not_overtaken(tmp_path: Path, late: Callable[[Path], None]) -> None:
    attempt.begin(tmp_path)
    late(tmp_path / "attempts")
    # On another node: it is not this host's process that is asked for.
    files.write_whole(attempt.begin_after(tmp_path, 1, attempt._UNKNOWN).path / attempt.START, b'{"host": "other"}')  # type: ignore[union-attr]
    assert numbers(tmp_path) == [1] and attempt.newest_number(tmp_path) == 2
    assert attempt.live(tmp_path)


def test_a_result_that_this_node_does_not_see_yet_is_not_missing(
    tmp_path: Path, late: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, made = Task(stage="train", settings={"seed": 1}), Storage(tmp_path)
    folder = first.write(made)
    late(folder)
    (folder / "record.json").write_bytes(
        b'{"id": "%s", "stage": "train", "state": "done", "started": 1, "ended": 2, "running_s": 1, "attempt": 1}'
        % first.id.encode()
    )
    assert read_record(folder) is None
    module = types.ModuleType("jobs.stages.evaluate")
    module.run = lambda _context: Outcome(files=(), result={})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jobs.stages.evaluate", module)
    assert entry.run(Task(stage="evaluate", settings={}, needs=(first.id,)).write(made), OwnClock()) == entry.DONE


def test_a_pipe_or_an_endless_file_in_the_place_of_one_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record.json")
    with pytest.raises(ValueError, match="is no ordinary file"):
        read_record(tmp_path)
    with pytest.raises(OSError, match="is no ordinary file"):
        files.open_plain(tmp_path / "record.json", "ab")
    assert stat.S_ISFIFO((tmp_path / "record.json").stat().st_mode)
    with (tmp_path / "progress.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="has 1099511627776 bytes, more than any of ours"):
        read_json(tmp_path / "progress.json")
