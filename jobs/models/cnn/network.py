"""Convolutional network: windows of words, the strongest of each filter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from jobs.models.layers import Projection, WordEmbedding, build_head, per_word_path

if TYPE_CHECKING:
    from jobs.data.batches import Batch


# Titles laid out by time, longest first, without padding: all first words, then all second words, and so on.


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


# The maximum over time of convolutions, from words that were projected one by one.
#
# A convolution is linear in each word's vector: a window's value is the sum, over its places, of what the filter makes
# of the word there. A row of projected words holds that for every filter length, every place in it and every filter.


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


def max_over_time(projected: Tensor, lengths: Tensor, filters: Filters) -> Tensor:
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


# The CNN as a network.


class Cnn(nn.Module):
    """One-dimensional convolutions, the maximum over the windows that start on a word of the title, and ReLU.

    A title of n words has n windows for every filter length; what a window holds beyond the title's end is zero,
    whatever the rest of the batch looks like, so a filter longer than the title sees all of it. ``weight`` is
    (slots x count, D): for every filter length, every place in it, every filter.
    """

    def __init__(self, words: WordEmbedding, head: nn.Module, filters: Filters) -> None:
        super().__init__()
        self.words = words
        self.filters = filters
        self.weight = nn.Parameter(torch.empty(filters.slots * filters.count, words.size))
        self.bias = nn.Parameter(torch.empty(len(filters.lengths) * filters.count))
        self.relu = nn.ReLU()
        self.head = head
        self._projection = Projection()
        self._start()

    def _start(self) -> None:
        """As nn.Conv1d does: uniform within 1 / sqrt(inputs of a filter)."""
        parts = zip(
            torch.split(self.weight, [length * self.filters.count for length in self.filters.lengths]),
            torch.split(self.bias, self.filters.count),
            self.filters.lengths,
            strict=True,
        )
        for weight, bias, length in parts:
            bound = 1 / math.sqrt(self.words.size * length)
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        tokens = self.words.hide(batch.tokens)
        if per_word_path(tokens):
            rows, index = self._projection(self.words, tokens, self.weight)
            maxima = strongest_by_word(rows, index, batch.lengths, self.filters)
        else:
            places = nn.functional.linear(self.words(tokens), self.weight)
            maxima = max_over_time(places, batch.lengths, self.filters)
        return self.head(self.relu(maxima + self.bias))  # type: ignore[no-any-return]


def build(settings: Mapping[str, Any], *, vectors: Tensor, classes: int) -> nn.Module:
    """A CNN over these vectors (V, D) with logits for so many classes."""
    words = WordEmbedding(
        vectors,
        frozen=settings["freeze_embeddings"],
        scale=settings["embedding_scale"],
        dropout=settings["word_dropout"],
    )
    filters = Filters(tuple(settings["filters_length"]), settings["filters_count"])
    return Cnn(words, build_head(settings, features=len(filters.lengths) * filters.count, classes=classes), filters)
