"""Which trials go on at a milestone, decided from storage alone, and which stopped one has earned to be continued.

A trial stopped early is done and keeps its checkpoint. As later trials come in below it, it may rise into the
share that goes on. Each element of a search, once its own trial is done, therefore looks for such trials and
continues them in their own run folders until there is none left: so the last element leaves none behind, and
there is exactly one result a trial. Taking over is beginning the run's next attempt, which only one process can.
The record of before stays in its place until that attempt ends with one of its own: done, stopped at a later
milestone, or failed by the settings' own fault. Until then the trial counts as running, paused or lost; an attempt
that failed for any other reason leaves it stopped, as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.attempt import history, live, numbers
from jobs.search.study import Study
from jobs.search.trial import Trial, read_trial, read_trials, taken_by, value_of
from jobs.storage import plain_folder, read_json, write_json


class Judge:
    """Asked after every epoch of one trial; ``stopped`` tells afterwards by which rule it was ended."""

    def __init__(self, study: Study, number: int, settings: Mapping[str, Any]) -> None:
        self._study, self._number, self._settings = study, number, settings
        self._stopping = study.stopping()
        self.stopped: str | None = None

    def __call__(self, lines: Sequence[Mapping[str, Any]]) -> str | None:
        """The verdict on a journal: "stop", or None to train on."""
        if self._stopping is None or not lines:
            return None
        rule, given = self._stopping
        epochs = int(lines[-1]["epoch"])
        if epochs not in rule.milestones(given, int(self._settings.get("epochs", 1))):
            return None
        _write_rung(self._study, self._number, epochs, value_of(self._study, lines, self._settings))
        if Standing(self._study).goes_on(self._number, epochs):
            return None
        ((self.stopped, _),) = self._study.definition["stopping"].items()
        return "stop"


class Standing:
    """How the trials of a search stand against each other, every file of it read at most once."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._stopping = study.stopping()
        self._going_on: dict[tuple[int, bool], set[int]] = {}
        self._rungs: dict[int, dict[int, float]] = {}
        self._trials: list[Trial] | None = None

    def trials(self) -> list[Trial]:
        """Every trial that has a point, in the order of their numbers."""
        if self._trials is None:
            self._trials = read_trials(self._study)
        return self._trials

    def goes_on(self, number: int, epochs: int) -> bool:
        """Whether a trial that reached a milestone trains on past it."""
        if self._stopping is None:
            return True
        if number in self._chosen(epochs, final=False):
            return True
        # The state of all trials is read only where it would make a difference.
        return number in self._chosen(epochs, final=True) and self._at_its_end(besides=number)

    def _chosen(self, epochs: int, *, final: bool) -> set[int]:
        assert self._stopping is not None
        rule, given = self._stopping
        if epochs not in self._rungs:
            self._rungs[epochs] = rung(self._study, epochs)
        if (epochs, final) not in self._going_on:
            self._going_on[epochs, final] = rule.going_on(self._rungs[epochs], given, final=final)
        return self._going_on[epochs, final]

    def _at_its_end(self, besides: int) -> bool:
        """Whether every trial asked for has its result, one left out."""
        over = {trial.number for trial in self.trials() if trial.over} | {besides}
        return all(number in over for number in range(max(self._study.asked(), len(self.trials()))))


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
    standing = Standing(study)
    ready = [trial for trial in standing.trials() if _continuable(standing, trial, task_id)]
    for trial in sorted(ready, key=lambda trial: (_has_failed(trial.folder), -trial.epochs, trial.number)):
        # Read again, after its attempts: whoever has taken it over since has begun a newer one.
        known = numbers(trial.folder)
        again = read_trial(study, trial.number)
        if known and again.epochs == trial.epochs and _continuable(standing, again, task_id):
            return again, known[-1]
    return None


def _continuable(standing: Standing, trial: Trial, task_id: str) -> bool:
    if trial.state in ("paused", "lost"):
        by = taken_by(trial.folder)
        return by is not None and task_id in (by, trial.task)
    return trial.state == "stopped" and standing.goes_on(trial.number, trial.epochs) and not live(trial.folder)


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
