"""A search as its files tell of it: its definition, its folder, its trials; readable at any moment by anybody.

searches/<id>/search.json                  the definition, whose digest is the id
searches/<id>/trials/0007/point.json       published with its folder, whole, before training begins
searches/<id>/trials/0007/rungs/000003.json   the value after 3 epochs, written once (``jobs.search.next_trial``)
runs/<task id>/                            the trial's own run: metrics log, checkpoint, model, record
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from jobs import metrics_log
from jobs.attempt import live, newest, numbers
from jobs.metrics import metric_of
from jobs.metrics_log import EpochMetrics
from jobs.models import Recipe, read_recipe
from jobs.plugins import STOPPING
from jobs.search.across import ARCHITECTURE, space_of
from jobs.search.space import Point, Space
from jobs.search.stopping import Rule, read_rule
from jobs.settings import ModelSettings, Value, values
from jobs.storage import Storage
from jobs.task import TASK, Record, Task, read_record
from jobs.units import Unit
from sharedfs.documents import decode_as, digest, read_as, read_json, write_json
from sharedfs.errors import DamagedFileError
from sharedfs.files import plain_folder
from sharedfs.typed_json import Json, decode

SEARCH = "search.json"
Plumbing = dict[str, dict[str, Json]]  # of a search of several architectures, by their names
METRIC = "validation_balanced_accuracy"  # what a search is judged by where it does not say; ``jobs.metrics.searchable``


def score(metric: str, value: float | None) -> float:
    """A value of a metric such as ``validation_loss``, turned so that larger is better; none is worse than any."""
    return -math.inf if value is None else metric_of(metric).sign * value


def best_so_far(metric: str, values: Iterable[float | None]) -> Iterator[float | None]:
    """For each value the best of those up to it; None until there is one."""
    best, sign = None, metric_of(metric).sign
    for value in values:
        best = max(best, value, key=lambda candidate: -math.inf if candidate is None else sign * candidate)
        yield best


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a search is: neither how many trials it has nor how many run at once.

    ``space`` is checked and in its settings' types, ``settings`` are the fixed ones that decide a result, ``plugins``
    the plugins that it is made with, if any, ``startup`` the trials before its algorithm proposes, where it is not the
    baseline, ``points`` those that are tried first, ``continues`` the id of the search whose trials are history here.
    ``across`` has the fixed settings of each architecture where several are searched: then ``settings`` is empty, and
    ``architecture`` their names together.
    """

    architecture: str
    dataset: str
    algorithm: str
    metric: str
    space: Mapping[str, Json]
    stopping: Mapping[str, Mapping[str, Value]] | None
    seed: int
    settings: Mapping[str, Json]
    plugins: Mapping[str, str | int] | None = None
    startup: int | None = None
    points: Sequence[Mapping[str, Value]] | None = None
    continues: str | None = None
    across: Mapping[str, Mapping[str, Json]] | None = None

    @property
    def architectures(self) -> tuple[str, ...]:
        """The names of those that are searched."""
        return (self.architecture,) if self.across is None else tuple(sorted(self.across))

    @property
    def document(self) -> dict[str, Json]:
        """The definition as it is stored, in its trials' tasks and in search.json."""
        document = {name: getattr(self, name) for name in self.__slots__}
        for name in (
            "plugins",
            "startup",
            "points",
            "continues",
            "across",
        ):  # as in every definition before there were any
            if document[name] is None:
                del document[name]
        return document

    @property
    def id(self) -> str:
        """A digest of the document."""
        return digest(self.document)

    @property
    def units(self) -> tuple[Unit, ...]:
        """The code that decides which points are tried, and how far."""
        return (Unit("algorithm", self.algorithm), *(Unit("stopping", name) for name in self.stopping or ()))


def read_definition(document: Json, where: object) -> Definition:
    """A stored definition; raises DamagedFileError naming ``where`` it was."""
    return decode_as(Definition, document, where, "a search")


