"""How a data set is published: whole or not at all, once, and never half seen."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from data_fixture import (
    contents,
    context_of,
    csv_file,
    preprocess_into,
    task_of,
    titles,
)

from jobs.context import Context, Progress, TaskInterruptedError
from jobs.data import shards
from jobs.data.dataset import Dataset
from jobs.data.identity import DataFiles
from jobs.data.shard_store import SPOOL, ShardStore
from jobs.stages import preprocess
from jobs.storage import Storage
from sharedfs.errors import DamagedFileError


def test_a_killed_one_leaves_nothing_and_the_next_clears_up(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "storage")
    task = task_of(source=csv_file(tmp_path / "a.csv", titles(40)))
    context = context_of(storage, task)
    context.interrupted = lambda: True
    with pytest.raises(TaskInterruptedError):
        preprocess.run(context)
    assert list(storage.datasets.iterdir()) == []
    left = storage.datasets / f".tmp-{task.id}-1-abc" / "dataset"
    left.mkdir(parents=True)
    outcome = preprocess.run(context_of(storage, task))
    assert [path.name for path in storage.datasets.iterdir()] == [task.id]
    assert {path.name for path in outcome.files} == set(contents(storage.dataset(task.id)))


def test_a_published_one_is_kept_and_a_damaged_one_made_again(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "storage")
    task = task_of(source=csv_file(tmp_path / "a.csv", titles(40)))
    preprocess.run(context_of(storage, task))
    before = contents(storage.dataset(task.id))
    stamp = (storage.dataset(task.id) / "meta.json").stat().st_mtime_ns
    preprocess.run(context_of(storage, task))
    assert (storage.dataset(task.id) / "meta.json").stat().st_mtime_ns == stamp
    (storage.dataset(task.id) / "train.tokens.bin").write_bytes(b"half")
    with pytest.raises(ValueError, match="damaged"):
        _ = Dataset.open(storage.dataset(task.id)).splits
    preprocess.run(context_of(storage, task))
    assert contents(storage.dataset(task.id)) == before


def test_a_storage_that_does_not_answer_is_no_damaged_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(tmp_path / "storage")
    task = task_of(source=csv_file(tmp_path / "a.csv", titles(40)))
    preprocess.run(context_of(storage, task))
    meta = storage.dataset(task.id) / "meta.json"
    sound = meta.read_bytes()
    meta.unlink()
    meta.mkdir()
    with pytest.raises(IsADirectoryError):
        preprocess.run(context_of(storage, task))
    assert [path.name for path in storage.datasets.iterdir()] == [task.id]
    assert "damaged" not in capsys.readouterr().err
    meta.rmdir()
    damaged = {b"{}": "data set format None", None: "No such file", sound[:-9]: "not a JSON document"}
    for content, reason in damaged.items():
        if content is None:
            meta.unlink()
        else:
            meta.write_bytes(content)
        preprocess.run(context_of(storage, task))
        logged = capsys.readouterr().err
        assert "the data set is damaged, made again: " in logged and reason in logged
        assert meta.read_bytes() == sound


@pytest.mark.parametrize("content", [None, b"", b"{}", b'[{"part": "train"}]'])
def test_a_damaged_spool_is_logged_and_its_files_are_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    storage, folder = Storage(tmp_path / "storage"), tmp_path / "files"
    folder.mkdir()
    for number in range(3):
        csv_file(folder / f"{number}.csv", titles(20 + number))
    task = task_of(source=str(folder))
    for shard in shards.shard_tasks(task, 2):
        preprocess.run(context_of(storage, shard))
    spool = shards.published_spools(storage, task.id)[0] / SPOOL
    if content is None:
        spool.unlink()
    else:
        spool.write_bytes(content)
    preprocess.run(context_of(storage, task))
    logged = capsys.readouterr().err
    assert "a shard's spool is damaged, its files are read again: " in logged and str(spool) in logged
    other = Storage(tmp_path / "other")
    preprocess.run(context_of(other, task))
    assert contents(storage.dataset(task.id)) == contents(other.dataset(task.id))


def test_damaged_plumbing_and_damaged_pieces_are_named(tmp_path: Path) -> None:
    task = task_of(source=csv_file(tmp_path / "a.csv", titles(9)))
    with pytest.raises(DamagedFileError, match=rf"^{task.id}/task.json: not the plumbing of preprocess: files: is mi"):
        replace(task, plumbing={}).plumbing_as(DataFiles)
    store = ShardStore(folder=tmp_path, file_columns=())
    for name, read in (("pieces", store.pieces), ("labels", store.labels)):
        (tmp_path / f"{name}.json").write_text('["a", 7]')
        with pytest.raises(DamagedFileError, match=rf"{name}\.json: not .*: 1: must be text, not 7$"):
            read()


def test_two_at_once_end_with_one_good_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path / "storage")
    task = task_of(source=csv_file(tmp_path / "a.csv", titles(40)))
    first = context_of(storage, task)

    other = Storage(tmp_path / "other")
    preprocess.run(context_of(other, task))

    def publish_meanwhile(context: Context, progress: Progress, *, force: bool = False) -> None:
        if not storage.dataset(task.id).exists():
            shutil.copytree(other.dataset(task.id), storage.dataset(task.id))

    monkeypatch.setattr(Context, "progress", publish_meanwhile)
    outcome = preprocess.run(first)
    assert [path.name for path in storage.datasets.iterdir()] == [task.id]
    assert all(path.exists() for path in outcome.files)


def test_an_older_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    dataset = preprocess_into(tmp_path, source=csv_file(tmp_path / "a.csv", titles(40)))
    meta = dataset.folder / "meta.json"
    meta.write_bytes(meta.read_bytes().replace(b'"format": 1', b'"format": 0'))
    with pytest.raises(ValueError, match=r"rebuild it with `rm -r .* && tanda submit"):
        Dataset.open(dataset.folder)


def test_progress_says_rows_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Progress] = []
    context = context_of(Storage(tmp_path / "storage"), task_of(source=csv_file(tmp_path / "a.csv", titles(40))))
    monkeypatch.setattr(Context, "progress", lambda _context, progress, *, force=False: reported.append(progress))
    preprocess.run(context)
    reading = [progress for progress in reported if progress.phase == "reading" and progress.unit == "rows"]
    assert reading[-1].done == reading[-1].total == 40
    assert reading[-1].rate is not None and reading[-1].left_s is not None
    assert [progress.done for progress in reported if progress.phase == "encoding"][-1] == 40
