"""The maximum over time of convolutions, from words that were projected one by one.

A convolution is linear in each word's vector: a window's value is the sum, over its places, of what the filter makes
of the word there. A row of projected words holds that for every filter length, every place in it and every filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from jobs.models.packed import Packed


@dataclass(frozen=True, slots=True)
class Filters:
    """Their lengths in words, and how many there are of each."""

    lengths: tuple[int, ...]
    count: int

    @property
    def slots(self) -> int:
        """Pairs of a length and a place in it."""
        return sum(self.lengths)

    @property
    def columns(self) -> list[int]:
        """The place of each slot in its window."""
        return [place for length in self.lengths for place in range(length)]


def strongest(projected: Tensor, lengths: Tensor, filters: Filters) -> Tensor:
    """Maxima (B, lengths x count) over the windows that start on a word, from places (B, T, slots x count)."""
    time = torch.arange(projected.shape[1], device=projected.device)
    beyond = (time >= lengths[:, None])[:, :, None]
    pieces = iter(torch.split(projected, filters.count, dim=2))
    maxima = []
    for length in filters.lengths:
        windows = next(pieces)
        for place in range(1, length):
            windows = windows + nn.functional.pad(next(pieces)[:, place:], (0, 0, 0, min(place, len(time))))
        maxima.append(windows.masked_fill(beyond, -torch.inf).amax(dim=1))
    return torch.cat(maxima, dim=1)


def strongest_by_word(rows: Tensor, index: Tensor, lengths: Tensor, filters: Filters) -> Tensor:
    """The same maxima from projected words (U, slots x count) and each place's row (B, T); row 0 is the padding's."""
    maxima: Tensor = _Strongest.apply(rows, index, lengths, filters)  # type: ignore[no-untyped-call]
    return maxima


class _Strongest(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, lengths: Tensor, filters: Filters) -> Tensor:
        packed = Packed.of(lengths, index.shape[1])
        parts = _parts(index, packed, filters)
        windows = _sums(rows, parts, filters)
        best, where = _first_maxima(windows, packed, remember=rows.requires_grad)
        ctx.filters, ctx.shape = filters, rows.shape
        if where is not None:
            ctx.save_for_backward(parts, where.index_select(0, packed.rank))
        return best.index_select(0, packed.rank)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        parts, where = ctx.saved_tensors
        filters: Filters = ctx.filters
        count = filters.count
        rows = gradient.new_zeros(ctx.shape)
        flat = rows.view(-1)
        number = torch.arange(count)
        slot = 0
        for position, length in enumerate(filters.lengths):
            own = slice(position * count, (position + 1) * count)
            values = gradient[:, own].reshape(-1)
            windows = where[:, own].reshape(-1)
            for _ in range(length):
                # Only the window that won has a gradient: one in as many as a title has words.
                target = parts[slot].index_select(0, windows).view(-1, count) * count + number
                flat.index_add_(0, target.view(-1), values)
                slot += 1
        return rows, None, None, None


def _parts(index: Tensor, packed: Packed, filters: Filters) -> Tensor:
    """For each slot and window (slots, N), which of the rows' pieces (U x slots, count) is added."""
    longest = max(filters.lengths)
    padded = nn.functional.pad(index, (0, longest - 1))
    width, new_width = index.shape[1], padded.shape[1]
    start = packed.place + packed.place // width * (new_width - width)
    place = start + torch.tensor(filters.columns)[:, None]
    token = padded.view(-1).index_select(0, place.view(-1)).view(place.shape)
    return token * filters.slots + torch.arange(filters.slots)[:, None]


def _sums(rows: Tensor, parts: Tensor, filters: Filters) -> Tensor:
    """The windows' values (N, lengths x count)."""
    windows = parts.shape[1]
    inside = torch.tensor(filters.lengths)
    starts = (torch.arange(windows)[:, None] * filters.slots + (inside.cumsum(0) - inside)).view(-1)
    pieces = rows.detach().reshape(-1, filters.count)
    sums = nn.functional.embedding_bag(parts.t().reshape(-1), pieces, starts, mode="sum")
    return sums.view(windows, -1)


def _first_maxima(windows: Tensor, packed: Packed, *, remember: bool) -> tuple[Tensor, Tensor | None]:
    """Maxima over time (B, P), titles by length, and which window it was (the first of equals)."""
    best = windows[: packed.counts[0]].clone()
    where = torch.arange(packed.counts[0])[:, None].repeat(1, windows.shape[1]) if remember else None
    steps: Sequence[tuple[int, int]] = list(zip(packed.counts, packed.starts, strict=True))[1:]
    for count, start in steps:
        here, so_far = windows[start : start + count], best[:count]
        if where is not None:
            number = torch.arange(start, start + count)[:, None]
            torch.where(here > so_far, number, where[:count], out=where[:count])
        torch.maximum(here, so_far, out=so_far)
    return best, where
