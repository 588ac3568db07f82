"""Which runs are as good as the best: paired tests on the same titles, corrected for their number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.report import intervals
from pipeline.report.collect import Collected
from pipeline.report.groups import Entry, best
from pipeline.report.records import Split


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
    settled = [entry for entry in others if bounds[entry.position] * len(others) <= intervals.ALPHA]
    open_ = [entry for entry in others if bounds[entry.position] * len(others) > intervals.ALPHA]
    answers = _answers(collected, top, split) if open_ else None
    exact = [_compare(collected, top, answers, entry, split) for entry in open_]
    corrected = intervals.holm(exact)
    p_values = {entry.position: bounds[entry.position] * len(others) for entry in settled}
    p_values |= {entry.position: p for entry, p in zip(open_, corrected, strict=True)}
    tied = {entry.position for entry in open_ if p_values[entry.position] > intervals.ALPHA}
    return BestAndTies(best=top, tied=frozenset({top.position, *tied}), p_values=p_values)


def _bounds(collected: Collected, top: Entry, others: Iterable[Entry], split: str) -> dict[int, float]:
    """Upper bounds of the p values from recalls alone; 1 where the titles are not the same."""
    bounds = {entry.position: 1.0 for entry in others}
    mine = recall(collected, top, split)
    theirs = {
        entry.position: found
        for entry in others
        if entry.first.row.dataset == top.first.row.dataset and (found := recall(collected, entry, split)) is not None
    }
    if mine is None or not theirs:
        return bounds
    same = {position: found for position, found in theirs.items() if np.array_equal(found.support, mine.support)}
    if not same:
        return bounds
    rows = np.stack([found.recall for found in same.values()])
    gaps = np.nanmean(mine.recall) - np.nanmean(rows, axis=1)
    values = intervals.greatest_p(gaps, rows, mine.recall, mine.support)
    return bounds | {position: float(value) for position, value in zip(same, values, strict=True)}


def recall(collected: Collected, entry: Entry, split: str) -> Split | None:
    """An entry's mean recall over its finished seeds."""
    found = [evaluation[split] for result in entry.done if split in (evaluation := collected.evaluation(result))]
    if not found:
        return None
    if len(found) == 1:
        return found[0]
    if any(len(one.recall) != len(found[0].recall) for one in found):
        return None
    mean = sum(one.recall for one in found) / len(found)
    return Split(recall=np.asarray(mean), support=found[0].support)


def compare(collected: Collected, first: Entry, second: Entry, split: str) -> float:
    """The p value of a difference in balanced accuracy: paired where the titles are the same ones."""
    return _compare(collected, first, _answers(collected, first, split), second, split)


Answers = tuple[np.ndarray, np.ndarray]  # labels (N,), and how often each title was right over the seeds (N,)


def _compare(collected: Collected, first: Entry, mine: Answers | None, second: Entry, split: str) -> float:
    theirs = _answers(collected, second, split)
    if mine and theirs and np.array_equal(mine[0], theirs[0]):
        return intervals.paired_p(mine[1], theirs[1], mine[0])
    one, other = recall(collected, first, split), recall(collected, second, split)
    return intervals.unpaired_p(one, other) if one and other else 1.0


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
