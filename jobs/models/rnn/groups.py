"""Titles of like length together, so that a recurrent layer spends little of its work on padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

OVERHEAD = 32  # titles whose work a group costs at each of its words, on top of its own titles'


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """A batch cut by length, longest first.

    ``rows`` (B,) are the batch's titles in that order; group g has the next ``counts[g]`` of them and is
    ``widths[g]`` words long. ``rank`` (B,) is where each title went.
    """

    rows: Tensor
    rank: Tensor
    counts: list[int]
    widths: list[int]

    @classmethod
    def of(cls, lengths: Tensor) -> Groups:
        """The groups of titles of these lengths (B,)."""
        rows = torch.argsort(lengths, descending=True, stable=True)
        rank = torch.empty_like(rows)
        rank[rows] = torch.arange(len(rows))
        counts, widths = cut(torch.bincount(lengths).tolist())
        return cls(rows=rows, rank=rank, counts=counts, widths=widths)

    def tokens(self, tokens: Tensor) -> Iterator[Tensor]:
        """Each group's tokens by time, (width, count)."""
        for rows, width in zip(torch.split(self.rows, self.counts), self.widths, strict=True):
            yield tokens.index_select(0, rows)[:, :width].t()


def cut(having: list[int]) -> tuple[list[int], list[int]]:
    """How many titles each group has and how long it is, by the number of titles ``having`` each length (0, 1, ..).

    The cheapest way to cut them, where a group costs its width times its titles and ``OVERHEAD``.
    """
    lengths = [length for length, count in enumerate(having) if count][::-1]
    before = [0, *accumulate(having[length] for length in lengths)]
    # best[k]: the cheapest cost of the first k lengths, and where its last group begins.
    best = [(0, 0)]
    for end in range(1, len(before)):
        ways = (
            (best[begin][0] + lengths[begin] * (before[end] - before[begin] + OVERHEAD), begin) for begin in range(end)
        )
        best.append(min(ways))
    counts, widths, end = [], [], len(lengths)
    while end:
        begin = best[end][1]
        counts.append(before[end] - before[begin])
        widths.append(lengths[begin])
        end = begin
    return counts[::-1], widths[::-1]
