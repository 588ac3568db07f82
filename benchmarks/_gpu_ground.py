"""What the stages of ``gpu_check.py`` stand on: facts that are noted, runs that are interrupted, weights compared."""

from __future__ import annotations

import contextlib
import io
import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _made import recipe_of, storage_with

from jobs.attempt import begin
from jobs.context import Context, TaskInterruptedError
from jobs.data.dataset import Dataset
from jobs.models import Recipe
from jobs.storage import Storage
from jobs.task import Task
from jobs.training import checkpoint
from jobs.training.run import train
from jobs.training.trainer import Trainer

CASES: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"architecture": "mlp", "dropout": 0.3, "weight_decay": 1e-5},
    "mlp-trained": {
        "architecture": "mlp", "dropout": 0.3, "weight_decay": 1e-5, "freeze_embeddings": False, "word_dropout": 0.1,
    },
    "cnn": {"architecture": "cnn", "dropout": 0.3, "bucket_by_length": True},
    "cnn-trained": {"architecture": "cnn", "freeze_embeddings": False, "weight_decay": 1e-5},
    "rnn": {"architecture": "rnn", "dropout": 0.3},
    "rnn-trained": {"architecture": "rnn", "freeze_embeddings": False, "logit_adjustment": 1.0},
}  # fmt: skip
# What a journal says of time and place.
VOLATILE = frozenset({"seconds", "titles_per_s", "ended", "attempt"})


@dataclass(slots=True, kw_only=True)
class Ground:
    """Where a stage runs; ``small`` takes few titles. Facts are printed, and kept as lines of JSON in ``facts``."""

    stage: str
    device: str
    small: bool
    facts: Path | None = None
    wrong: list[str] = field(default_factory=list)

    def note(self, **facts: Any) -> None:
        """One fact."""
        print(self.stage, " ".join(f"{key}={value}" for key, value in facts.items()), flush=True)
        if self.facts is not None:
            with self.facts.open("a") as file:
                file.write(json.dumps({"stage": self.stage, **facts}, default=str) + "\n")

    def must(self, holds: bool, what: str) -> None:
        """What makes the stage fail where it does not hold; the stage goes on."""
        if not holds:
            self.wrong.append(what)
            self.note(WRONG=what)

    @contextmanager
    def guarded(self, **facts: Any) -> Iterator[None]:
        """An error is a fact that fails the stage, and does not end it: the other cases are looked at as well."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever a GPU raises is what is looked for
            traceback.print_exc()
            first = (str(error).splitlines() or [""])[0]
            self.must(False, f"{' '.join(map(str, facts.values()))}: {type(error).__name__}: {first}"[:300])

    def titles(self, many: int) -> int:
        return min(many, 4_000) if self.small else many

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


@contextmanager
def dataset_of(ground: Ground, titles: int) -> Iterator[tuple[Storage, Dataset]]:
    """A storage with one data set of so many titles to train on, fewer where it is to be small."""
    with storage_with(ground.titles(titles), 300 if ground.small else 2_000) as (storage, name):
        yield storage, Dataset.open(storage.dataset(name))


@dataclass(slots=True, kw_only=True)
class Sitting:
    """One run's folder, in which attempts follow one another; ``said`` is what they told their log."""

    storage: Storage
    recipe: Recipe
    task: Task
    said: list[str] = field(default_factory=list)

    def context(self, questions: int | None = None) -> Context:
        """The next attempt's; it is asked to stop after so many questions whether it should."""
        asked = 0

        def interrupted() -> bool:
            nonlocal asked
            asked += 1
            return questions is not None and asked > questions

        folder = self.task.write(self.storage)
        return Context(
            task=self.task, storage=self.storage, folder=folder, attempt=begin(folder),
            cpus=min(4, len(os.sched_getaffinity(0))), interrupted=interrupted,
        )  # fmt: skip


def sit(ground: Ground, storage: Storage, label: str, *, architecture: str, **given: Any) -> Sitting:
    """A run of these settings in a folder of its own, by its label."""
    recipe = recipe_of(architecture, **{"device": ground.device, "patience_chance": 10_000, **given})
    task = Task(stage="train", settings={**recipe.document, "label": label})
    return Sitting(storage=storage, recipe=recipe, task=task)


def epochs_of(sitting: Sitting, dataset: Dataset) -> Trainer:
    """The engine, built and ready for its first step."""
    context = sitting.context()
    with listening(sitting):
        epochs = Trainer(context, sitting.recipe, dataset, context.folder, None)
        epochs.prepare()
    epochs.model.train()
    return epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A run at its end: weights by name, the journal without times, what was said of `compile`, titles a second."""

    weights: Mapping[str, torch.Tensor]
    lines: list[dict[str, Any]]
    told: tuple[str, ...]
    titles_per_s: float


def train_to_the_end(sitting: Sitting, dataset: Dataset, interrupt: tuple[int, ...] = ()) -> Trained:
    """Train, asked to stop after so many questions in each attempt but the last."""
    for questions in (*interrupt, None):
        context = sitting.context(questions)
        with listening(sitting), contextlib.suppress(TaskInterruptedError):
            result = train(context, recipe=sitting.recipe, dataset=dataset, folder=context.folder)
            break
    return Trained(
        weights=checkpoint.read_model(context.folder / checkpoint.MODEL),
        lines=[{name: value for name, value in line.items() if name not in VOLATILE} for line in result.lines],
        told=tuple(line for line in sitting.said if "compile" in line),
        titles_per_s=float(result.lines[-1]["titles_per_s"]),
    )


@contextmanager
def listening(sitting: Sitting) -> Iterator[None]:
    """Keep what is told to the log meanwhile."""
    with contextlib.redirect_stderr(io.StringIO()) as log:
        try:
            yield
        finally:
            sitting.said += log.getvalue().splitlines()


def difference(one: Trained, other: Trained) -> str:
    """``bit for bit``, or in how much two runs differ."""
    off = [name for name, weight in one.weights.items() if not torch.equal(weight, other.weights[name])]
    if not off and one.lines == other.lines:
        return "bit for bit"
    worst = max((float((one.weights[name] - other.weights[name]).abs().max()) for name in off), default=0.0)
    journals = "same" if one.lines == other.lines else "differ"
    return f"differs in {len(off)} of {len(one.weights)} tensors, by up to {worst:.3g}; journals {journals}"


Stage = Callable[[Ground], None]
