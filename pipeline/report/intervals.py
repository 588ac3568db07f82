"""How far a score on the test titles can be trusted: the variance that the choice of titles gives it, and its interval.

What is estimated by a balanced accuracy is the mean, over the categories that the test titles have, of the chance that
a new title of the category is classified rightly: by this model for a run of one seed, by a model of these settings for
a run of several. For accuracy and macro F1 it is their value over the titles that the test titles were drawn from.

Nothing is drawn at random, and thousands of runs take a few array operations. ``benchmarks/coverage.py`` measures how
often the intervals hold the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.records import Split

LEVEL = 0.95
PRIOR_TITLES = 2.0  # what the overall recall counts for in a category's, in titles
FEWEST = 30  # titles; an interval of fewer would not hold what it says
PRIOR_CATEGORIES = 2.0  # and for how many categories it counts in the variance over all of them
RARE = 5  # titles of a category under which its own recall says little
CHUNK = 512  # splits in one array: bounds the memory that thousands of runs take


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """R scores, each with the variance that chance gives it and that variance's degrees of freedom, all (R,).

    ``titles`` (R,) is the sample size that stands for a score of 0 or 1, where no variance can be seen.
    """

    score: np.ndarray
    variance: np.ndarray
    freedom: np.ndarray
    titles: np.ndarray


def effective_titles(support: np.ndarray) -> float:
    """How many titles decide a balanced accuracy, from the counts (C,) alone: their number where all count the same.

    Kish's effective sample size, (sum w)**2 / sum w**2 (Kish 1965, Survey Sampling), of what each title adds to the
    variance: the square of 1 / (titles of its category). A category of 15 beside one of 1,000 gives 15.
    """
    counts = support[support > 0].astype(np.float64)
    return float((1 / counts).sum() ** 2 / (1 / counts**3).sum()) if counts.size else 0.0


def too_few(support: np.ndarray) -> bool:
    """Whether these counts of titles (C,) are too small for an interval or a test."""
    return effective_titles(support) < FEWEST


def balanced(splits: Sequence[Split]) -> Estimates:
    """Balanced accuracies, with the variance of a stratified sample: each category's titles drawn on their own.

    A category's recall p of n titles has the variance p (1 - p) / n. As estimated from few titles it is too small, 0
    for a single one; so for the variance alone each recall is first shrunk towards the overall one as if two more
    titles had had it (Agresti and Coull, The American Statistician 52, 1998; Franco et al., Journal of Survey
    Statistics and Methodology 7, 2019, for samples of strata). And where few categories decide, as one of 60 titles
    beside one of 1,000, their own recalls say little of the variance: it is shrunk towards that of equal recalls, as if
    two more categories had had the overall one. Degrees of freedom after Satterthwaite (Biometrics Bulletin 2, 1946)
    from the counts alone.
    """
    parts = np.empty((len(splits), 4))
    widths: dict[int, list[int]] = {}
    for position, split in enumerate(splits):
        widths.setdefault(len(split.recall), []).append(position)
    for members in widths.values():
        for begin in range(0, len(members), CHUNK):
            some = members[begin : begin + CHUNK]
            recall = np.stack([splits[position].recall for position in some])
            support = np.stack([splits[position].support for position in some])
            parts[some] = np.stack(balanced_parts(recall, support), axis=1)
    return Estimates(score=parts[:, 0], variance=parts[:, 1], freedom=parts[:, 2], titles=parts[:, 3])


def balanced_parts(recall: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Score, variance, degrees of freedom and titles, (R,) each, for recalls and counts (R, C)."""
    there = support > 0
    categories = np.maximum(there.sum(axis=1), 1)
    titles = np.where(there, support, 1).astype(np.float64)
    right = np.where(there, np.nan_to_num(recall), 0.0)
    score = right.sum(axis=1) / categories
    shrunk = (right * titles + PRIOR_TITLES * score[:, None]) / (titles + PRIOR_TITLES)
    each = np.where(there, 1 / titles, 0.0)  # what a category adds to the variance, but for p (1 - p)
    variance = (shrunk * (1 - shrunk) * each).sum(axis=1) / categories**2
    total = np.maximum(each.sum(axis=1), np.finfo(float).tiny)
    squares = np.maximum((each**2).sum(axis=1), np.finfo(float).tiny)
    equal, deciding = score * (1 - score) * total / categories**2, total**2 / squares
    variance = (deciding * variance + PRIOR_CATEGORIES * equal) / (deciding + PRIOR_CATEGORIES)
    # A category with one title has no spread of its own: all of them share one, a degree of freedom each.
    freedom = total**2 / np.maximum((each**2 / np.maximum(titles - 1, 1)).sum(axis=1), np.finfo(float).tiny)
    return score, variance, freedom, categories**2 / total


def accuracies(splits: Sequence[Split]) -> Estimates:
    """Accuracies: shares of independent titles."""
    titles = np.array([split.support.sum() for split in splits], dtype=np.float64)
    right = np.array([float(np.nan_to_num(split.recall) @ split.support) for split in splits])
    titles = np.maximum(titles, 1)
    score = right / titles
    return Estimates(
        score=score, variance=score * (1 - score) / titles, freedom=np.maximum(titles - 1, 1), titles=titles
    )


def intervals(estimates: Estimates, level: float = LEVEL) -> np.ndarray:
    """Wilson's interval of each score, (R, 2), with its effective sample size and Student's t.

    The effective sample size is how many independent titles would give a share the same variance, score (1 - score) /
    variance (Korn and Graubard, Survey Methodology 24, 1998; Franco et al. 2019). Wilson's interval (Journal of the
    American Statistical Association 22, 1927) stays within 0 and 1 and has a width where all titles are right.
    """
    from scipy.special import stdtrit  # a sixth of a second, which no command but the report's should take

    score = np.clip(estimates.score, 0.0, 1.0)
    spread = score * (1 - score)
    seen = (spread > 0) & (estimates.variance > 0)
    size = np.where(seen, spread / np.where(seen, estimates.variance, 1.0), estimates.titles)
    t = stdtrit(estimates.freedom, (1 + level) / 2)
    shift = t**2 / size
    middle = (score + shift / 2) / (1 + shift)
    half = t / (1 + shift) * np.sqrt(spread / size + shift / (4 * size))
    return np.stack([np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)], axis=1)
