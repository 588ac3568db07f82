"""Whether a difference is more than chance: a paired permutation test, and Holm's correction for many of them.

The one test that draws random numbers is seeded: two reports of the same runs have the same p values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.collect import Collected
from pipeline.report.groups import Entry, best
from pipeline.report.intervals import balanced_accuracy, bootstrap_variance
from pipeline.report.records import Split

ALPHA = 0.05
FLIPS = 5_000  # sign patterns drawn
HEAVY = 50  # differences whose signs are drawn, where the others are many


# Tests of two runs, from their answers or their recalls.


def paired_p(first: np.ndarray, second: np.ndarray, label: np.ndarray) -> float:
    """Whether two runs' balanced accuracies on the same titles differ by more than chance: a two-sided p value.

    ``first`` and ``second`` (N,) say how often each title was answered rightly (0 or 1, or a share over seeds).
    A paired permutation test (Fisher 1935; Good 2005, Permutation, Parametric, and Bootstrap Tests of Hypotheses):
    under the null hypothesis the two runs' answers to a title could be swapped, so each title's difference, weighted
    by 1 / (categories x titles of its category), keeps its size and has either sign with equal probability. The sum
    of the differences is that of the balanced accuracies. About 2 ms for 100,000 titles.
    """
    counts = np.bincount(label)
    weights = 1.0 / (np.count_nonzero(counts) * counts[label])
    parts = (first.astype(np.float64) - second) * weights
    parts = parts[parts != 0]
    if parts.size == 0:
        return 1.0
    observed, variance = abs(parts.sum()), float((parts**2).sum())
    # Many differences of which none dominates: their sum is normal (Lindeberg), with the sum of squares as variance.
    # A category of few titles weighs so much that it may dominate: then the signs are drawn.
    if parts.size >= 100 and (parts**2).max() <= 0.05 * variance:
        return math.erfc(observed / math.sqrt(2 * variance))
    return _flipped_p(parts, float(observed))


def _flipped_p(parts: np.ndarray, observed: float) -> float:
    """The same by ``FLIPS`` seeded sign patterns, in about 3 ms; the standard error of a p value of 0.05 is 0.003.

    Only the heaviest differences need their signs drawn; the sum of many light ones is normal whatever theirs are.
    """
    order = np.argsort(-np.abs(parts), kind="stable")
    heavy, light = parts[order[:HEAVY]], parts[order[HEAVY:]]
    if light.size < HEAVY:
        heavy, light = parts, parts[:0]
    random = np.random.default_rng(0)
    signs = random.integers(0, 2, size=(FLIPS, heavy.size), dtype=np.int8) * np.int8(2) - np.int8(1)
    sums = signs @ heavy
    if light.size == 0:
        # The observed pattern counts as one of those drawn, so p is never 0 (Phipson and Smyth 2010).
        extreme = np.count_nonzero(np.abs(sums) >= observed * (1 - 1e-9))
        return (int(extreme) + 1) / (FLIPS + 1)
    scale = math.sqrt(2 * float((light**2).sum()))
    # Given the heavy signs, the chance that the light ones carry the sum past the observed one, on either side.
    tails = ((observed - np.concatenate([sums, -sums])) / scale).tolist()
    return math.fsum(math.erfc(tail) for tail in tails) / (2 * FLIPS)


def unpaired_p(first: Split, second: Split) -> float:
    """The same question where the titles differ: a z test on the difference, with both splits' bootstrap variances."""
    difference = abs(balanced_accuracy(first) - balanced_accuracy(second))
    variance = bootstrap_variance(first) + bootstrap_variance(second)
    if variance <= 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(difference / math.sqrt(2 * variance))


