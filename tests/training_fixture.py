"""A small published data set and contexts to train on it, written by hand: no preprocessing is involved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.attempt import begin
from jobs.context import Context
from jobs.data.dataset import META
from jobs.settings import beside
from jobs.storage import Storage
from jobs.task import Record, Task
from jobs.testing import meta_with, recipe_with
from sharedfs.documents import write_json


def write_dataset(
    folder: Path, *, rows: int = 600, classes: int = 4, words: int = 60, size: int = 8, seed: int = 0
) -> None:
    """Titles of 1 to 6 words, most of them drawn from the category's own share of the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    splits: dict[str, tuple[int, int]] = {}
    for name, count in (("train", rows), ("validation", rows // 4), ("test", rows // 4)):
        labels = np.minimum(generator.geometric(0.4, count) - 1, classes - 1)
        labels[:classes] = np.arange(classes)
        lengths = generator.integers(1, 7, count)
        own = (words - 2) // classes
        tokens = 2 + np.repeat(labels, lengths) * own + generator.integers(0, own, lengths.sum())
        stray = generator.random(len(tokens)) < 0.35
        tokens[stray] = generator.integers(1, words, stray.sum())
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        tokens.astype("<u2").tofile(folder / f"{name}.tokens.bin")
        offsets.astype("<i8").tofile(folder / f"{name}.offsets.bin")
        labels.astype("<u2").tofile(folder / f"{name}.labels.bin")
        (generator.random(count) < 0.8).astype("|u1").tofile(folder / f"{name}.reliable.bin")
        splits[name] = count, int(lengths.sum())
    vectors = generator.standard_normal((words, size)).astype("<f4")
    vectors[0] = 0
    vectors.tofile(folder / "vectors.bin")
    write_json(folder / "classes.json", [f"category {number}" for number in range(classes)])
    write_json(folder / "vocabulary.json", ["<PAD>", "<UNK>", *(f"word{number}" for number in range(2, words))])
    write_json(folder / META, meta_with(splits, max_length=6, words=words, size=size))


def publish_dataset(storage: Storage, **shape: Any) -> str:
    """A data set on storage whose preprocess task is done; returns its id."""
    task = Task(stage="preprocess", settings={"by": "hand", **shape})
    folder = storage.dataset(task.id)
    write_dataset(folder, **shape)
    task.write(storage)
    files = storage.sizes(sorted(folder.iterdir()))
    Record(
        id=task.id, stage="preprocess", state="done", started=0.0, ended=0.0, running_s=0.0, attempt=1, files=files
    ).write(storage)
    return task.id


def train_task(architecture: str, dataset: str, **settings: Any) -> Task:
    """The train task of these settings, the others at their defaults."""
    small: dict[str, Any] = {
        "hidden_layers": [16],
        "learning_rate": 0.01,
        "lstm_features": 8,
        "lstm_layers": 1,
        "filters_count": 8,
    }
    recipe = recipe_with(architecture, dataset, **{**small, **settings})
    return Task(stage="train", settings=recipe.identity, needs=(dataset,), plumbing=beside(recipe.settings))


def context_of(task: Task, storage: Storage, **more: Any) -> Context:
    """A context as the task's entry point makes one, without signals."""
    folder = task.write(storage)
    return Context(task=task, storage=storage, folder=folder, attempt=begin(folder), cpus=1, **more)


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of tests that run side by side on the same cores wait for each other far longer than they work."""
    monkeypatch.setenv("TANDA_CPUS", "1")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def dataset(storage: Storage) -> str:
    return publish_dataset(storage)
