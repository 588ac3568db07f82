"""Titles laid out by time, longest first, without padding: all first words, then all second words, and so on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The layout of a batch: N places in all.

    ``place`` (N,) is each place in the flat (B, T) matrix; ``counts`` are the titles that have a word at each time,
    ``starts`` where that time begins; ``rank`` (B,) is each title's position by length.
    """

    place: Tensor
    counts: list[int]
    starts: list[int]
    rank: Tensor

    @classmethod
    def of(cls, lengths: Tensor, width: int) -> Packed:
        """The layout of titles of these lengths (B,) in a matrix of this width."""
        ordered, order = torch.sort(lengths, descending=True, stable=True)
        longest = int(ordered[0])
        time = torch.arange(longest)
        inside = time[:, None] < ordered
        place = (order * width + time[:, None])[inside]
        counts: list[int] = inside.sum(1).tolist()
        starts = [0]
        for count in counts[:-1]:
            starts.append(starts[-1] + count)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order))
        return cls(place=place, counts=counts, starts=starts, rank=rank)
