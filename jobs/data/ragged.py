"""Rows of unequal length as one flat array and the rows' lengths, and what is done to them without a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[Any]


def offsets(lengths: Ints) -> NDArray[np.int64]:
    """Where each row begins in the flat array, and the end of the last, (N + 1,)."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def within(lengths: Ints) -> NDArray[np.int64]:
    """Each item's position in its own row, (items,)."""
    starts = offsets(lengths)
    return np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)


@dataclass(frozen=True, slots=True)
class Ragged:
    """``values`` flat, ``lengths`` per row."""

    values: Ints
    lengths: Ints

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Ints) -> Ragged:
        """The rows at these positions, in this order."""
        lengths = self.lengths[rows]
        starts = offsets(self.lengths)[:-1]
        return Ragged(self.values[np.repeat(starts[rows], lengths) + within(lengths)], lengths)

    def keep_rows(self, mask: NDArray[np.bool_]) -> Ragged:
        """The rows where the mask is true."""
        return Ragged(self.values[np.repeat(mask, self.lengths)], self.lengths[mask])

    def keep_items(self, mask: NDArray[np.bool_]) -> Ragged:
        """The items where the mask is true; rows may become empty."""
        return Ragged(self.values[mask], self.sums(mask))

    def head(self, limit: int) -> Ragged:
        """The first ``limit`` items of each row."""
        if not len(self.lengths) or int(self.lengths.max(initial=0)) <= limit:
            return self
        return Ragged(self.values[within(self.lengths) < limit], np.minimum(self.lengths, limit))

    def sums(self, items: Ints) -> NDArray[np.int64]:
        """Per row, the sum of one number per item."""
        totals = offsets(items)
        starts = offsets(self.lengths)
        return totals[starts[1:]] - totals[starts[:-1]]

    def expand(self, inner: Ragged) -> Ragged:
        """Each item replaced by the row of ``inner`` at its value."""
        found = inner.take(self.values)
        return Ragged(found.values, self.sums(found.lengths))

    def fill_empty(self, value: int) -> Ragged:
        """Rows without items get this one."""
        empty = self.lengths == 0
        if not empty.any():
            return self
        values = np.insert(self.values, offsets(self.lengths)[:-1][empty], value)
        return Ragged(values, np.where(empty, 1, self.lengths))


def join(parts: Sequence[Ragged]) -> Ragged:
    """Row by row, the items of each part one after another."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.sum([part.lengths for part in parts], axis=0)
    starts = offsets(lengths)[:-1]
    values = np.empty(int(lengths.sum()), np.result_type(*(part.values for part in parts)))
    for part in parts:
        values[np.repeat(starts, part.lengths) + within(part.lengths)] = part.values
        starts = starts + part.lengths
    return Ragged(values, lengths)
