"""Which of many runs may be the best: the model confidence set.

Hansen, Lunde and Nason, *The Model Confidence Set*, Econometrica 79, 2011. The largest |t| of all pairs of runs is
compared with what it would be among runs that are all equally good; where it is larger, the run that is farthest
behind another is left out, and the question is asked again of the others. With a chance of 95 % the best run is in the
set, and equally good runs are all in it: as all pairs are looked at together, it does not matter that the best one was
picked by the same titles.

The draws are seeded: two reports of the same runs have the same set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

DRAWS = 20_000
FIRST_DRAWS = 500  # settle most questions: a p value of 0.045 is known from them to 0.009
CLEAR = 5.0  # standard errors from the level at which the first draws settle it
MOST_RUNS = 200  # whose pairs are drawn; among more, each pair is corrected for the number of pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """k runs: scores (k,), what chance in titles and seeds does to them together, ``covariance`` (k, k).

    ``freedom`` (k, k) says how well the variance of each difference is known: infinite where titles alone matter.
    """

    score: np.ndarray
    covariance: np.ndarray
    freedom: np.ndarray

    def t(self) -> np.ndarray:
        """By how many standard errors each run is ahead of each other, (k, k): 0 where they never differ."""
        gap = self.score[:, None] - self.score[None, :]
        error = np.sqrt(self.variances())
        # Runs that answer alike have no error, and no difference but rounding's.
        return np.where(error > 0, gap / np.where(error > 0, error, 1.0), np.where(np.abs(gap) > 1e-9, gap * 1e9, 0.0))

    def variances(self) -> np.ndarray:
        """Of the difference of each pair, (k, k)."""
        own = np.diag(self.covariance)
        found: np.ndarray = np.maximum(own[:, None] + own[None, :] - 2 * self.covariance, 0.0)
        # What is left of equal numbers by rounding is no variance.
        return np.where(found > 1e-12 * (own[:, None] + own[None, :]), found, 0.0)

    def only(self, members: np.ndarray) -> Contest:
        """The same among some of the runs."""
        square = np.ix_(members, members)
        return Contest(score=self.score[members], covariance=self.covariance[square], freedom=self.freedom[square])


def confidence_set(contest: Contest, level: float) -> np.ndarray:
    """Positions of the runs in the set, (m,); with a chance of ``level`` at most it lacks one of equally good runs."""
    members = np.arange(len(contest.score))
    while len(members) > 1:
        left = contest.only(members)
        t = left.t()
        if not _rejected(left, float(t.max()), level):
            break
        members = np.delete(members, int(t.min(axis=1).argmin()))
    return members


def _rejected(contest: Contest, largest: float, level: float) -> bool:
    """Whether so large a t is rarer than ``level`` among equally good runs."""
    from scipy.special import stdtr

    runs = len(contest.score)
    pairs = runs * (runs - 1) // 2
    freedom = float(contest.freedom[~np.eye(runs, dtype=bool)].min())
    # A single pair is at least as rarely as far apart as any of them, and any of them at most as often as all in sum.
    alone = 2 * (float(stdtr(freedom, -largest)) if math.isfinite(freedom) else 0.5 * math.erfc(largest / math.sqrt(2)))
    if alone > level:
        return False
    if alone * pairs <= level:
        return True
    if runs > MOST_RUNS:
        return False
    random = np.random.default_rng(0)
    seldom, drawn = 0, 0
    for draws in (FIRST_DRAWS, DRAWS - FIRST_DRAWS):
        seldom += int(np.count_nonzero(_largest_t(contest, freedom, draws, random) >= largest))
        drawn += draws
        if abs(seldom / drawn - level) > CLEAR * math.sqrt(level * (1 - level) / drawn):
            break
    return (seldom + 1) / (drawn + 1) <= level


def _largest_t(contest: Contest, freedom: float, draws: int, random: np.random.Generator) -> np.ndarray:
    """The largest |t| of all pairs in each of so many draws of a multivariate t among equally good runs, (draws,)."""
    own = np.diag(contest.covariance)
    drawn = random.standard_normal((len(own), draws), dtype=np.float32)  # runs in rows: the loop below subtracts them
    if np.array_equal(np.diag(own), contest.covariance):
        drawn *= np.sqrt(own).astype(np.float32)[:, None]
    else:
        values, vectors = np.linalg.eigh(contest.covariance)
        drawn = (vectors * np.sqrt(np.maximum(values, 0.0))).astype(np.float32) @ drawn
    if math.isfinite(freedom):
        drawn /= np.sqrt(random.chisquare(freedom, draws) / freedom).astype(np.float32)
    variances = contest.variances()
    scale = np.where(variances > 0, 1 / np.sqrt(np.where(variances > 0, variances, 1.0)), 0.0).astype(np.float32)
    largest = np.zeros(draws, np.float32)
    for run in range(len(drawn) - 1):
        apart = np.abs(drawn[run + 1 :] - drawn[run])
        apart *= scale[run + 1 :, run, None]
        np.maximum(largest, apart.max(axis=0), out=largest)
    return largest
