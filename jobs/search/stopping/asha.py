"""Asynchronous successive halving: Li et al., *A System for Massively Parallel Hyperparameter Tuning*, MLSys 2020.

Most settings show within few epochs that they are not the best. So every trial gets ``grace_epochs``, the best 1 in
``reduction`` of them ``reduction`` times as many, the best of those as many times more: with 1 and 3, 27 trials of 27
epochs cost 27 * 1 + 9 * 2 + 3 * 6 + 1 * 18 = 81 epochs in place of 729.

Synchronous halving waits at each rung until all trials are there, which leaves a cluster idle. Here a trial is compared
with those that came before it (the paper's algorithm 2): it trains on if it is in the top 1/reduction of the values so
far. That may promote too many of the first, and stop one that would have been promoted later; the second is put right,
as such a trial is continued once it has risen (``jobs.search.next_trial``).
"""

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
    count = len(values) // int(settings["reduction"])
    if final:
        count = max(1, count)
    return set(sorted(values, key=lambda number: (-values[number], number))[:count])
