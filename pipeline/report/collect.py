"""From a plan and what its tasks left on storage to one result per row: what every table and plot starts from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from jobs import gpu_use, metrics_log
from jobs.metrics_log import EpochMetrics
from jobs.models import deciding_names
from jobs.search.across import ARCHITECTURE
from jobs.search.importance import NOTHING, Importance, importance
from jobs.search.space import Point
from jobs.search.study import Study, read_point, study_of
from jobs.settings import Value, shown
from jobs.stages.evaluate import target
from jobs.storage import Storage
from jobs.task import Provenance, Record, Task, read_record
from jobs.units import Change, changes
from pipeline.decisions.task_state import TaskState
from pipeline.manifest.model import Manifest
from pipeline.plan import Plan, PlannedSearch, Row
from pipeline.report import records
from pipeline.report.ensembles import with_members_cost
from pipeline.report.records import RunKey, data_settings, run_key
from pipeline.report.seeds import SeedSpread
from pipeline.report.title_sets import TitleSet
from sharedfs.documents import ID_LENGTH
from sharedfs.files import read_tail
from sharedfs.typed_json import Json

Progress = Callable[[str, int, int], None]  # what is being done, how many of them are done, out of how many

BROKEN = "broken record"
LOG_LINES = 40
NOWHERE = Provenance()
_ID = re.compile(f"[0-9a-f]{{{ID_LENGTH}}}")
WAITING = TaskState(id="", state="waiting")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A row of the plan and its state; ``epochs`` are the lines of its metrics log, ``figures`` the final ones.

    ``id`` is the train task (a search's winner: its trial), None as long as no trial has won.
    """

    row: Row
    position: int  # among all rows of the plan: what its colour follows from
    id: str | None
    state: str
    cause: str | None
    message: str | None
    attempts: int
    settings: Mapping[str, Value]
    figures: Mapping[str, float]
    epochs: tuple[EpochMetrics, ...]
    gpu_hours: float | None
    git_commit: str | None
    gpu: gpu_use.GpuUse | None = None  # what the GPUs of both its tasks did
    fingerprint: str | None = None  # of the test titles
    started: float | None = None  # seconds since the epoch, as the training task's record has them
    ended: float | None = None
    about: Provenance = NOWHERE
    changed: tuple[Change, ...] = ()  # in what the code that made it was not what it is now

    @property
    def done(self) -> bool:
        return self.state == "done"

    @property
    def name(self) -> str:
        return self.row.run

    def reason(self) -> str | None:
        """Why there are no final figures: the cause of a failure, else the state; None when there are."""
        return None if self.done else (self.cause or self.state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial of a search: ``figures`` hold the searched metric once it is done."""

    id: str
    number: int
    state: str
    cause: str | None
    point: Point  # what it tries of the space; empty as long as nothing was proposed
    settings: Mapping[str, Value]
    figures: Mapping[str, float]
    epochs: tuple[EpochMetrics, ...]
    gpu_hours: float | None
    stopped: str | None
    started: float | None
    ended: float | None
    about: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """A search with its trials in order."""

    planned: PlannedSearch
    trials: tuple[Trial, ...]

    @property
    def name(self) -> str:
        return self.planned.search.name


@dataclass(kw_only=True)
class Collected:
    """All results of a manifest; evaluations are read when first asked for and kept, predictions never kept."""

    manifest: Manifest
    storage: Storage
    results: tuple[Result, ...]
    searches: tuple[SearchResult, ...]
    tasks: Mapping[str, int]  # how many tasks are in each state
    gpu: gpu_use.GpuUse | None = None  # what the GPUs of all of them did
    title_sets: dict[str, TitleSet] = field(default_factory=dict)  # by data set
    spreads: dict[tuple[str, str, str], SeedSpread | None] = field(default_factory=dict)  # architecture, titles, metric
    _evaluations: dict[str, Mapping[str, records.Split]] = field(default_factory=dict)
    _classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _importance: dict[str, Importance] = field(default_factory=dict)  # by search
    _class_caches: dict[str, records.ClassCache] = field(default_factory=dict)  # by data set

    @cached_property
    def _runs(self) -> str:
        return str(self.storage.runs)

    def evaluation(self, result: Result) -> Mapping[str, records.Split]:
        """Recall and support by split; empty where the run is not done or the file is broken."""
        key = result.row.evaluate
        if key not in self._evaluations:
            self._evaluations[key] = self._read_evaluation(result) if result.done else {}
        return self._evaluations[key]

    def _read_evaluation(self, result: Result) -> Mapping[str, records.Split]:
        try:
            cache = self._class_caches.setdefault(result.row.dataset, records.ClassCache())
            evaluation = records.read_evaluation(f"{self._runs}/{result.row.evaluate}", cache)
        except ValueError:
            return {}
        if evaluation is None:
            return {}
        classes, splits = evaluation
        # Hundreds of runs share a data set: its category names are kept once.
        self._classes.setdefault(result.row.dataset, classes)
        return splits

    def classes(self, result: Result) -> tuple[str, ...]:
        """The names of the categories of a result's data set; empty before any of its runs is evaluated."""
        self.evaluation(result)
        return self._classes.get(result.row.dataset, ())

    def predictions(self, result: Result, split: str) -> records.Predictions | None:
        classes = len(self.classes(result))
        if not result.done or not classes:
            return None
        return records.read_predictions(f"{self._runs}/{result.row.evaluate}", split, classes)

    def importance(self, search: SearchResult) -> Importance:
        """What share of its metric's variance each setting of a search explains; no shares with too few trials."""
        if search.planned.id not in self._importance:
            try:
                shares = importance(self.storage, search.planned.id)
            except ValueError:
                # A damaged file of a trial: the rest of the report stands without it.
                shares = NOTHING
            self._importance[search.planned.id] = shares
        return self._importance[search.planned.id]

    def log(self, result: Result) -> str:
        """The end of the log of the task that matters: the one that failed, else the one that trained."""
        return self._log_tail(result.id or result.row.evaluate) or self._log_tail(result.row.evaluate)

    def _log_tail(self, task_id: str) -> str:
        try:
            return read_tail(self.storage.log(task_id), LOG_LINES)
        except OSError:
            return ""

    def missing(self) -> int:
        """How many rows have no final figures yet."""
        return sum(not result.done for result in self.results)


def collect(plan: Plan, states: Mapping[str, TaskState], *, progress: Progress | None = None) -> Collected:
    """Read every row's records and metrics log; what is broken becomes a row that says so."""
    storage = Storage(plan.manifest.storage)
    counts = Counter(states.get(planned.id, WAITING).state for planned in plan.tasks)
    tasks = {planned.id: planned.task for planned in plan.tasks}
    searches = tuple(_search(planned, storage, states, tasks) for planned in plan.searches)
    trials = {trial.id: trial for search in searches for trial in search.trials}
    reader = _Reader(storage, states, trials, tasks, data_settings(plan.manifest), str(storage.runs))
    results = []
    for position, row in enumerate(plan.rows):
        results.append(reader.read(row, position))
        if progress and (position + 1) % 100 == 0:
            progress("collect", position + 1, len(plan.rows))
    gpu, rows = gpu_use.total(state.gpu for state in states.values()), with_members_cost(results, searches)
    return Collected(manifest=plan.manifest, storage=storage, results=rows, searches=searches, tasks=counts, gpu=gpu)


@dataclass(slots=True)
class _Part:
    """One task of a row: its state, and what its record says when it is done."""

    state: str
    cause: str | None
    message: str | None
    result: Mapping[str, Json] = field(default_factory=dict)
    about: Provenance = NOWHERE
    started: float | None = None
    ended: float | None = None
    changed: tuple[Change, ...] = ()


@dataclass(slots=True)
class _Reader:
    """Reads one row at a time."""

    storage: Storage
    states: Mapping[str, TaskState]
    trials: Mapping[str, Trial]
    tasks: Mapping[str, Task]
    data: Mapping[RunKey, Mapping[str, Value]]
    runs: str  # the folder of all runs, as text: pathlib counts with thousands
    datasets: dict[str, _Part] = field(default_factory=dict)  # thousands of rows share one

    def read(self, row: Row, position: int) -> Result:
        evaluate = self.part(row.evaluate)
        train_id = row.train or self._winner(row, evaluate)
        row = records.decided(row, f"{self.runs}/{train_id}")
        train = self.part(train_id) if train_id else None
        settings, epochs = self._training(row, train_id)
        deciding = _deciding_task(train, evaluate)
        # Half a row would be worse than none: what was evaluated counts once both tasks are done.
        figures = records.figures(train.result) if train and train.state == "done" else {}
        figures |= records.figures(evaluate.result) if deciding.state == "done" else {}
        if row.dataset not in self.datasets:
            self.datasets[row.dataset] = self.part(row.dataset)
        changed = (*self.datasets[row.dataset].changed, *(train.changed if train else ()), *evaluate.changed)
        return Result(
            row=row,
            position=position,
            id=train_id,
            state=deciding.state,
            cause=deciding.cause,
            message=deciding.message,
            attempts=max(self._state(task).attempts for task in (train_id, row.evaluate)),
            settings={**settings, **self.data.get(run_key(row), {})},
            figures=figures,
            epochs=epochs,
            gpu_hours=_sum(self._state(task).gpu_hours for task in (train_id, row.evaluate)),
            gpu=gpu_use.total(self._state(task).gpu for task in (train_id, row.evaluate)),
            fingerprint=records.fingerprint(evaluate.result) if deciding.state == "done" else None,
            git_commit=(train.about.git_commit if train else None) or evaluate.about.git_commit,
            started=train.started if train else None,
            ended=train.ended if train else None,
            about=train.about if train else NOWHERE,
            changed=tuple(dict.fromkeys(changed)) if changed else (),
        )

    def _winner(self, row: Row, evaluate: _Part) -> str | None:
        """The trial that a search's row turned out to be, once it is evaluated."""
        if row.search is None or evaluate.state != "done":
            return None
        named = evaluate.result.get("train")
        if isinstance(named, str) and _ID.fullmatch(named):  # it becomes a path, and shell text on the run's page
            return named
        try:
            return target(self.storage, self.tasks[row.evaluate]).name
        except (OSError, ValueError):
            return None

    def _training(self, row: Row, train_id: str | None) -> tuple[Mapping[str, Value], tuple[EpochMetrics, ...]]:
        """What decides a row's training, as far as it is known, and its epochs."""
        names = deciding_names(type(row.settings))
        texts = shown(row.settings)
        settings: dict[str, Value] = {} if row.across else {name: texts[name] for name in names}
        for name in row.searched:
            settings.pop(name, None)
        trial = self.trials.get(train_id or "")
        if trial is not None:
            return settings | {name: value for name, value in trial.settings.items() if name in names}, trial.epochs
        if train_id is None:
            return settings, ()
        if row.search is not None:
            # A refit has its own seed, takes its search's winner's settings, and says which they were when it begins.
            own = {"seed": row.seed} if "seed" in settings else {}
            settings |= own | {
                name: value
                for name, value in records.settings_written(f"{self.runs}/{train_id}").items()
                if name in names
            }
        return settings, tuple(metrics_log.read(f"{self.runs}/{train_id}"))

    def _state(self, task_id: str | None) -> TaskState:
        return self.states.get(task_id, WAITING) if task_id else WAITING

    def part(self, task_id: str) -> _Part:
        return _part(self.storage, task_id, self._state(task_id), self.runs)


def _part(storage: Storage, task_id: str, state: TaskState, runs: str | None = None) -> _Part:
    """A task according to its record; ``state`` stands where a record doesn't contradict it."""
    part = _Part(state.state, state.cause, state.message)
    try:
        record = read_record(f"{runs or storage.runs}/{task_id}")
    except ValueError as error:
        return _Part("failed", BROKEN, str(error))
    if record is None or (record.state == "failed" and state.state != "failed"):
        # A failed record of an attempt that is being tried again says nothing of this one.
        return _Part("lost", None, "its record is gone") if state.state == "done" else part
    if record.state == "failed":
        cause = record.cause or state.cause
        return _from_record("failed", cause, record.message, record)
    if state.state != "done" and not _whole(storage, record.files):
        return part
    # Done since the states were taken, or known to be done.
    return _from_record("done", None, None, record)


def _from_record(state: str, cause: str | None, message: str | None, record: Record) -> _Part:
    facts = (record.result, record.about, record.started, record.ended, changes(record.made))
    return _Part(state, cause, message, *facts)


def _whole(storage: Storage, files: Mapping[str, int]) -> bool:
    try:
        return all((storage.root / name).stat().st_size == size for name, size in files.items())
    except OSError:
        return False


def _deciding_task(train: _Part | None, evaluate: _Part) -> _Part:
    """Which of a row's two tasks decides its state: the training until it is done, then the evaluation."""
    if train is not None and train.state != "done":
        return train
    waits = train is not None and evaluate.state == "waiting"
    return _Part("running", None, None) if waits else evaluate


def _sum(values: Iterator[float | None]) -> float | None:
    return sum(known) if (known := [value for value in values if value is not None]) else None


def _search(
    planned: PlannedSearch, storage: Storage, states: Mapping[str, TaskState], tasks: Mapping[str, Task]
) -> SearchResult:
    study = study_of(storage, tasks[planned.trials[0]])
    trials = tuple(
        _trial(planned, number, task_id, study, states.get(task_id, WAITING))
        for number, task_id in enumerate(planned.trials)
    )
    return SearchResult(planned=planned, trials=trials)


def _trial(planned: PlannedSearch, number: int, task_id: str, study: Study, state: TaskState) -> Trial:
    storage, search = study.storage, planned.search
    part, point = _part(storage, task_id, state), _point(study, number)
    figures = records.figures(part.result)
    if "value" in figures:
        figures[search.metric] = figures["value"]
    stopped = part.result.get("stopped")
    of = search.fixed.get(str(point.get(ARCHITECTURE, search.architecture)))  # none before a point says which
    fixed = {} if of is None else {name: value for name, value in shown(of.settings).items() if name not in of.searched}
    return Trial(
        id=task_id,
        number=number,
        state=part.state,
        cause=part.cause,
        point=point,
        settings={**fixed, **point},
        figures=figures,
        epochs=tuple(metrics_log.read(f"{storage.runs}/{task_id}")),
        gpu_hours=state.gpu_hours,
        stopped=stopped if isinstance(stopped, str) else None,
        started=part.started,
        ended=part.ended,
        about=part.about,
    )


def _point(study: Study, number: int) -> Point:
    """What a trial tries; empty as long as nothing was proposed."""
    try:
        point = read_point(study, number).point
        recipe = study.recipe(point)
    except (OSError, ValueError):
        return {}
    settings = {ARCHITECTURE: recipe.architecture, **shown(recipe.settings)}
    return {name: settings[name] for name in point}
