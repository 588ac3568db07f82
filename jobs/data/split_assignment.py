"""Which rows are kept, and in which split: decided from labels and keys, after all text has been read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.data.overlap import matching
from jobs.data.settings import BEYOND, RANDOM, SPLITS, Preprocessing, Split
from jobs.data.title_keys import WORDLESS, Keys, mixed

DUPLICATE, RARE, UNRELIABLE, UNSEEN = "duplicate", "rare category", "unreliable", "label unseen in training"
UNDATED, ELSEWHERE = "no time", "title also in validation or test"
TRAIN, VALIDATION, TEST, NONE = 0, 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The readable rows of one of train, validation, test or source.

    ``keys`` are those of the titles' words in order. ``groups`` (0: none) are what ``split.by`` keeps together, and
    ``times`` (NaN: none) what ``split.time`` sorts by; only with a ``source`` that asks for it.
    """

    name: str
    labels: NDArray[np.int32]
    reliable: NDArray[np.uint8]
    keys: Keys
    groups: Keys | None = None
    times: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitAssignment:
    """Where each row of a part goes (a position in ``SPLITS``, or ``NONE``), and why rows go nowhere."""

    split: NDArray[np.uint8]
    dropped: Mapping[str, int]


def assign_splits(parts: Sequence[Part], settings: Preprocessing) -> dict[str, SplitAssignment]:
    """Decide on every row: duplicate, rare category, (split,) unreliable, overlap, label unseen in training, in order.

    Duplicates are looked for within a part. Rows per category are counted in the training part, or in all of
    the source; the rows of a category that is too rare are dropped from every part.
    """
    count = 1 + max((int(part.labels.max(initial=-1)) for part in parts), default=-1)
    states = [_PartState(part) for part in parts]
    for state in states:
        if settings.deduplicate:
            state.drop(_repeated(state.part), DUPLICATE)
        if state.part.times is not None:
            state.drop(np.isnan(state.part.times), UNDATED)
    counted = next(state for state in states if state.part.name in ("train", "source"))
    rows = np.bincount(counted.part.labels[counted.split != NONE], minlength=count)
    rare = (rows > 0) & (rows < settings.min_rows_per_category)
    for state in states:
        state.drop(rare[state.part.labels], RARE)
        if state.part.name == "source":
            state.cut(settings.split or Split())
        if settings.quality == "reliable":
            state.drop((state.split == TRAIN) & (state.part.reliable == 0), UNRELIABLE)
    if settings.overlap == "drop":
        _drop_overlap(states)
    in_training = np.zeros(count, bool)
    for state in states:
        in_training[state.part.labels[state.split == TRAIN]] = True
    for state in states:
        state.drop(~in_training[state.part.labels], UNSEEN)
    return {state.part.name: SplitAssignment(split=state.split, dropped=state.dropped) for state in states}


def sample_training(
    parts: Sequence[Part], assigned: Mapping[str, SplitAssignment], settings: Preprocessing
) -> dict[str, SplitAssignment]:
    """Keep ``train_rows`` of the training rows, if there are as many; all of a smaller sample are in a larger one.

    It comes after all other decisions: whatever is learnt from, the titles of validation and test and the categories
    are the same, so that scores can be compared.
    """
    sampled = dict(assigned)
    for part in parts:
        assignment = assigned[part.name]
        rows = np.flatnonzero(assignment.split == TRAIN)
        if settings.train_rows == "all" or len(rows) <= settings.train_rows:
            continue
        order = _sample_order(part.labels[rows], (settings.split or Split()).seed)
        split = assignment.split.copy()
        split[rows[order[settings.train_rows :]]] = NONE
        dropped = {**assignment.dropped, BEYOND: len(rows) - settings.train_rows}
        sampled[part.name] = SplitAssignment(split=split, dropped=dropped)
    return sampled


