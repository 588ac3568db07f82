"""Which rows are kept, and in which split: decided from labels alone, after all text has been read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.data.settings import SPLITS, Preprocessing, Split

DUPLICATE, RARE, UNRELIABLE, UNSEEN = "duplicate", "rare category", "unreliable", "label unseen in training"
TRAIN, VALIDATION, TEST, NONE = 0, 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The readable rows of one of train, validation, test or source; ``pairs`` only when duplicates are dropped."""

    name: str
    labels: NDArray[np.int32]
    reliable: NDArray[np.uint8]
    pairs: NDArray[np.uint64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitAssignment:
    """Where each row of a part goes (a position in ``SPLITS``, or ``NONE``), and why rows go nowhere."""

    split: NDArray[np.uint8]
    dropped: Mapping[str, int]


def assign_splits(parts: Sequence[Part], settings: Preprocessing) -> dict[str, SplitAssignment]:
    """Decide on every row: duplicate, rare category, (split,) unreliable, label unseen in training, in this order.

    Duplicates are looked for within a part. Rows per category are counted in the training part, or in all of
    the source; the rows of a category that is too rare are dropped from every part.
    """
    count = 1 + max((int(part.labels.max(initial=-1)) for part in parts), default=-1)
    states = [_PartState(part) for part in parts]
    for state in states:
        if state.part.pairs is not None:
            frame = pl.DataFrame({"a": state.part.pairs[:, 0], "b": state.part.pairs[:, 1]})
            state.drop(~frame.select(pl.struct("a", "b").is_first_distinct()).to_series().to_numpy(), DUPLICATE)
    counted = next(state for state in states if state.part.name in ("train", "source"))
    rows = np.bincount(counted.part.labels[counted.split != NONE], minlength=count)
    rare = (rows > 0) & (rows < settings.min_rows_per_category)
    for state in states:
        state.drop(rare[state.part.labels], RARE)
        if state.part.name == "source":
            state.cut(settings.split or Split())
        if settings.quality == "reliable":
            state.drop((state.split == TRAIN) & (state.part.reliable == 0), UNRELIABLE)
    in_training = np.zeros(count, bool)
    for state in states:
        in_training[state.part.labels[state.split == TRAIN]] = True
    for state in states:
        state.drop(~in_training[state.part.labels], UNSEEN)
    return {state.part.name: SplitAssignment(split=state.split, dropped=state.dropped) for state in states}


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
            self.dropped[cause] = count
            self.split[mask] = NONE

    def cut(self, shares: Split) -> None:
        """Give each category's rows to test, validation and training by these shares, in a seeded order.

        Rows are shuffled, then sorted by label; the sort is stable, so that each category's rows are together and in
        shuffled order, and a row's rank in its category decides its split. One sort for all categories.
        """
        rows = np.flatnonzero(self.split != NONE)
        generator = np.random.Generator(np.random.PCG64(shares.seed))
        rows = generator.permutation(rows)
        rows = rows[np.argsort(self.part.labels[rows], kind="stable")]
        labels = self.part.labels[rows]
        counts = np.bincount(labels) if len(labels) else np.zeros(0, np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]) if len(counts) else counts
        rank = np.arange(len(rows)) - starts[labels]
        # Rounded per category; a category always keeps a row to learn from.
        test = np.minimum((counts * shares.test + 0.5).astype(np.int64), np.maximum(counts - 1, 0))
        validation = (counts * shares.validation + 0.5).astype(np.int64)
        validation = np.minimum(validation, np.maximum(counts - 1 - test, 0))
        self.split[rows[rank < (test + validation)[labels]]] = VALIDATION
        self.split[rows[rank < test[labels]]] = TEST
