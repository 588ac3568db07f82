"""The next point of a search: chosen from what storage says of the others, and written down before training."""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Iterable
from typing import Any

from jobs.search import algorithms
from jobs.search.past import Past
from jobs.search.space import Draws, Point
from jobs.search.study import Study
from jobs.search.trial import Trial, read_point, read_trials
from jobs.storage import digest, publish_folder, write_json

OWN_FAULT = ("diverged", "at chance", "out of memory", "GPU out of memory")
"""Failures that tell something of the settings; the others tell of the cluster and are left out."""

TRIES = 20


def claim_point(study: Study, number: int) -> Point:
    """The point of a trial: the one written down, or a new one, published with the trial's folder.

    Of any number of claimants of one number the first to publish decides, and all get its point.
    """
    home = study.trial(number)
    if not home.exists():
        study.write()
        temporary = home.with_name(f".{home.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        write_json(temporary / "point.json", _propose(study, number))
        publish_folder(temporary, home)
    point: Point = read_point(study, number)["point"]
    return point


def past_of(study: Study, trials: Iterable[Trial]) -> list[Past]:
    """What an algorithm is told: results, running trials without one, failures that the settings are to blame for.

    A lost trial counts with the epochs it had, or not at all: it may never come back.
    """
    past = []
    for trial in trials:
        if trial.state in ("running", "paused"):
            past.append(Past(draws=trial.draws, loss=None))
        elif trial.state == "failed":
            if trial.cause in OWN_FAULT:
                past.append(Past(draws=trial.draws, loss=math.inf))
        elif trial.value is not None:
            past.append(Past(draws=trial.draws, loss=-study.score(trial.value)))
    return past


def choose(study: Study, number: int, trials: Iterable[Trial]) -> tuple[Draws, Point]:
    """The draws and the point of a trial, given the others: the same for the same history.

    A point that another trial already has is drawn again while the space has others to offer.
    """
    others = [trial for trial in trials if trial.number != number]
    algorithm, space, past = algorithms.load(study.definition["algorithm"]), study.space(), past_of(study, others)
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


def _propose(study: Study, number: int) -> dict[str, Any]:
    began = time.monotonic()
    draws, point = choose(study, number, read_trials(study))
    return {
        "number": number,
        "task": study.task(number).id,
        "draws": draws,
        "point": point,
        "proposed": time.time(),
        "proposing_s": round(time.monotonic() - began, 4),
    }
