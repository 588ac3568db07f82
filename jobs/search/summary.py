"""What came of a search: the ranking of its trials, its winner, how it stands as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.context import TaskFailedError
from jobs.models import Recipe
from jobs.search.study import Study, Trial, continuation, open_study, read_trials
from jobs.storage import Storage
from jobs.task import read_record
from sharedfs.errors import DamagedFileError, InputError
from sharedfs.typed_json import Json


class NoWinnerError(TaskFailedError, InputError):
    """A search has no trial of the requested rank: a task that needs it ends as ``upstream failed``."""

    def __init__(self, message: str) -> None:
        super().__init__("upstream failed", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a search stands; ``best`` is the leading trial by the metric, running ones included.

    ``epochs_saved`` are those that stopped trials were asked for and did not run; ``states`` counts trials by state.
    """

    metric: str
    best: Trial | None
    states: Mapping[str, int]
    epochs_spent: int
    epochs_saved: int


def winner(storage: Storage, search_id: str, trials: int, rank: int = 1) -> Path:
    """The run folder of the trial of this rank by the validation metric, among the first so many trials.

    Raises NoWinnerError when fewer ended with a result, or while one of them has no record or is being continued:
    any might still win.
    """
    return _ranked(_open(storage, search_id), trials, rank).folder


def winner_recipe(storage: Storage, search_id: str, trials: int, plumbing: Mapping[str, Json]) -> Recipe:
    """What the winner was trained by, but for the plumbing: what a refit trains by."""
    study = _open(storage, search_id)
    return study.recipe(_ranked(study, trials, 1).point, plumbing)


def ranking(study: Study, trials: Iterable[Trial]) -> list[Trial]:
    """Trials with a value, the best first; of equals the earlier one."""
    scored = [(study.score(trial.value), trial) for trial in trials if trial.value is not None]
    return [trial for score, trial in sorted(scored, key=lambda pair: (-pair[0], pair[1].number))]


def summary(storage: Storage, search_id: str) -> Summary | None:
    """How a search stands, or None when no trial has started."""
    try:
        study = open_study(storage, search_id)
    except FileNotFoundError:
        return None
    trials = read_trials(study)
    ranked = ranking(study, [trial for trial in trials if trial.state != "failed"])
    states = Counter(trial.state for trial in trials)
    return Summary(
        metric=study.definition.metric,
        best=ranked[0] if ranked else None,
        states=dict(sorted(states.items())),
        epochs_spent=sum(trial.epochs for trial in trials),
        epochs_saved=sum(trial.epochs_asked - trial.epochs for trial in trials if trial.state == "stopped"),
    )


def _open(storage: Storage, search_id: str) -> Study:
    try:
        return open_study(storage, search_id)
    except FileNotFoundError as error:
        raise NoWinnerError(f"search {search_id}: no trial has started on {storage.root}") from error


def open_trials(study: Study, trials: int) -> list[int]:
    """The numbers, among so many trials, of those without a record or being continued: any of them may still win."""
    return [number for number in range(trials) if not _is_over(study, number)]


def _is_over(study: Study, number: int) -> bool:
    try:
        # By the task's own record, not the search's folder: one that failed before it had a point is over too.
        folder = study.storage.run(study.task(number).id)
        record = read_record(folder)
        return record is not None and continuation(folder, record) is None
    except DamagedFileError:  # as one without a record: it is trained on, and may still win
        return False


def _ranked(study: Study, trials: int, rank: int) -> Trial:
    unfinished = open_trials(study, trials)
    if unfinished:
        raise NoWinnerError(
            f"search {study.id}: {len(unfinished)} of {trials} trials have not ended "
            f"({', '.join(map(str, unfinished[:8]))}{', ..' if len(unfinished) > 8 else ''})"
        )
    considered = [trial for trial in read_trials(study) if trial.number < trials]
    candidates = ranking(study, [trial for trial in considered if trial.state in ("done", "stopped")])
    if len(candidates) < rank:
        failed = sum(trial.state == "failed" for trial in considered)
        raise NoWinnerError(
            f"search {study.id}: rank {rank} was asked for and {len(candidates)} of {trials} trials "
            f"ended with a result ({failed} failed)"
        )
    return candidates[rank - 1]
