"""What a plan and its storage hold as pandas data frames: what the methods of ``pipeline.experiment`` return.

A column has the same type whatever its rows hold: ``str``, ``bool``, ``int64``, ``float64`` (NaN where there is no
value), ``Int64`` and ``boolean`` (whole numbers and truth values that may be missing), ``object`` for tuples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import get_type_hints

import pandas

from jobs import gpu_use
from jobs.metrics_log import EpochMetrics
from jobs.search.study import open_study, read_trials
from jobs.storage import Storage
from pipeline.decisions.task_state import TaskState
from pipeline.plan import Plan, Planned, PlannedSearch, Row
from pipeline.report import results_csv
from pipeline.report.collect import Collected, Result
from pipeline.state_words import progress_words
from sharedfs.errors import DamagedFileError

_OF_TASK = {
    "id": "str", "stage": "str", "group": "str", "run": "str", "seed": "Int64", "architecture": "str",
}  # fmt: skip
_PLAN = {
    **_OF_TASK, "done": "bool", "changed": "object", "cpus": "int64", "gpus": "int64", "mem_gb": "float64",
    "time_min": "int64", "throttle": "Int64", "pack": "int64",
}  # fmt: skip
_STATUS = {
    **_OF_TASK, "state": "str", "cause": "str", "message": "str", "reason": "str", "progress": "str",
    "attempts": "int64", "gpu_hours": "float64", "peak_mem_gb": "float64", "waited_s": "float64", "job": "str",
    "node": "str", "executor": "str", "queued": "bool", "shown": "bool", "changed": "object",
    **dict.fromkeys(gpu_use.FIGURES, "float64"),
}  # fmt: skip
_PREDICTIONS = ("row", "label", "predicted", "reliable")
_TRIALS = {
    "number": "int64", "id": "str", "state": "str", "cause": "str", "value": "float64", "epochs_run": "int64",
}  # fmt: skip
_RUN = {"group": "str", "run": "str", "seed": "int64", "id": "str"}
# Columns of results.csv that may be empty to the last row.
_RESULTS = {
    **_RUN, "architecture": "str", "state": "str", "cause": "str", "best_epoch": "Int64", "parameters": "Int64",
    "epochs_run": "Int64", "git_commit": "str", **dict.fromkeys(gpu_use.FIGURES, "float64"),
}  # fmt: skip
_WAITING = TaskState(id="", state="waiting")


def plan_frame(plan: Plan, done: Mapping[str, Sequence[str]]) -> pandas.DataFrame:
    """A row a task, with what it asks for; ``done`` as by ``pipeline.status.done_on_storage``."""
    rows = [
        {
            **_of_task(planned),
            "done": planned.id in done,
            "changed": tuple(done.get(planned.id, ())),
            **{name: getattr(planned.resources, name) for name in ("cpus", "gpus", "mem_gb", "time_min")},
            **{name: getattr(planned.resources, name) for name in ("throttle", "pack")},
        }
        for planned in plan.tasks
    ]
    return _frame(rows, _PLAN)


def status_frame(plan: Plan, states: Mapping[str, TaskState]) -> pandas.DataFrame:
    """A row a task, with its state."""
    rows = []
    for planned in plan.tasks:
        state = states.get(planned.id, _WAITING)
        values = {
            name: getattr(state, name) for name in _STATUS if name not in _OF_TASK and name not in gpu_use.FIGURES
        }
        progress = None if state.progress is None else progress_words(state.progress)
        rows.append({**_of_task(planned), **values, "progress": progress, **gpu_use.figures(state.gpu)})
    return _frame(rows, _STATUS)


def _of_task(planned: Planned) -> dict[str, object]:
    return {name: getattr(planned, name) for name in _OF_TASK}


def results_frame(collected: Collected) -> pandas.DataFrame:
    """A row a run, with the columns of results.csv; figures are not rounded, lists are tuples."""
    columns = results_csv.columns(collected)
    return pandas.DataFrame({name: _series(values, _RESULTS.get(name)) for name, values in columns.items()})


def epochs_frame(runs: Iterable[tuple[Row | Planned, str | None, Sequence[EpochMetrics]]]) -> pandas.DataFrame:
    """A row an epoch of each run: what it is called, the id of its training, its metrics log."""
    kinds = _RUN | {name: "int64" if kind is int else "float64" for name, kind in get_type_hints(EpochMetrics).items()}
    rows = [
        {"group": run.group, "run": run.run, "seed": run.seed, "id": id_, **line}
        for run, id_, epochs in runs
        for line in epochs
    ]
    return _frame(rows, kinds)


def predictions_frame(collected: Collected, result: Result, split: str) -> pandas.DataFrame:
    """A row a title of a split of a run that is done; raises DamagedFileError where its files cannot be read."""
    predictions, classes = collected.predictions(result, split), collected.classes(result)
    try:
        if predictions is None or not classes:
            raise ValueError("not readable")
        categories = pandas.Index(classes, dtype="str")
        columns = {
            "row": range(len(predictions.label)),
            "label": pandas.Categorical.from_codes(predictions.label, categories),
            "predicted": pandas.Categorical.from_codes(predictions.predicted, categories),
            "reliable": predictions.reliable.astype(bool),
        }
        return pandas.DataFrame(columns, columns=list(_PREDICTIONS))
    except ValueError as error:
        folder = collected.storage.run(result.row.evaluate)
        raise DamagedFileError(f"{folder}: no evaluation with the predictions of {split}: {error}") from error


def trials_frame(storage: Storage, planned: PlannedSearch) -> pandas.DataFrame:
    """A row a trial of a search, in order; raises DamagedFileError."""
    try:
        trials = {trial.number: trial for trial in read_trials(open_study(storage, planned.id))}
    except FileNotFoundError:  # none has begun
        trials = {}
    names = dict.fromkeys(name for trial in trials.values() for name in trial.point)
    rows: list[dict[str, object]] = []
    for number, id_ in enumerate(planned.trials):
        trial = trials.get(number)
        facts = {name: getattr(trial, name, None) for name in ("cause", "value")}
        state, epochs = (trial.state, trial.epochs) if trial else (_WAITING.state, 0)
        rows.append({"number": number, "id": id_, "state": state, **facts, "epochs_run": epochs})
    frame = _frame(rows, _TRIALS)
    for name in names or sorted(planned.search.searched):
        points = [trials[number].point if number in trials else {} for number in range(len(rows))]
        frame[name] = _series([point.get(name) for point in points])
    return frame


def _frame(rows: Sequence[Mapping[str, object]], kinds: Mapping[str, str]) -> pandas.DataFrame:
    return pandas.DataFrame({name: _series([row.get(name) for row in rows], kind) for name, kind in kinds.items()})


def _series(values: Iterable[object], kind: str | None = None) -> pandas.Series:
    """A column of this type; of none, of the one that fits the Python types of its values."""
    items = [tuple(value) if isinstance(value, list) else value for value in values]
    return pandas.Series(items, dtype=kind or _kind(items))


def _kind(values: Sequence[object]) -> str:
    found = {type(value) for value in values if value is not None}
    if found <= {int, float} and found != {int}:
        return "float64"
    return {bool: "boolean", int: "Int64", str: "str"}.get(found.pop(), "object") if len(found) == 1 else "object"
