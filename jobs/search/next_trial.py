"""What a search's element trains next: a point that the algorithm proposes, or a trial that goes on after a rung."""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from jobs.attempt import history, live, numbers
from jobs.metrics_log import EpochMetrics
from jobs.search import algorithms
from jobs.search.algorithms import Observation
from jobs.search.space import Draws, Point
from jobs.search.study import Proposal, Study, Trial, continued_by, read_trial, read_trials, value_of
from jobs.settings import ModelSettings
from jobs.storage import digest, plain_folder, publish_folder, read_json, write_json

SETTING_FAILURES = ("diverged", "at chance", "out of memory", "GPU out of memory")
"""Failures that tell something of the settings; the others tell of the cluster and are left out."""

TRIES = 20


# The next point of a search: chosen from what storage says of the others, and written down before training.


def claim_point(study: Study, number: int) -> Point:
    """The point of a trial: the one written down, or a new one, published with the trial's folder.

    Of any number of claimants of one number the first to publish decides, and all get its point.
    """
    home = study.trial(number)
    if not home.exists():
        study.write()
        temporary = home.with_name(f".{home.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        write_json(temporary / "point.json", _propose_point(study, number))
        publish_folder(temporary, home)
    return read_trial(study, number).point


def observations_of(study: Study, trials: Iterable[Trial]) -> list[Observation]:
    """What an algorithm is told: results, running trials without one, failures that the settings are to blame for.

    A lost trial counts with the epochs it had, or not at all: it may never come back.
    """
    past = []
    for trial in trials:
        if trial.state in ("running", "paused"):
            past.append(Observation(draws=trial.draws, loss=None))
        elif trial.state == "failed":
            if trial.cause in SETTING_FAILURES:
                past.append(Observation(draws=trial.draws, loss=math.inf))
        elif trial.value is not None:
            past.append(Observation(draws=trial.draws, loss=-study.score(trial.value)))
    return past


def propose(study: Study, number: int, trials: Iterable[Trial]) -> tuple[Draws, Point]:
    """The draws and the point of a trial, given the others: the same for the same history.

    A point that another trial already has is drawn again while the space has others to offer.
    """
    others = [trial for trial in trials if trial.number != number]
    algorithm, space, past = (
        algorithms.load(study.definition.algorithm),
        study.space(),
        observations_of(study, others),
    )
    seen = [trial.point for trial in others]
    for turn in range(TRIES):
        draws = algorithm.propose(space, past, seed_of(study, number, turn))
        point = space.point(draws)
        if point not in seen:
            break
    return draws, point


def seed_of(study: Study, number: int, turn: int) -> int:
    """A trial's own 32-bit seed: equal histories would otherwise give parallel workers equal points."""
    return int(digest({"search": study.id, "number": number, "turn": turn}), 16) % 2**32


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


# Which trials go on at a milestone, decided from storage alone, and which stopped one has earned to be continued.
#
# A trial stopped early is done and keeps its checkpoint. As later trials come in below it, it may rise into the share
# that goes on. Each element of a search, once its own trial is done, therefore looks for such trials and continues them
# in their own run folders until there is none left: so the last element leaves none behind, and there is exactly one
# result a trial. Taking over is beginning the run's next attempt, which only one process can. The record of before
# stays in its place until that attempt ends with one of its own: done, stopped at a later milestone, or failed by the
# settings' own fault. Until then the trial counts as running, paused or lost; an attempt that failed for any other
# reason leaves it stopped, as it was.


class StopAtRung:
    """Asked after every epoch of one trial; ``stopped`` tells afterwards by which rule it was ended."""

    def __init__(self, study: Study, number: int, settings: ModelSettings) -> None:
        self._study, self._number, self._settings = study, number, settings
        self._stopping = study.stopping()
        self.stopped: str | None = None

    def __call__(self, lines: Sequence[EpochMetrics]) -> str | None:
        """The verdict on a journal: "stop", or None to train on."""
        if self._stopping is None or not lines:
            return None
        epochs = int(lines[-1]["epoch"])
        if epochs not in self._stopping.milestones(int(getattr(self._settings, "epochs", 1))):
            return None
        _write_rung(self._study, self._number, epochs, value_of(self._study, lines, self._settings))
        if Rungs(self._study).continues(self._number, epochs):
            return None
        ((self.stopped, _),) = (self._study.definition.stopping or {}).items()
        return "stop"


class Rungs:
    """How the trials of a search stand against each other, every file of it read at most once."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._stopping = study.stopping()
        self._promoted: dict[tuple[int, bool], set[int]] = {}
        self._rungs: dict[int, dict[int, float]] = {}
        self._trials: list[Trial] | None = None

    def trials(self) -> list[Trial]:
        """Every trial that has a point, in the order of their numbers."""
        if self._trials is None:
            self._trials = read_trials(self._study)
        return self._trials

    def continues(self, number: int, epochs: int) -> bool:
        """Whether a trial that reached a milestone trains on past it."""
        if self._stopping is None:
            return True
        if number in self._chosen(epochs, final=False):
            return True
        # The state of all trials is read only where it would make a difference.
        return number in self._chosen(epochs, final=True) and self._at_its_end(besides=number)

    def _chosen(self, epochs: int, *, final: bool) -> set[int]:
        assert self._stopping is not None
        if epochs not in self._rungs:
            self._rungs[epochs] = rung(self._study, epochs)
        if (epochs, final) not in self._promoted:
            self._promoted[epochs, final] = self._stopping.promoted(self._rungs[epochs], final=final)
        return self._promoted[epochs, final]

    def _at_its_end(self, besides: int) -> bool:
        """Whether every trial asked for has its result, one left out."""
        over = {trial.number for trial in self.trials() if trial.over} | {besides}
        return all(number in over for number in range(max(self._study.submitted_count(), len(self.trials()))))


def rung(study: Study, epochs: int) -> dict[int, float]:
    """The scores (larger is better) of all trials that reached a milestone, by their numbers."""
    scores = {}
    for number in study.numbers():
        try:
            value = read_json(_rung_file(study, number, epochs))["value"]
        except FileNotFoundError:
            continue
        scores[number] = -math.inf if value is None else study.score(float(value))
    return scores


def next_promotable(study: Study, task_id: str) -> tuple[Trial, int] | None:
    """A trial for this task's process to continue, and its newest attempt's number.

    Either stopped and by now among the best of its milestone, or continued before and cut short: by this same task's
    process, or it is this task's own trial. The furthest come first; one that failed to go on comes last, so that it
    does not stand in the way of the others.
    """
    if study.stopping() is None:
        return None
    standing = Rungs(study)
    ready = [trial for trial in standing.trials() if _continuable(standing, trial, task_id)]
    for trial in sorted(ready, key=lambda trial: (_has_failed(trial.folder), -trial.epochs, trial.number)):
        # Read again, after its attempts: whoever has taken it over since has begun a newer one.
        known = numbers(trial.folder)
        again = read_trial(study, trial.number)
        if known and again.epochs == trial.epochs and _continuable(standing, again, task_id):
            return again, known[-1]
    return None


def _continuable(standing: Rungs, trial: Trial, task_id: str) -> bool:
    if trial.state in ("paused", "lost"):
        by = continued_by(trial.folder)
        return by is not None and task_id in (by, trial.task)
    return trial.state == "stopped" and standing.continues(trial.number, trial.epochs) and not live(trial.folder)


def _has_failed(folder: Path) -> bool:
    return history(folder)[-1].get("state") == "failed"


def _rung_file(study: Study, number: int, epochs: int) -> Path:
    return study.trial(number) / "rungs" / f"{epochs:06d}.json"


def _write_rung(study: Study, number: int, epochs: int, value: float | None) -> None:
    path = _rung_file(study, number, epochs)
    # The first value stands: others have been judged against it.
    if not path.exists():
        plain_folder(path.parent)
        write_json(path, {"epochs": epochs, "value": value})