def _sample_order(labels: NDArray[np.int32], seed: int) -> NDArray[np.int64]:
    """The order in which training rows are taken: each category's are spread over it, in a seeded order of their own.

    So the first rows, however many, have each category about as often as all have it.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    of_row = labels[order]
    rank = np.arange(len(order)) - (np.cumsum(counts) - counts)[of_row]
    place = (rank + generator.random(len(order))) / counts[of_row]
    return order[np.argsort(place, kind="stable")]


def _repeated(part: Part) -> NDArray[np.bool_]:
    """The rows whose title and label an earlier row has; titles without words are not compared."""
    with np.errstate(over="ignore"):
        pairs = mixed(part.keys) + mixed(part.labels.astype(np.uint64) + np.uint64(1))
    first: NDArray[np.bool_] = pl.Series(pairs).is_first_distinct().to_numpy()
    repeated: NDArray[np.bool_] = ~first & (part.keys != WORDLESS)
    return repeated


def _drop_overlap(states: Sequence[_PartState]) -> None:
    """Drop training rows whose title is in validation or test, and validation rows whose title is in test."""
    for split, later in ((TRAIN, (VALIDATION, TEST)), (VALIDATION, (TEST,))):
        asked = np.concatenate([state.part.keys[np.isin(state.split, later)] for state in states])
        for state in states:
            state.drop((state.split == split) & matching(state.part.keys, asked), ELSEWHERE)


class _PartState:
    """One part while its rows are decided on."""

    def __init__(self, part: Part) -> None:
        self.part = part
        start = TRAIN if part.name == "source" else SPLITS.index(part.name)
        self.split = np.full(len(part.labels), start, np.uint8)
        self.dropped: dict[str, int] = {}

    def drop(self, mask: NDArray[np.bool_], cause: str) -> None:
        mask = mask & (self.split != NONE)
        if count := int(mask.sum()):
            self.dropped[cause] = self.dropped.get(cause, 0) + count
            self.split[mask] = NONE

    def cut(self, split: Split) -> None:
        """Give the rows to test, validation and training."""
        rows = np.flatnonzero(self.split != NONE)
        if split.time is not None:
            assert self.part.times is not None  # read whenever it is asked for
            self.split[rows] = _by_time(self.part.times[rows], split)
            return
        keys = None if split.by == RANDOM else self.part.groups if self.part.groups is not None else self.part.keys
        groups = None if keys is None else _groups(keys[rows])
        self.split[rows] = _by_category(self.part.labels[rows], groups, split)


def _by_time(times: NDArray[np.float64], split: Split) -> NDArray[np.uint8]:
    """The latest rows to test, those before to validation; rows of one time stay together, in the later part."""
    ordered = np.sort(times)
    count = len(ordered)
    parts = np.full(count, TRAIN, np.uint8)
    if count:
        test = round(count * split.test)
        validation = round(count * split.validation)
        parts[times >= ordered[max(0, count - test - validation)]] = VALIDATION
        parts[times >= ordered[max(0, count - max(test, 1))]] = TEST
    return parts


def _groups(keys: Keys) -> NDArray[np.int64] | None:
    """Each row's group, (N,): rows of equal keys together, numbered by their first row; one without a key is alone.

    None where every row is alone. Numbered by rows and not by keys, as keys may be others in another version of a
    library. Positions are sorted of those rows alone that have an equal: sorting bare keys is several times as fast.
    """
    ordered = np.sort(keys)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    some = np.flatnonzero(matching(keys, repeated))
    some = some[np.argsort(keys[some], kind="stable")]  # rows of equal keys together, the first of them first
    again = np.zeros(len(some), bool)
    again[1:] = keys[some[1:]] == keys[some[:-1]]
    if not again.any():
        return None
    first = np.flatnonzero(~again)[np.cumsum(~again) - 1]  # of each row's group, as a position in ``some``
    alone = np.ones(len(keys), bool)
    alone[some[again]] = False
    groups = np.cumsum(alone) - 1
    groups[some[again]] = groups[some[first[again]]]
    return groups


def _by_category(labels: NDArray[np.int32], groups: NDArray[np.int64] | None, split: Split) -> NDArray[np.uint8]:
    """The part of each row (N,): each category's rows are shared out by itself, in a seeded order, groups whole.

    Groups are shuffled, then sorted by label (that of their first row); the sort is stable, so that each category's
    groups are together and in shuffled order, and how many of its rows come before decides a group's part. One sort for
    all categories. Where every row is a group of its own this is what it was before there were groups.
    """
    sizes = np.ones(len(labels), np.int64) if groups is None else np.bincount(groups)
    label = labels
    if groups is not None:
        label = np.empty(len(sizes), labels.dtype)
        label[groups[::-1]] = labels[::-1]  # the last assignment counts: that of the first row
    order = np.random.Generator(np.random.PCG64(split.seed)).permutation(len(sizes))
    # numpy sorts numbers of 16 bits several times as fast as longer ones, and stable sorts agree.
    short = label.astype(np.uint16) if int(label.max(initial=0)) < 1 << 16 else label
    order = order[np.argsort(short[order], kind="stable")]
    label, sizes = label[order], sizes[order]
    parts = np.full(len(order), TRAIN, np.uint8)
    if split.folds is None:
        parts[order] = _shares(label, sizes, split)
    else:
        fold = np.arange(len(order)) % split.folds
        parts[order[fold == (split.fold + 1) % split.folds]] = VALIDATION
        parts[order[fold == split.fold]] = TEST
    return parts if groups is None else parts[groups]


def _shares(label: NDArray[np.int32], sizes: NDArray[np.int64], split: Split) -> NDArray[np.uint8]:
    """The part of each group (G,), groups of one category together."""
    if not len(label):
        return np.zeros(0, np.uint8)
    ends = np.append(np.flatnonzero(label[1:] != label[:-1]) + 1, len(label))  # of each category's groups
    rows_before = np.cumsum(sizes) - sizes
    starts = rows_before[np.append(0, ends[:-1])]
    counts = np.diff(starts, append=sizes.sum())
    # Rounded per category; a category always keeps a row to learn from.
    test = np.minimum((counts * split.test + 0.5).astype(np.int64), np.maximum(counts - 1, 0))
    validation = (counts * split.validation + 0.5).astype(np.int64)
    validation = np.minimum(validation, np.maximum(counts - 1 - test, 0))
    # By its middle row, so that a large group does not go where a few rows are left; the last stays in training.
    middle = rows_before + (sizes - 1) // 2
    to_test = np.minimum(np.searchsorted(middle, starts + test), ends - 1)
    to_validation = np.minimum(np.searchsorted(middle, starts + test + validation), ends - 1)
    cuts = np.stack([to_test, to_validation, ends], axis=1).ravel()
    return np.repeat(np.tile(np.array([TEST, VALIDATION, TRAIN], np.uint8), len(ends)), np.diff(cuts, prepend=0))
