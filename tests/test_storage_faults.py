"""Faults that a shared file system has for a while: each error, at each operation, for a moment and for good."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clock_fixture import OwnClock
from faults_fixture import Faults, broken, handlers

from jobs import attempt, circuit_breaker, entry, metrics_log, storage
from jobs.attempt import history, numbers
from jobs.context import Context, Outcome
from jobs.data.dataset import Dataset
from jobs.storage import Storage
from jobs.task import Task, read_record
from jobs.training import checkpoint
from pipeline.queue import last_exit_code
from sharedfs import faults, files
from sharedfs.faults import AWAY, PATIENCE_S
from slurm import element

__all__ = ["broken", "handlers"]

FOR_GOOD = 10**9
LINE = metrics_log.make_line(
    train={"loss": 1.0}, validation={"loss": 1.0}, epoch=1, step=1, gradient_norm=None, seconds=1.0,
    titles_per_s=1.0, ended=1.0, attempt=1,
)  # fmt: skip


def _read(folder: Path) -> None:
    assert files.read_plain(folder / "there") == b"there"


def _write(folder: Path) -> None:
    files.write_whole(folder / "new", b"whole")
    assert (folder / "new").read_bytes() == b"whole"
    assert not list(folder.glob(".*.tmp"))


def _make_folder(folder: Path) -> None:
    files.plain_folder(folder / "made")
    assert (folder / "made").is_dir()


def _list(folder: Path) -> None:
    assert numbers(folder) == [1]


def _publish(folder: Path) -> None:
    made = folder / ".made"
    made.mkdir(exist_ok=True)
    (made / "file").write_bytes(b"content")
    assert files.publish_folder(made, folder / "final")
    assert (folder / "final/file").read_bytes() == b"content"


def _append(folder: Path) -> None:
    metrics_log.append(folder, LINE)
    assert metrics_log.read(folder) == [LINE]
    assert (folder / metrics_log.NAME).read_bytes() == metrics_log.encode([LINE])


def _save(folder: Path) -> None:
    checkpoint.save(folder, {"identity": "i", "step": 1})
    assert checkpoint.load(folder, "i", print) == {"format": checkpoint.FORMAT, "identity": "i", "step": 1}


def _start(folder: Path) -> None:
    with element._begin_log(folder / "log.txt", "== start ==\n"):
        pass
    assert b"== start ==\n" in (folder / "log.txt").read_bytes()


class _Mapped:
    folder = Path()
    _map = Dataset._map


def _map(folder: Path) -> None:
    mapped = _Mapped()
    mapped.folder = folder
    assert bytes(Dataset._map(mapped, "there", "|u1", (5,))) == b"there"  # type: ignore[arg-type]


# What is done, and the call of the system's that fails in it.
OPERATIONS = [
    (_read, "open"), (_read, "read"), (_write, "open"), (_write, "write"), (_write, "fsync"), (_write, "replace"),
    (_make_folder, "mkdir"), (_list, "listdir"), (_publish, "replace"), (_publish, "fsync"), (_append, "open"),
    (_append, "write"), (_append, "fsync"), (_save, "write"), (_save, "fsync"), (_save, "replace"), (_start, "open"),
    (_start, "write"), (_map, "read"),
]  # fmt: skip
EACH = pytest.mark.parametrize(
    ("do", "operation"), OPERATIONS, ids=[f"{do.__name__.strip('_')}-{operation}" for do, operation in OPERATIONS]
)
NUMBERS = pytest.mark.parametrize("number", AWAY, ids=[errno.errorcode[number] for number in AWAY])


def _prepare(folder: Path) -> Path:
    """A folder with what is read in it, made while all is well."""
    (folder / "attempts/0001").mkdir(parents=True)
    (folder / "there").write_bytes(b"there")
    files.read_plain(folder / "there")
    return folder


# Each error at once: 190 tests would take longer to begin than to run.


@EACH
def test_a_fault_that_goes_away_is_waited_for_where_it_happens(
    broken: Faults, do: Callable[[Path], None], operation: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, words in AWAY.items():
        folder = _prepare(broken.root / str(number))
        broken.clock.passed.clear()
        broken.begin(operation, number, 3, f"/{number}/")
        do(folder)
        assert broken.left == 0
        assert broken.clock.passed == [0.1, 0.2, 0.4]
        assert capfd.readouterr().err.count(f"{words}: tried again for 20 s") == 1


@EACH
def test_one_that_stays_is_the_tasks_to_wait_for_and_names_a_file(
    broken: Faults, do: Callable[[Path], None], operation: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, words in AWAY.items():
        folder = _prepare(broken.root / str(number))
        broken.clock.passed.clear()
        broken.begin(operation, number, FOR_GOOD, f"/{number}")
        with pytest.raises(OSError, match="Errno") as raised:
            do(folder)
        assert raised.value.errno == number and str(folder) in str(raised.value.filename)
        assert storage.is_transient(raised.value)
        assert PATIENCE_S / 2 < broken.clock.monotonic() <= PATIENCE_S < attempt.STALE_S
        assert f"{words}: tried again for 20 s" in capfd.readouterr().err


def test_waits_in_vain_do_not_add_up(broken: Faults) -> None:
    folder = _prepare(broken.root / "folder")
    broken.begin("open", errno.EIO, FOR_GOOD)
    for do in (_read, _read, _write):
        with pytest.raises(OSError, match="Errno"):
            do(folder)
    waited_s = broken.clock.monotonic()
    assert waited_s <= PATIENCE_S
    # Once something went well, the next fault is waited for again.
    broken.left = 0
    _read(folder)
    broken.begin("open", errno.EIO, 1)
    _read(folder)
    assert broken.clock.monotonic() > waited_s


@pytest.mark.parametrize("number", [errno.EACCES, errno.EINVAL, errno.ENOSPC])
def test_what_is_no_fault_of_a_moment_rises_at_once(broken: Faults, number: int) -> None:
    broken.begin("fsync", number, 1)
    with pytest.raises(OSError, match="Errno"):
        _write(broken.root)
    assert broken.clock.passed == []


def test_a_rename_that_was_done_though_it_failed_is_done(broken: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    made = broken.root / "made"
    made.mkdir()
    (made / "file").touch()
    rename, answers = os.rename, [OSError(errno.ETIMEDOUT, "late", str(made))]

    def late(path: Any, target: Any) -> None:
        rename(path, target)
        if answers:
            raise answers.pop()

    monkeypatch.setattr(os, "rename", late)
    assert files.publish_folder(made, broken.root / "final")


def test_a_busy_system_that_names_no_file_is_not_the_storage() -> None:
    assert faults.fault_of(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")) is None  # as of fork
    assert faults.fault_of(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable", "/s/x")) == errno.EAGAIN


# A whole task.


def _play(
    stage: Callable[[Context], Outcome], broken: Faults, monkeypatch: pytest.MonkeyPatch, clock: OwnClock | None = None
) -> tuple[int, Path]:
    module = types.ModuleType("jobs.stages.train")
    module.run = stage  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jobs.stages.train", module)
    folder = Task(stage="train", settings={}).write(Storage(broken.root))
    return entry.run(folder, clock or broken.clock), folder


@dataclass(frozen=True, kw_only=True)
class _Mended(OwnClock):
    """At some moment of the wait the file system answers again; ``seen`` is given what holds meanwhile."""

    faults: list[Faults]
    at_s: float

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.monotonic() >= self.at_s:
            self.faults[0].left = 0


@pytest.mark.parametrize(
    ("operation", "number"),
    [("open", errno.ESTALE), ("write", errno.EIO), ("fsync", errno.ETIMEDOUT), ("replace", errno.EBUSY)],
)
def test_a_task_waits_for_a_file_system_that_is_away_for_longer(
    broken: Faults, monkeypatch: pytest.MonkeyPatch, number: int, operation: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def stage(context: Context) -> Outcome:
        if context.attempt.number == 1:
            files.write_whole(context.folder / "checkpoint.pt", b"saved")
            broken.begin(operation, number, FOR_GOOD, "checkpoint")
        files.write_whole(context.folder / "checkpoint.pt", b"more")
        return Outcome(files=(context.folder / "checkpoint.pt",), result={})

    broken.clock = _Mended(faults=[broken], at_s=60.0)
    broken.install(monkeypatch)
    status, folder = _play(stage, broken, monkeypatch)
    assert status == entry.DONE
    record = read_record(folder)
    assert record is not None and (record.state, (folder / "checkpoint.pt").read_bytes()) == ("done", b"more")
    first, *_, last = history(folder)
    assert first.state == "paused" and AWAY[number] in (first.message or "") and last.state == "done"
    assert f"waiting for the storage: {folder}/checkpoint.pt: {AWAY[number]}" in capfd.readouterr().err


@NUMBERS
def test_what_no_waiting_mends_is_storage_and_counts_for_no_brake(
    broken: Faults, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def stage(context: Context) -> Outcome:
        broken.begin("fsync", number, FOR_GOOD, "checkpoint")
        files.write_whole(context.folder / "checkpoint.pt", b"more")
        return Outcome(files=(), result={})

    counted: list[str] = []
    monkeypatch.setattr(circuit_breaker, "note_failure", lambda *facts: counted.append(str(facts)))
    status, folder = _play(stage, broken, monkeypatch)
    record = read_record(folder)
    assert status == entry.FAILED and record is not None and (record.state, record.cause) == ("failed", "storage")
    assert AWAY[number] in (record.message or "") and not counted
    # Each time that it comes back it is waited for twice as long: no task begins dozens of times.
    assert 3 <= len(history(folder)) <= 8
    assert broken.clock.monotonic() < storage.MAX_WAIT_S + 10 * PATIENCE_S


@pytest.mark.parametrize("operation", ["open", "listdir", "mkdir"])
def test_a_task_that_cannot_begin_says_so_by_its_status(
    broken: Faults, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    folder = Task(stage="train", settings={}).write(Storage(broken.root))
    broken.begin(operation, errno.ESTALE, FOR_GOOD)
    assert entry.run(folder, broken.clock) == entry.AWAY == element.STORAGE
    assert not (folder / "record.json").exists()


def test_one_that_is_asked_to_stop_meanwhile_wants_to_be_started_again(
    broken: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[bool] = []

    @dataclass(frozen=True, kw_only=True)
    class Asked(OwnClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            beats.append("heartbeat" in {thread.name for thread in threading.enumerate()})
            if self.monotonic() > 40:
                os.kill(os.getpid(), signal.SIGUSR2)

    def stage(context: Context) -> Outcome:
        broken.begin("fsync", errno.EIO, FOR_GOOD)
        files.write_whole(context.folder / "checkpoint.pt", b"more")
        return Outcome(files=(), result={})

    broken.clock = Asked()
    broken.install(monkeypatch)
    status, folder = _play(stage, broken, monkeypatch)
    assert status == entry.PAUSED and read_record(folder) is None
    assert broken.clock.monotonic() < 50 and all(beats)


def test_an_element_that_cannot_reach_its_tasks_folder_ends_with_the_status_of_that(
    broken: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [broken.root / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    broken.begin("open", errno.ENOTCONN, FOR_GOOD, "log.txt")
    paths = tuple(map(str, folders))
    assert element.run(element.Element(paths=paths, command=("true",))) == element.STORAGE
    assert last_exit_code(folders[0], element.element_id()) == element.STORAGE


def test_one_that_cannot_read_what_it_is_to_do_does_so_too(broken: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    element.write_elements(broken.root / "elements.json", (element.Element(paths=(), command=("true",)),))
    monkeypatch.setattr(sys, "argv", ["element", str(broken.root / "elements.json"), "0"])
    assert element.main() == element.OK
    broken.begin("open", errno.ESTALE, FOR_GOOD, "elements.json")
    assert element.main() == element.STORAGE
