"""How a data set is published: whole or not at all, once, and never half seen."""

from __future__ import annotations

import shutil
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
from jobs.data.dataset import Dataset
from jobs.stages import preprocess
from jobs.storage import Storage


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
    told: list[Progress] = []
    context = context_of(Storage(tmp_path / "storage"), task_of(source=csv_file(tmp_path / "a.csv", titles(40))))
    monkeypatch.setattr(Context, "progress", lambda _context, progress, *, force=False: told.append(progress))
    preprocess.run(context)
    reading = [progress for progress in told if progress.phase == "reading" and progress.unit == "rows"]
    assert reading[-1].done == reading[-1].total == 40
    assert reading[-1].rate is not None and reading[-1].left_s is not None
    assert [progress.done for progress in told if progress.phase == "encoding"][-1] == 40
