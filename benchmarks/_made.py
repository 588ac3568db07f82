"""A published data set of any size, made at once: titles as long and as Zipfian as real ones, no text behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from jobs.attempt import begin
from jobs.context import Context
from jobs.data.dataset import META
from jobs.models import Recipe
from jobs.settings import beside
from jobs.storage import Storage
from jobs.task import Task
from jobs.testing import meta_with, recipe_with
from sharedfs.documents import write_json

WORDS, SIZE, CLASSES = 50_002, 300, 632


def make_dataset(folder: Path, *, train: int, validation: int = 2_000, seed: int = 0) -> None:
    """Titles of 1 to 16 words, 5.5 on average; half of a title's words come from its category's own few hundred."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    splits: dict[str, tuple[int, int]] = {}
    for name, count in (("train", train), ("validation", validation), ("test", validation)):
        labels = generator.integers(0, CLASSES, count)
        lengths = np.clip(generator.poisson(5.5, count), 1, 16)
        total = int(lengths.sum())
        common = np.minimum(generator.zipf(1.2, total), WORDS - 2)
        own = 2 + (np.repeat(labels, lengths) * 79 + generator.integers(0, 79, total)) % (WORDS - 2)
        tokens = np.where(generator.random(total) < 0.5, 1 + common, own)
        tokens.astype("<u2").tofile(folder / f"{name}.tokens.bin")
        np.concatenate([[0], np.cumsum(lengths)]).astype("<i8").tofile(folder / f"{name}.offsets.bin")
        labels.astype("<u2").tofile(folder / f"{name}.labels.bin")
        np.ones(count, "|u1").tofile(folder / f"{name}.reliable.bin")
        splits[name] = count, total
    vectors = generator.standard_normal((WORDS, SIZE), dtype=np.float32) * 0.3
    vectors[0] = 0
    vectors.tofile(folder / "vectors.bin")
    write_json(folder / "classes.json", [str(number) for number in range(CLASSES)])
    write_json(folder / "vocabulary.json", [str(number) for number in range(WORDS)])
    write_json(folder / META, meta_with(splits, max_length=32, words=WORDS, size=SIZE))


@contextmanager
def storage_with(train: int, validation: int = 2_000) -> Iterator[tuple[Storage, str]]:
    """A storage folder that holds one data set, and the data set's id; gone afterwards."""
    with TemporaryDirectory(prefix="tanda-") as root:
        make_dataset(Path(root) / "datasets" / "made", train=train, validation=validation)
        yield Storage(Path(root)), "made"


def recipe_of(architecture: str, **given: Any) -> Recipe:
    """The published shape of an architecture: 3 x 128 LSTM, 100 filters of 2, 3 and 4, hidden layers 256 and 128."""
    published = {"lstm_layers": 3, "lstm_features": 128, "filters_count": 100, "filters_length": [2, 3, 4]}
    own = {"hidden_layers": [128] if architecture == "cnn" else [256, 128]}
    return recipe_with(architecture, **{**published, **own, **given})


def task_of(recipe: Recipe) -> Task:
    """The train task of a recipe, which needs no preprocess task."""
    return Task(stage="train", settings=recipe.identity, plumbing=beside(recipe.settings))


def context_for(storage: Storage, cpus: int, recipe: Recipe, label: object) -> Context:
    """A context to train in, in a folder of its own by its label."""
    task = Task(stage="train", settings={**recipe.document, "label": label})
    folder = task.write(storage)
    return Context(task=task, storage=storage, folder=folder, attempt=begin(folder), cpus=cpus)
