"""What a search's element trains next: a point that the algorithm proposes, or a stopped trial promoted since."""

from __future__ import annotations

import math
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jobs.attempt import live, newest, numbers
from jobs.metrics_log import EpochMetrics
from jobs.plugins import ALGORITHMS
from jobs.search.algorithms import Observation
from jobs.search.space import Draws, Point
from jobs.search.study import Proposal, Study, Trial, read_trial, read_trials, value_of
from jobs.settings import ModelSettings
from sharedfs.documents import digest, read_as, write_json
from sharedfs.files import plain_folder, publish_folder

SETTING_FAILURES = ("diverged", "at chance", "out of memory", "GPU out of memory")
"""Failures that tell something of the settings; the others tell of the cluster and are left out."""

MAX_REDRAWS = 20


# The next point of a search: chosen from the other trials' files, and written to storage before training begins.


def claim_point(study: Study, number: int) -> Point:
    """The point of a trial: the stored one, or a new one, published with the trial's folder.

    Of any number of claimants of one number the first to publish decides, and all get its point.
    """
    folder = study.trial(number)
    if not folder.exists():
        study.write()
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        try:
            write_json(temporary / "point.json", _propose_point(study, number))
            publish_folder(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # there where another was first, or proposing failed
    return read_trial(study, number).point


def observations_of(study: Study, trials: Iterable[Trial]) -> list[Observation]:
    """What an algorithm learns from: results, running trials without one, failures caused by the settings.

    A lost trial counts with the epochs it had, or not at all: it may never come back. The value at which a trial was
    stopped is not that of its last epoch: where any was, losses are ranks, those that were trained to the end first,
    then the stopped ones, of which the one that got further is the better (as Optuna ranks pruned trials). An algorithm
    of densities asks for the order alone.
    """
    trials = list(trials)
    ranks = _ranks(study, trials)
    observations = []
    for trial in trials:
        if trial.state in ("running", "paused"):
            observations.append(Observation(draws=trial.draws, loss=None))
        elif trial.state == "failed":
            if trial.cause in SETTING_FAILURES:
                observations.append(Observation(draws=trial.draws, loss=math.inf))
        elif trial.value is not None:
            loss = ranks.get(trial.number, -study.score(trial.value))
            observations.append(Observation(draws=trial.draws, loss=loss))
    return observations


def _ranks(study: Study, trials: Iterable[Trial]) -> dict[int, float]:
    """The places of trials with a value, by number, the best first; empty where none was stopped early."""
    scored = [
        trial for trial in trials if trial.state not in ("running", "paused", "failed") and trial.value is not None
    ]
    if not any(trial.state == "stopped" for trial in scored):
        return {}

    def key(trial: Trial) -> tuple[float, float, int]:
        unfinished = trial.epochs_asked - trial.epochs if trial.state in ("stopped", "lost") else 0
        return unfinished, -study.score(trial.value), trial.number

    return {trial.number: float(place) for place, trial in enumerate(sorted(scored, key=key))}


def propose(study: Study, number: int, trials: Iterable[Trial]) -> tuple[Draws, Point]:
    """The draws and the point of a trial, given the others: the same for the same history.

    A point that another trial already has is drawn again while the space has others to offer.
    """
    others = [trial for trial in trials if trial.number != number]
    algorithm, space = ALGORITHMS.load(study.definition.algorithm), study.space()
    observations = observations_of(study, others)
    taken = [trial.point for trial in others]
    given = {} if study.definition.startup is None else {"startup": study.definition.startup}
    for turn in range(MAX_REDRAWS):
        draws = algorithm.propose(space, observations, seed_of(study, number, turn), **given)
        point = space.point(draws)
        if point not in taken:
            break
    return draws, point


def seed_of(study: Study, number: int, turn: int) -> int:
    """A trial's own 32-bit seed: equal histories would otherwise give parallel workers equal points.

    It does not know the data set: the same search over other test titles has the same points, so that what they change
    can be shown.
    """
    search = {name: value for name, value in study.definition.document.items() if name != "dataset"}
    return int(digest({"search": search, "number": number, "turn": turn}), 16) % 2**32


def _propose_point(study: Study, number: int) -> Proposal:
    began = time.monotonic()
    draws, point = propose(study, number, read_trials(study))
    return Proposal(
        number=number,
        task=study.task(number).id,
        draws=draws,
        point=point,
        proposed=time.time(),
        proposing_s=round(time.monotonic() - began, 4),
    )


# Which trials train on past a rung, and which stopped ones are continued later. The protocol, whole:
#
# - There is no server: all that a search's elements share is the storage. At a rung, the epochs that the stopping rule
#   names, a trial writes its value to ``trials/<number>/rungs/<epochs>.json``. It is written once, by the trial alone,
#   and never changed, as other trials have been judged against it. Then the trial reads all values of that rung and
#   asks the rule whether it is among those promoted. If not, it ends as done, ``stopped`` by the rule, and keeps its
#   checkpoint.
# - As worse trials reach the rung later, a stopped trial can rise into the promoted share. So each element, once its
#   own trial is done, looks for such trials and continues them in their own run folders until there is none: the last
#   element to finish sees every value, and therefore leaves none behind.
# - To continue a trial is to begin its run's next attempt, which exactly one process can (``jobs.attempt``); its
#   start.json says ``by`` which task. Two elements may choose the same trial: one begins it, the other looks again.
# - The trial's record stays until that attempt writes one of its own: done, stopped at a further rung, or failed by
#   the settings' own fault. Until then the trial counts as running, paused or lost (``jobs.search.study``); an attempt
#   that failed for any other reason leaves it stopped, as it was. So there is always exactly one result a trial.
# - A continuation that was cut short belongs to the task that began it, or to the trial's own: no other would know
#   whether that one is about to start again.
#
# The cost is a read of one small file a trial at each rung, and of all trials' records after each trial.


class StopAtRung:
    """Asked after every epoch of one trial; ``stopped`` is then the rule that ended it, or None."""

    def __init__(self, study: Study, number: int, settings: ModelSettings) -> None:
        self._study, self._number, self._settings = study, number, settings
        self._stopping = study.stopping()
        self.stopped: str | None = None

    def __call__(self, lines: Sequence[EpochMetrics]) -> str | None:
        """What to do after these epochs of a metrics log: "stop", or None to train on."""
        if self._stopping is None or not lines:
            return None
        epochs = lines[-1]["epoch"]
        if epochs not in self._stopping.milestones(int(getattr(self._settings, "epochs", 1))):
            return None
        _write_rung(self._study, self._number, epochs, value_of(self._study, lines, self._settings))
        if Rungs(self._study).continues(self._number, epochs):
            return None
        ((self.stopped, _),) = (self._study.definition.stopping or {}).items()
        return "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class RungValue:
    """A file in a trial's rungs/: the value of the search's metric after so many epochs."""

    epochs: int
    value: float | None


class Rungs:
    """The values at a search's rungs and what its rule makes of them; every file is read at most once."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._stopping = study.stopping()
        self._promoted: dict[tuple[int, bool], set[int]] = {}
        self._rungs: dict[int, dict[int, float]] = {}

    @cached_property
    def trials(self) -> list[Trial]:
        """Every trial that has a point, in the order of their numbers."""
        return read_trials(self._study)

    def continues(self, number: int, epochs: int) -> bool:
        """Whether a trial that reached a rung trains on past it."""
        if self._stopping is None:
            return True
        if number in self._promoted_at(epochs, final=False):
            return True
        # The state of all trials is read only where it would make a difference.
        return number in self._promoted_at(epochs, final=True) and self._all_over(but=number)

    def _promoted_at(self, epochs: int, *, final: bool) -> set[int]:
        assert self._stopping is not None
        if epochs not in self._rungs:
            self._rungs[epochs] = rung(self._study, epochs)
        if (epochs, final) not in self._promoted:
            self._promoted[epochs, final] = self._stopping.promoted(self._rungs[epochs], final=final)
        return self._promoted[epochs, final]

    def _all_over(self, but: int) -> bool:
        """Whether every trial submitted has its result, one left out."""
        over = {trial.number for trial in self.trials if trial.over} | {but}
        return all(number in over for number in range(max(self._study.submitted_count(), len(self.trials))))


def rung(study: Study, epochs: int) -> dict[int, float]:
    """The scores (larger is better) of all trials that reached a rung, by their numbers."""
    scores = {}
    for number in study.numbers():
        try:
            reached = _read_rung(_rung_file(study, number, epochs))
        except FileNotFoundError:
            continue
        scores[number] = study.score(reached.value)
    return scores


def next_promotable(study: Study, task_id: str) -> tuple[Trial, int] | None:
    """A trial for this task's process to continue, and its newest attempt's number.

    Either stopped and promoted by now, or continued before and cut short, by this same task's process or as this
    task's own trial. The furthest come first; one whose continuation failed comes last, so that it does not stand in
    the way of the others.
    """
    if study.stopping() is None:
        return None
    rungs = Rungs(study)
    candidates = [trial for trial in rungs.trials if _is_continuable(rungs, trial, task_id)]
    for trial in sorted(candidates, key=lambda trial: (_has_failed(trial), -trial.epochs, trial.number)):
        # Read again, after its attempts: whoever has taken it over since has begun a newer one.
        attempts = numbers(trial.folder)
        again = read_trial(study, trial.number)
        if attempts and again.epochs == trial.epochs and _is_continuable(rungs, again, task_id):
            return again, attempts[-1]
    return None


def _has_failed(trial: Trial) -> bool:
    attempt = newest(trial.folder)
    return attempt is not None and attempt.state == "failed"


def _is_continuable(rungs: Rungs, trial: Trial, task_id: str) -> bool:
    if trial.state in ("paused", "lost"):
        attempt = newest(trial.folder)
        return attempt is not None and attempt.by is not None and task_id in (attempt.by, trial.task)
    return trial.state == "stopped" and rungs.continues(trial.number, trial.epochs) and not live(trial.folder)


def _rung_file(study: Study, number: int, epochs: int) -> Path:
    return study.trial(number) / "rungs" / f"{epochs:06d}.json"


def _write_rung(study: Study, number: int, epochs: int, value: float | None) -> None:
    path = _rung_file(study, number, epochs)
    if not path.exists():
        plain_folder(path.parent)
        write_json(path, RungValue(epochs=epochs, value=value))


def _read_rung(path: Path) -> RungValue:
    return read_as(RungValue, path, "a trial's value at a rung")
