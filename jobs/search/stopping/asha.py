"""Asynchronous successive halving (Li et al. 2020, algorithm 2), decided from the results on storage alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.settings import Setting

SETTINGS = (
    Setting(name="grace_epochs", type="int", default=1, low=1, high=100_000, doc="epochs every trial is given"),
    Setting(name="reduction", type="int", default=3, low=2, high=1000, doc="one trial in so many goes on at each rung"),
)


def milestones(settings: Mapping[str, Any], epochs: int) -> tuple[int, ...]:
    """Rungs: grace, grace * reduction, grace * reduction^2, ... below a trial's last epoch."""
    rungs = []
    rung = int(settings["grace_epochs"])
    while rung < epochs:
        rungs.append(rung)
        rung *= int(settings["reduction"])
    return tuple(rungs)


def promoted(values: Mapping[int, float], settings: Mapping[str, Any], *, final: bool) -> set[int]:
    """The trials in the top 1/reduction of those that reached a rung; of equals the earlier one is better.

    With fewer than ``reduction`` trials at a rung the top is empty until the search is over; then it is the best
    one, so that a search's winner has trained to its last epoch.
    """
    places = len(values) // int(settings["reduction"])
    if final:
        places = max(1, places)
    return set(sorted(values, key=lambda number: (-values[number], number))[:places])
