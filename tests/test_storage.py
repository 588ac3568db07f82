"""The storage's promises: whole files, exclusive claims, ids that depend on content alone."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import metrics_log
from jobs.storage import Storage
from jobs.task import Record, Task, is_done, read_record
from sharedfs.clock import SYSTEM
from sharedfs.documents import digest, read_json, write_json
from sharedfs.files import claim, open_plain, publish_folder, read_plain, touch, write_whole

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_digest_depends_on_content_and_not_on_order(value: dict[str, object]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"state": "done"})

    with pytest.raises(TypeError):
        write_whole(path, b"half", None)  # type: ignore[arg-type]
    assert read_json(path) == {"state": "done"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def _claim(folder: Path) -> bool:
    return claim(folder)


def test_one_of_many_claimants_wins(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        won = pool.map(_claim, [tmp_path / "slot"] * 40)
    assert sum(won) == 1


def test_the_first_published_folder_stands(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"temporary-{number}").mkdir()
        (tmp_path / f"temporary-{number}" / "tokens.bin").write_text(str(number))
    assert publish_folder(tmp_path / "temporary-1", tmp_path / "final")
    assert not publish_folder(tmp_path / "temporary-2", tmp_path / "final")
    assert (tmp_path / "final" / "tokens.bin").read_text() == "1"


def test_a_published_folder_that_goes_at_once_was_published_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, final, rename = tmp_path / "ours", tmp_path / "final", Path.rename
    for folder in (ours, final):
        folder.mkdir()
        (folder / "file").touch()

    def refused(source: Path, target: Path) -> Path:
        try:
            return rename(source, target)
        finally:
            shutil.rmtree(final)

    monkeypatch.setattr(Path, "rename", refused)
    assert not publish_folder(ours, final)


def test_a_task_reads_back_and_an_edited_one_is_refused(tmp_path: Path) -> None:
    task = Task(stage="train", settings={"epochs": 3}, needs=("0" * 16,), plumbing={"device": "cpu"})
    folder = task.write(Storage(tmp_path))
    assert Task.read(folder) == task
    document = read_json(folder / "task.json")
    document["settings"]["epochs"] = 4
    write_json(folder / "task.json", document)
    with pytest.raises(ValueError, match="edited or written by another version"):
        Task.read(folder)


def test_plumbing_is_no_part_of_the_id() -> None:
    assert Task(stage="train", settings={}, plumbing={"device": "cpu"}).id == Task(stage="train", settings={}).id


def _record(storage: Storage, task: Task, **changes: object) -> Record:
    facts = {"id": task.id, "stage": task.stage, "state": "done", "started": 1.0, "ended": 2.0, "running_s": 1.0}
    record = Record(**{**facts, "attempt": 1, **changes})  # type: ignore[arg-type]
    record.write(storage)
    return record


def test_done_means_that_the_named_files_are_there_with_their_sizes(tmp_path: Path) -> None:
    storage, task = Storage(tmp_path), Task(stage="train", settings={})
    model = task.write(storage) / "model.pt"
    model.write_bytes(b"12345")
    record = _record(storage, task, files=storage.sizes([model]))
    assert read_record(storage.run(task.id)) == record
    assert is_done(storage, task.id)
    model.write_bytes(b"1234")
    assert not is_done(storage, task.id)
    model.unlink()
    assert not is_done(storage, task.id)
    model.symlink_to(model)
    with pytest.raises(OSError, match="Too many levels"):  # no answer is no answer, and not a missing file
        is_done(storage, task.id)


def test_a_file_that_comes_in_short_reads_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow").write_bytes(b"first, second")
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, _size: read(descriptor, 7))
    assert read_plain(tmp_path / "slow") == b"first, second"


def test_the_storages_clock_is_asked_whatever_another_node_left(tmp_path: Path) -> None:
    # A process of the same number, on another node, was killed as it asked; its file can't be touched by us.
    (tmp_path / f".now-{os.getpid()}-{threading.get_ident()}").symlink_to("nowhere")
    assert abs(SYSTEM.on(tmp_path) - time.time()) < 60
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"id": "x"}'])
def test_a_broken_record_is_not_done_and_says_so(tmp_path: Path, text: bytes) -> None:
    storage, task = Storage(tmp_path), Task(stage="train", settings={})
    folder = task.write(storage)
    (folder / "record.json").write_bytes(text)
    assert not is_done(storage, task.id)
    with pytest.raises(ValueError, match=r"record\.json"):
        read_record(folder)


def test_a_journal_survives_a_torn_line_and_a_repeated_epoch(tmp_path: Path) -> None:
    metrics_log.append(tmp_path, {"epoch": 1, "train_loss": 2.0})
    metrics_log.append(tmp_path, {"epoch": 2, "train_loss": 1.5})
    metrics_log.append(tmp_path, {"epoch": 2, "train_loss": 1.4})
    with (tmp_path / metrics_log.NAME).open("ab") as file:
        file.write(b'{"epoch": 3, "trai')
    assert metrics_log.read(tmp_path) == [{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.4}]
    assert metrics_log.read(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "write",
    [
        lambda path: open_plain(path, "ab"),
        lambda path: open_plain(path, "wb"),
        touch,
        lambda path: metrics_log.append(path.parent, {"epoch": 1}),
    ],
    ids=["append", "write", "touch", "journal"],
)
@pytest.mark.parametrize("there", [True, False], ids=["of a file", "of nothing"])
def test_nothing_is_written_through_a_link(tmp_path: Path, write: Callable[[Path], object], there: bool) -> None:
    target, link = tmp_path / "target", tmp_path / metrics_log.NAME
    link.symlink_to(target)
    if there:
        target.write_text("mine")
    with pytest.raises(OSError, match="is a link") as caught:
        write(link)
    assert caught.value.filename == str(link)
    assert target.read_text() == "mine" if there else not target.exists()


def test_a_link_is_read_as_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "record.json").symlink_to("secret.json")
    with pytest.raises(ValueError, match=r"record\.json: is a link"):
        read_json(tmp_path / "record.json")
    with pytest.raises(ValueError, match=r"record\.json: is a link"):
        read_record(str(tmp_path))
    write_json(tmp_path / "record.json", {"new": 1})
    assert (tmp_path / "secret.json").read_text() == "{}" and read_json(tmp_path / "record.json") == {"new": 1}
