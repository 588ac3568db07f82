"""How far apart the seeds of a run are: what chance in training adds to a score, beside the choice of titles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ALIKE = 0.01  # a p value below this says that two runs' seeds are not equally far apart


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSpread:
    """The variance of a score from seed to seed, with its degrees of freedom, from so many runs."""

    variance: float
    freedom: int
    runs: int


def own_spread(values: Sequence[float]) -> SeedSpread | None:
    """That of one run's seeds; None for fewer than two."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return SeedSpread(variance=squares / (len(values) - 1), freedom=len(values) - 1, runs=1)


def pooled_spread(runs: Iterable[Sequence[float]]) -> SeedSpread | None:
    """That of all runs with two seeds or more together; None where there is none, or where they are not alike.

    From two or three seeds a variance is hardly known; runs of one architecture on the same titles know it together.
    """
    spreads = [spread for values in runs if (spread := own_spread(values)) is not None]
    if not spreads or not alike(spreads):
        return None
    freedom = sum(spread.freedom for spread in spreads)
    variance = math.fsum(spread.freedom * spread.variance for spread in spreads) / freedom
    return SeedSpread(variance=variance, freedom=freedom, runs=len(spreads))


def alike(spreads: Sequence[SeedSpread]) -> bool:
    """Whether these variances may be one: Bartlett's test (Proceedings of the Royal Society A 160, 1937)."""
    # A run whose seeds agree to the last bit (linear) has no logarithm of a variance, and is like its likes alone.
    zeros = [spread.variance == 0 for spread in spreads]
    if len(spreads) < 2 or any(zeros):
        return len(spreads) < 2 or all(zeros)
    from scipy.special import chdtrc

    freedom = sum(spread.freedom for spread in spreads)
    pooled = math.fsum(spread.freedom * spread.variance for spread in spreads) / freedom
    statistic = math.fsum(spread.freedom * math.log(pooled / spread.variance) for spread in spreads)
    few = math.fsum(1 / spread.freedom for spread in spreads) - 1 / freedom
    correction = 1 + few / (3 * (len(spreads) - 1))
    return bool(chdtrc(len(spreads) - 1, statistic / correction) >= ALIKE)
