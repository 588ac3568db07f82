"""A search as it lies on storage: its definition, its folder, what has been observed.

searches/<id>/search.json                  the definition, whose digest is the id
searches/<id>/trials/0007/point.json       published with its folder, whole, before training begins
searches/<id>/trials/0007/rungs/000003.json   the value after 3 epochs, written once
runs/<task id>/                            the trial's own run: journal, checkpoint, model, record
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import models
from jobs.errors import DamagedFileError
from jobs.search.space import Space, read_space
from jobs.search.stopping import Rule, read_stopping
from jobs.settings import resolve
from jobs.storage import Storage, digest, plain_folder, read_json, write_json
from jobs.task import Task

METRICS = ("validation_balanced_accuracy", "validation_accuracy", "validation_loss")
"""What a search may be judged by: never by the test split."""


# What an algorithm is told of the trials before.


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A trial so far: its draws and its loss (smaller is better).

    ``loss`` is None while the trial runs, and infinite when it failed because of its settings.
    """

    draws: Mapping[str, float]
    loss: float | None


@dataclass(frozen=True, slots=True)
class Study:
    """A search's definition, as in its trials' tasks, and its folder on a storage."""

    storage: Storage
    definition: Mapping[str, Any]

    @property
    def id(self) -> str:
        return digest(self.definition)

    @property
    def folder(self) -> Path:
        return self.storage.search(self.id)

    def trial(self, number: int) -> Path:
        """A trial's folder within the search."""
        return self.folder / "trials" / f"{number:04d}"

    def numbers(self) -> list[int]:
        """The numbers of all trials that have a point, in order."""
        try:
            return sorted(int(home.name) for home in (self.folder / "trials").iterdir() if home.name.isdigit())
        except FileNotFoundError:
            return []

    def task(self, number: int) -> Task:
        """The task that is a trial, as a plan makes it."""
        return Task(
            stage="trial",
            settings={"search": self.definition, "number": number},
            needs=(self.definition["dataset"],),
        )

    def submitted_count(self) -> int:
        """How many trials have been submitted: their tasks are written before any of them starts."""
        number = 0
        while (self.storage.run(self.task(number).id) / "task.json").exists():
            number += 1
        return number

    def space(self) -> Space:
        """The space to draw from."""
        return read_space(self.definition["space"], models.settings(self.definition["architecture"]))

    def settings(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Every setting that a point trains with, ``architecture`` and ``dataset`` among them."""
        architecture = self.definition["architecture"]
        values = resolve(models.settings(architecture), self.definition["settings"], point)
        return {"architecture": architecture, "dataset": self.definition["dataset"], **values}

    def stopping(self) -> tuple[Rule, dict[str, Any]] | None:
        """The stopping rule and its settings, or None."""
        return read_stopping(self.definition["stopping"])

    def score(self, value: float) -> float:
        """A value of the search's metric, turned so that larger is better."""
        return -value if str(self.definition["metric"]).endswith("loss") else value

    def write(self) -> None:
        """Write search.json, unless it is there."""
        path = self.folder / "search.json"
        if not path.exists():
            plain_folder(plain_folder(self.folder) / "trials")
            write_json(path, self.definition)


def open_study(storage: Storage, search_id: str) -> Study:
    """A search that at least one trial has begun; raises FileNotFoundError, or ValueError for a damaged one."""
    study = Study(storage, read_json(storage.search(search_id) / "search.json"))
    if study.id != search_id:
        raise DamagedFileError(
            f"{study.storage.search(search_id)}/search.json: its content digests to {study.id}, not to {search_id}"
        )
    return study
