"""How far a figure can be trusted: intervals, paired tests, and corrections for many of them.

Nothing here draws random numbers that could change a table between two reports: intervals are those of the ideal
bootstrap, computed and not resampled, and the one Monte Carlo test is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.report.records import Split

Z_95 = 1.959963984540054
ALPHA = 0.05
FLIPS = 5_000
HEAVY = 50
CHUNK = 512


def balanced_accuracy(split: Split) -> float:
    """Mean recall over the categories that have titles, as scikit-learn's ``balanced_accuracy_score``."""
    return float(np.nanmean(split.recall)) if np.isfinite(split.recall).any() else math.nan


def intervals(splits: Sequence[Split]) -> np.ndarray:
    """The 95 % percentile interval of balanced accuracy by the stratified bootstrap, one row (low, high) a split.

    Resampling a category's titles n times draws Binomial(n, recall) right answers, so the bootstrap distribution
    of balanced accuracy is known: its first four cumulants are sums over the categories, and its percentiles
    follow by the Cornish-Fisher expansion (Cornish and Fisher 1938; Hall 1992, The Bootstrap and Edgeworth
    Expansion). This is the limit of infinitely many resamples. A category with a single title adds no width.
    """
    rows = np.empty((len(splits), 2))
    widths: dict[int, list[int]] = {}
    for position, split in enumerate(splits):
        widths.setdefault(len(split.recall), []).append(position)
    for members in widths.values():
        for begin in range(0, len(members), CHUNK):
            some = members[begin : begin + CHUNK]
            recall = np.stack([splits[position].recall for position in some])
            support = np.stack([splits[position].support for position in some])
            rows[some] = _intervals(recall, support)
    return rows


def _intervals(recall: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The same for equally long arrays (R, C)."""
    there = support > 0
    count = np.maximum(there.sum(axis=1), 1)
    titles = np.where(there, support, 1).astype(np.float64)
    right = np.where(there, np.nan_to_num(recall), 0.0)
    spread = right * (1 - right)
    mean = right.sum(axis=1) / count
    second = (spread / titles).sum(axis=1) / count**2
    third = (spread * (1 - 2 * right) / titles**2).sum(axis=1) / count**3
    fourth = (spread * (1 - 6 * spread) / titles**3).sum(axis=1) / count**4
    deviation = np.sqrt(second)
    safe = np.where(second > 0, second, 1.0)
    skewness, excess = third / safe**1.5, fourth / safe**2
    ends = []
    for z in (-Z_95, Z_95):
        quantile = z + (z**2 - 1) * skewness / 6 + (z**3 - 3 * z) * excess / 24 - (2 * z**3 - 5 * z) * skewness**2 / 36
        ends.append(np.clip(mean + deviation * quantile, 0.0, 1.0))
    # A nearly perfect or hopeless run has so skewed a distribution that the expansion may fold over.
    return np.stack([np.minimum(*ends), np.maximum(*ends)], axis=1)


def paired_p(first: np.ndarray, second: np.ndarray, label: np.ndarray) -> float:
    """Whether two runs' balanced accuracies on the same titles differ by more than chance: a two-sided p value.

    ``first`` and ``second`` (N,) say how often each title was answered rightly (0 or 1, or a share over seeds).
    A permutation test: under the null hypothesis the two runs' answers to a title could be swapped, so each
    title's difference, weighted by 1 / (categories x titles of its category), keeps its size and loses its sign.
    With many comparable differences the sum is normal with a known variance; else 5,000 seeded sign patterns.
    """
    counts = np.bincount(label)
    weights = 1.0 / (np.count_nonzero(counts) * counts[label])
    parts = (first.astype(np.float64) - second) * weights
    parts = parts[parts != 0]
    if parts.size == 0:
        return 1.0
    observed, variance = abs(parts.sum()), float((parts**2).sum())
    if parts.size >= 100 and (parts**2).max() <= 0.05 * variance:
        return math.erfc(observed / math.sqrt(2 * variance))
    return _flipped_p(parts, float(observed))


def _flipped_p(parts: np.ndarray, observed: float) -> float:
    """The signs of the heaviest differences are drawn; the sum of many light ones is normal whatever theirs are."""
    order = np.argsort(-np.abs(parts), kind="stable")
    heavy, light = parts[order[:HEAVY]], parts[order[HEAVY:]]
    if light.size < HEAVY:
        heavy, light = parts, parts[:0]
    random = np.random.default_rng(0)
    signs = random.integers(0, 2, size=(FLIPS, heavy.size), dtype=np.int8) * np.int8(2) - np.int8(1)
    sums = signs @ heavy
    if light.size == 0:
        extreme = np.count_nonzero(np.abs(sums) >= observed * (1 - 1e-9))
        return (int(extreme) + 1) / (FLIPS + 1)
    scale = math.sqrt(2 * float((light**2).sum()))
    tails = ((observed - np.concatenate([sums, -sums])) / scale).tolist()
    return math.fsum(math.erfc(tail) for tail in tails) / (2 * FLIPS)


def unpaired_p(first: Split, second: Split) -> float:
    """The same question for two test sets of different titles: the difference of two independent bootstraps."""
    difference = abs(balanced_accuracy(first) - balanced_accuracy(second))
    variance = bootstrap_variance(first) + bootstrap_variance(second)
    if variance <= 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(difference / math.sqrt(2 * variance))


def bootstrap_variance(split: Split) -> float:
    there = split.support > 0
    right = split.recall[there]
    return float((right * (1 - right) / split.support[there]).sum() / max(1, int(there.sum())) ** 2)


def greatest_p(difference: np.ndarray, first: np.ndarray, second: np.ndarray, support: np.ndarray) -> np.ndarray:
    """An upper bound of ``paired_p`` from recalls alone: (R,) for differences (R,) and recalls (R, C) and (C,).

    Two runs can disagree on a category's titles at most as often as they err on them together, so the variance
    of the test has a bound that needs no predictions: a run that is far behind is known to be so at once.
    """
    there = support > 0
    wrong = (2 - np.nan_to_num(first)[:, there] - np.nan_to_num(second)[there]) * support[there]
    apart = np.minimum(wrong, support[there])
    variance = (apart / support[there].astype(np.float64) ** 2).sum(axis=1) / np.count_nonzero(there) ** 2
    safe = np.where(variance > 0, variance, 1.0)
    ratios = np.abs(difference) / np.sqrt(2 * safe)
    bounds = np.array([math.erfc(ratio) for ratio in ratios])
    return np.where(variance > 0, bounds, np.where(difference == 0, 1.0, 0.0))


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for their number (Holm 1979), in the order given."""
    order = sorted(range(len(values)), key=lambda position: values[position])
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[position]))
        corrected[position] = highest
    return corrected