def study_of(storage: Storage, task: Task) -> Study:
    """The search of a trial's task; raises DamagedFileError for one whose settings are no search."""
    return Study(storage, read_definition(task.settings.get("search"), storage.run(task.id) / TASK))


@dataclass(frozen=True, slots=True)
class Study:
    """A search's definition, as in its trials' tasks, and its folder on a storage."""

    storage: Storage
    definition: Definition

    @property
    def id(self) -> str:
        """The definition's."""
        return self.definition.id

    @property
    def folder(self) -> Path:
        """``searches/<id>`` of the storage."""
        return self.storage.search(self.id)

    def trial(self, number: int) -> Path:
        """A trial's folder within the search."""
        return self.folder / "trials" / f"{number:04d}"

    def numbers(self) -> list[int]:
        """The numbers of all trials that have a point, in order."""
        try:
            return sorted(int(trial.name) for trial in (self.folder / "trials").iterdir() if trial.name.isdigit())
        except FileNotFoundError:
            return []

    def task(self, number: int) -> Task:
        """The task that is a trial, as a plan makes it."""
        return Task(
            stage="trial",
            settings={"search": self.definition.document, "number": number},
            needs=(self.definition.dataset,),
        )

    def submitted_count(self) -> int:
        """How many trials have been submitted; their tasks are written before any of them starts."""
        number = 0
        while (self.storage.run(self.task(number).id) / TASK).exists():
            number += 1
        return number

    def space(self) -> Space:
        """The space to draw from."""
        return space_of(self.definition.space, self.definition.architectures)

    def recipe(self, point: Mapping[str, Json], plumbing: Mapping[str, Json] = MappingProxyType({})) -> Recipe:
        """What a point trains by; ``plumbing`` are settings that are part of no id, of several architectures by name.

        Raises DamagedFileError for a point whose architecture the search does not have.
        """
        architecture, fixed = self.definition.architecture, self.definition.settings
        if self.definition.across is not None:
            architecture = str(point.get(ARCHITECTURE))
            if architecture not in self.definition.across:
                raise DamagedFileError(f"{self.folder}: a point of {architecture}, which the search does not have")
            fixed, plumbing = self.definition.across[architecture], decode(Plumbing, plumbing).get(architecture, {})
        given: dict[str, Json] = {**plumbing, **fixed, **point}
        whose: dict[str, Json] = {"architecture": architecture, "dataset": self.definition.dataset}
        if self.definition.plugins is not None:
            whose["plugins"] = self.definition.plugins
        return read_recipe(given | whose, self.folder)

    def stopping(self) -> Rule | None:
        """The stopping rule, or None."""
        return read_rule(self.definition.stopping, self.folder / SEARCH)

    def score(self, value: float | None) -> float:
        """A value of the search's metric, turned so that larger is better; none is worse than any."""
        return score(self.definition.metric, value)

    def write(self) -> None:
        """Write search.json, unless it is there."""
        path = self.folder / SEARCH
        if not path.exists():
            plain_folder(plain_folder(self.folder) / "trials")
            write_json(path, self.definition.document)


