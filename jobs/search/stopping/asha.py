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
from typing import Annotated

from annotated_types import Ge, Le

from jobs.settings import ORIGINAL, Doc, settings

REVISION = 1


@settings
class Rule:
    """Successive halving over the epochs of a trial."""

    grace_epochs: Annotated[int, Ge(1), Le(100_000), ORIGINAL, Doc("epochs every trial is given")] = 1
    reduction: Annotated[int, Ge(2), Le(1000), ORIGINAL, Doc("one trial in so many goes on at each rung")] = 3

    def milestones(self, epochs: int) -> tuple[int, ...]:
        """Rungs: grace, grace * reduction, grace * reduction^2, ... below a trial's last epoch."""
        rungs = []
        rung = self.grace_epochs
        while rung < epochs:
            rungs.append(rung)
            rung *= self.reduction
        return tuple(rungs)

    def promoted(self, values: Mapping[int, float], *, final: bool) -> set[int]:
        """The trials in the top 1/reduction of those that reached a rung; of equals the earlier one is better.

        With fewer than ``reduction`` trials at a rung the top is empty until the search is over; then it is the best
        one, so that a search's winner has trained to its last epoch.
        """
        places = len(values) // self.reduction
        if final:
            places = max(1, places)
        return set(sorted(values, key=lambda number: (-values[number], number))[:places])
