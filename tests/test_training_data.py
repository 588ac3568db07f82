"""A model belongs to the data set that it was trained on, by content: another of the same id is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from data_fixture import csv_file, preprocess_into, titles
from training_fixture import context_of, train_task

from jobs.context import Context, TaskInterruptedError
from jobs.data.dataset import META, Dataset
from jobs.predict import predict
from jobs.stages import train
from jobs.storage import Storage
from jobs.training.metrics import of_parts
from jobs.training.run import SETTINGS, Trained
from pipeline import repro
from sharedfs.documents import read_json, write_json
from sharedfs.errors import DamagedFileError

DATA = {"split": {"validation": 0.2, "test": 0.1}, "embeddings": {"size": 8}, "vocabulary": {"min_count": 1}}
REFUSED = r"trained on data set \w+ as it was before it was made again \(content \w+, now \w+\): "


def _data(root: Path, *, rows: int = 200, cpus: int = 2) -> Dataset:
    root.mkdir()
    source = csv_file(root / "titles.csv", [{"text": row["title"], **row} for row in titles(rows)])
    return preprocess_into(root, source=source, cpus=cpus, **DATA)


def _make_again(dataset: Dataset) -> None:
    """The data set under its id with another content, as other code of preprocessing would make it."""
    document = read_json(dataset.folder / META)
    document["files"]["vocabulary.json"]["sha256"] = "0" * 64
    write_json(dataset.folder / META, document)


def _without_digest(folder: Path) -> None:
    """settings.json as earlier versions wrote it."""
    document = read_json(folder / SETTINGS)
    write_json(folder / SETTINGS, {name: value for name, value in document.items() if name != "dataset_digest"})


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return _data(tmp_path / "storage")


def _context(dataset: Dataset, architecture: str, **more: object) -> Context:
    settings = {} if architecture == "linear" else {"epochs": 2, "batch_size": 16}
    task = train_task(architecture, dataset.folder.name, **settings)
    return context_of(task, Storage(dataset.folder.parents[1]), **more)


def test_the_same_bytes_have_the_same_digest_and_others_another(tmp_path: Path, dataset: Dataset) -> None:
    again, other = _data(tmp_path / "again", cpus=1), _data(tmp_path / "other", rows=240)
    assert again.content_digest == dataset.content_digest != other.content_digest
    shutil.rmtree(again.folder)
    assert preprocess_into(tmp_path / "again", source=str(tmp_path / "again/titles.csv"), **DATA).content_digest == (
        dataset.content_digest
    )


@pytest.mark.parametrize("architecture", ["mlp", "linear"])
def test_a_run_whose_data_set_was_made_again_is_not_opened(dataset: Dataset, architecture: str) -> None:
    context = _context(dataset, architecture)
    train.run(context)
    assert len(list(predict(context.storage.root, context.folder, ["palabraa"]))) == 1
    _make_again(dataset)
    with pytest.raises(DamagedFileError, match=REFUSED + "make it again with `tanda submit --rerun`$") as refused:
        list(predict(context.storage.root, context.folder, ["palabraa"]))
    assert "\n" not in str(refused.value)
    _without_digest(context.folder)
    assert len(list(predict(context.storage.root, context.folder, ["palabraa"]))) == 1


def test_a_run_whose_data_set_was_made_again_is_not_reproduced(dataset: Dataset) -> None:
    from jobs.entry import run

    folder = _context(dataset, "linear").folder
    shutil.rmtree(folder / "attempts")
    write_json(dataset.folder.parents[1] / "runs" / dataset.folder.name / "record.json", {
        "id": dataset.folder.name, "stage": "preprocess", "state": "done", "started": 0, "ended": 0, "running_s": 0,
        "attempt": 1,
    })  # fmt: skip
    assert run(folder) == 0
    assert repro.describe(folder)["stage"] == "train"
    _make_again(dataset)
    with pytest.raises(DamagedFileError, match=REFUSED):
        repro.describe(folder)
    with pytest.raises(DamagedFileError, match=REFUSED):
        repro.check(folder)


@pytest.mark.parametrize("known", [True, False], ids=["recorded", "of an earlier version"])
def test_a_checkpoint_of_other_data_is_not_gone_on_from(dataset: Dataset, known: bool) -> None:
    asked = iter([False] * 8)
    paused = _context(dataset, "mlp", interrupted=lambda: next(asked, True))
    with pytest.raises(TaskInterruptedError):
        train.run(paused)
    if not known:
        _without_digest(paused.folder)
    settings = (paused.folder / SETTINGS).read_bytes()
    _make_again(dataset)
    if known:
        with pytest.raises(DamagedFileError, match=REFUSED + r"remove \S+/checkpoint\*.pt to train it from the start$"):
            train.run(_context(dataset, "mlp"))
        for checkpoint in paused.folder.glob("checkpoint*.pt"):
            checkpoint.unlink()
        train.run(_context(dataset, "mlp"))
        assert (paused.folder / SETTINGS).read_bytes() != settings
    else:
        train.run(_context(dataset, "mlp"))
        # Of a stopped trial that goes on, the former record names this file with its size.
        assert (paused.folder / SETTINGS).read_bytes() == settings


def test_a_run_is_opened_with_the_word_vectors_it_was_trained_on(dataset: Dataset) -> None:
    """Drawn by its seed; a run of an earlier version, which says nothing, was trained on the stored ones."""
    settings = {"epochs": 1, "batch_size": 16, "seed": 3, "freeze_embeddings": True}
    context = context_of(train_task("mlp", dataset.folder.name, **settings), Storage(dataset.folder.parents[1]))
    result = train.run(context).result
    document = read_json(context.folder / SETTINGS)
    assert document["vectors_seed"] == 3

    def loss() -> float:
        trained = Trained.open(context.storage, context.folder)
        trained.prepare(cpus=1)
        split = trained.dataset.splits["validation"]
        return of_parts(trained.logits(split), titles=len(split), classes=len(trained.dataset.classes)).figures["loss"]

    assert loss() == pytest.approx(result["validation_loss"], abs=1e-5)
    write_json(context.folder / SETTINGS, {name: value for name, value in document.items() if name != "vectors_seed"})
    assert abs(loss() - result["validation_loss"]) > 1e-3