def open_study(storage: Storage, search_id: str) -> Study:
    """A search that at least one trial has begun; raises FileNotFoundError, or ValueError for a damaged one."""
    path = storage.search(search_id) / SEARCH
    study = Study(storage, read_definition(read_json(path), path))
    if study.id != search_id:
        raise DamagedFileError(f"{path}: its content digests to {study.id}, not to {search_id}")
    return study


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial that has a point.

    ``state``: running; paused (saved, waits to be started again); lost (its newest attempt is stale, and
    has no end); stopped early; done; failed, with its ``cause``. A stopped trial that is being continued is running,
    paused or lost, although it has a record. ``value`` is that of the search's metric, the best epoch's or the
    last one's as ``keep`` says; ``folder`` is the run's, with metrics log and model.
    """

    number: int
    task: str
    folder: Path
    point: Point
    draws: Mapping[str, float]
    state: str
    cause: str | None = None
    message: str | None = None
    value: float | None
    epochs: int
    epochs_asked: int

    @property
    def over(self) -> bool:
        """Whether its result is there; a stopped trial may still be continued."""
        return self.state in ("stopped", "done", "failed")


def read_trials(study: Study) -> list[Trial]:
    """Every trial that has a point, in the order of their numbers."""
    return [read_trial(study, number) for number in study.numbers()]


def read_trial(study: Study, number: int) -> Trial:
    """One trial that has a point; raises FileNotFoundError when it has none."""
    proposal = read_point(study, number)
    folder = study.storage.run(proposal.task)
    recipe = study.recipe(proposal.point)
    settings = recipe.settings
    every = {ARCHITECTURE: recipe.architecture, **values(settings)}
    record = _read_sound_record(folder)
    continued = continuation(folder, record)
    value, epochs = _progress_of(study, folder, None if continued else record, settings)
    return Trial(
        number=number,
        task=proposal.task,
        folder=folder,
        point={name: every[name] for name in proposal.point},
        draws=proposal.draws,
        state=continued or _state(folder, record),
        cause=record.cause if record else None,
        message=record.message if record else None,
        value=value,
        epochs=epochs,
        epochs_asked=int(getattr(settings, "epochs", 1)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A trial's point.json: the point that was proposed, the draws that it stands for, the task that trains it."""

    number: int
    task: str
    point: Mapping[str, Json]
    draws: Mapping[str, int | float]
    proposed: float = 0.0
    proposing_s: float = 0.0


def read_point(study: Study, number: int) -> Proposal:
    """What was proposed for a trial; raises FileNotFoundError, or ValueError naming a damaged file."""
    return read_as(Proposal, study.trial(number) / "point.json", "a trial's point")


def _progress_of(
    study: Study, folder: Path, record: Record | None, settings: ModelSettings
) -> tuple[float | None, int]:
    """Value and epochs so far: from the record of a trial that succeeded, else from its metrics log."""
    if record is not None and "value" in record.result:
        return record.figure("value"), int(record.figure("epochs_run") or 0)
    lines = metrics_log.read(folder)
    return value_of(study, lines, settings), len(lines)


def value_of(study: Study, lines: Iterable[EpochMetrics], settings: ModelSettings) -> float | None:
    """The search's metric after some epochs: the last one's under ``keep: last``, else the best so far."""
    values = [metrics_log.figure(line, study.definition.metric) for line in lines]
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    return finite[-1] if getattr(settings, "keep", "best") == "last" else max(finite, key=study.score)


def continuation(folder: Path, record: Record | None) -> str | None:
    """How an attempt that continues a stopped trial past its record stands: running, paused or lost.

    None where there is no such attempt, and where it failed: then the record holds.
    """
    # First what is cheap: most records name no rule, and the rules are found by listing a folder.
    stopped = None if record is None else record.result.get("stopped")
    if record is None or stopped is None or stopped not in STOPPING.names():
        return None
    attempts = numbers(folder)
    if not attempts or attempts[-1] <= record.attempt:
        return None
    if live(folder):
        return "running"
    attempt = newest(folder)
    return {None: "lost", "paused": "paused"}.get(attempt.state) if attempt else "lost"


def is_continued(folder: Path) -> bool:
    """Whether an attempt continues a stopped trial past its record, or did until it was cut short."""
    try:
        return continuation(folder, read_record(folder)) is not None
    except DamagedFileError:  # there is no record to continue from
        return False


def _read_sound_record(folder: Path) -> Record | None:
    try:
        return read_record(folder)
    except DamagedFileError:  # the run counts as one without a record, and is trained on from its checkpoint
        return None


def _state(folder: Path, record: Record | None) -> str:
    if record is not None:
        if record.state == "failed":
            return "failed"
        return "stopped" if record.result.get("stopped") in STOPPING.names() else "done"
    if live(folder):
        return "running"
    attempt = newest(folder)
    return "paused" if attempt is not None and attempt.state == "paused" else "lost"