def greatest_p(difference: np.ndarray, first: np.ndarray, second: np.ndarray, support: np.ndarray) -> np.ndarray:
    """An upper bound of ``paired_p`` from recalls alone: (R,) for differences (R,) and recalls (R, C) and (C,).

    Two runs can disagree on a category's titles at most as often as they err on them together, so the variance
    of the test has a bound that needs no predictions. In a group of thousands most runs are far behind the best:
    the bound settles those at once, and only the others' predictions are read, a file each.
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
    """P values corrected for their number, in the order given: Holm, Scandinavian Journal of Statistics 6, 1979.

    The smallest is multiplied by their number, the next by one less, and so on; none falls below a smaller one's.
    As safe as Bonferroni's correction, without any assumption on how the tests depend, and never weaker.
    """
    order = sorted(range(len(values)), key=lambda position: values[position])
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[position]))
        corrected[position] = highest
    return corrected


# Entries of a report compared: which are as good as the best.


@dataclass(frozen=True, slots=True, kw_only=True)
class BestAndTies:
    """The best entry of a group by balanced accuracy on a split, and those not distinguishable from it.

    ``p_values`` are Holm corrected, by entry position; an entry whose bound alone settles it has that bound.
    """

    best: Entry
    tied: frozenset[int]  # positions of entries, the best's among them
    p_values: Mapping[int, float]


def best_and_ties(collected: Collected, entries: Iterable[Entry], split: str) -> BestAndTies | None:
    """Compare every entry with the best one; None when nothing is finished."""
    entries = [entry for entry in entries if entry.mean(f"{split}_balanced_accuracy") is not None]
    top = best(entries, f"{split}_balanced_accuracy")
    if top is None:
        return None
    others = [entry for entry in entries if entry is not top]
    bounds = _bounds(collected, top, others, split)
    # Below the strictest of Holm's thresholds a bound settles the matter, and settles it for any order of the
    # others; those left are then corrected for their own number, which gives the same verdicts.
    settled = [entry for entry in others if bounds[entry.position] * len(others) <= ALPHA]
    open_ = [entry for entry in others if bounds[entry.position] * len(others) > ALPHA]
    answers = _answers(collected, top, split) if open_ else None
    exact = [_compare(collected, top, answers, entry, split) for entry in open_]
    corrected = holm(exact)
    p_values = {entry.position: bounds[entry.position] * len(others) for entry in settled}
    p_values |= {entry.position: p for entry, p in zip(open_, corrected, strict=True)}
    tied = {entry.position for entry in open_ if p_values[entry.position] > ALPHA}
    return BestAndTies(best=top, tied=frozenset({top.position, *tied}), p_values=p_values)


def _bounds(collected: Collected, top: Entry, others: Iterable[Entry], split: str) -> dict[int, float]:
    """Upper bounds of the p values from recalls alone; 1 where the titles are not the same."""
    bounds = {entry.position: 1.0 for entry in others}
    mine = recall(collected, top, split)
    if mine is None:
        return bounds
    same: dict[int, np.ndarray] = {}
    for entry in others:
        theirs = recall(collected, entry, split) if entry.first.row.dataset == top.first.row.dataset else None
        if theirs is not None and np.array_equal(theirs.support, mine.support):
            same[entry.position] = theirs.recall
    if not same:
        return bounds
    rows = np.stack(list(same.values()))
    gaps = balanced_accuracy(mine) - np.nanmean(rows, axis=1)
    values = greatest_p(gaps, rows, mine.recall, mine.support)
    return bounds | {position: float(value) for position, value in zip(same, values, strict=True)}


def recall(collected: Collected, entry: Entry, split: str) -> Split | None:
    """An entry's mean recall over its finished seeds."""
    splits = [evaluation[split] for result in entry.done if split in (evaluation := collected.evaluation(result))]
    if not splits:
        return None
    if len(splits) == 1:
        return splits[0]
    if any(len(one.recall) != len(splits[0].recall) for one in splits):
        return None
    mean = sum(one.recall for one in splits) / len(splits)
    return Split(recall=np.asarray(mean), support=splits[0].support)


def compare(collected: Collected, first: Entry, second: Entry, split: str) -> float:
    """The p value of a difference in balanced accuracy: paired where the titles are the same ones."""
    return _compare(collected, first, _answers(collected, first, split), second, split)


Answers = tuple[np.ndarray, np.ndarray]  # labels (N,), and how often each title was right over the seeds (N,)


def _compare(collected: Collected, first: Entry, mine: Answers | None, second: Entry, split: str) -> float:
    theirs = _answers(collected, second, split)
    if mine and theirs and np.array_equal(mine[0], theirs[0]):
        return paired_p(mine[1], theirs[1], mine[0])
    one, other = recall(collected, first, split), recall(collected, second, split)
    return unpaired_p(one, other) if one and other else 1.0


def _answers(collected: Collected, entry: Entry, split: str) -> Answers | None:
    label: np.ndarray | None = None
    right: list[np.ndarray] = []
    for result in entry.done:
        predictions = collected.predictions(result, split)
        if predictions is None or (label is not None and not np.array_equal(label, predictions.label)):
            return None
        label = predictions.label
        right.append(predictions.predicted == predictions.label)
    return (label, np.mean(right, axis=0)) if label is not None else None
