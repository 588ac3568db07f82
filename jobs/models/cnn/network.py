"""Convolutional network (Kim, 2014): filters over windows of words, and each filter's maximum over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from jobs.models.layers import Projection, WordEmbedding, build_head, per_word_path

if TYPE_CHECKING:
    from jobs.data.batches import Batch
    from jobs.models.cnn import Settings


# Titles laid out by time, longest first, without padding: all first words, then all second words, and so on. Sorted so,
# the titles that still have a word at time t are the first ``counts[t]`` of them, so a loop over T times works on
# contiguous slices (the layout of ``torch.nn.utils.rnn.PackedSequence``).


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The layout of a batch of B titles with N words in all.

    ``position`` (N,) is where each word lies in the flat (B, T) matrix; ``counts`` (T,) are the titles that have a word
    at each time, ``starts`` (T,) where that time begins; ``rank`` (B,) is each title's place in the order by length.
    """

    position: Tensor
    counts: list[int]
    starts: list[int]
    rank: Tensor

    @classmethod
    def of(cls, lengths: Tensor, width: int) -> Packed:
        """The layout of titles of these lengths (B,) in a matrix of width T. Costs a sort of B and N writes."""
        ordered, order = torch.sort(lengths, descending=True, stable=True)
        longest = int(ordered[0])
        time = torch.arange(longest)
        inside = time[:, None] < ordered
        position = (order * width + time[:, None])[inside]
        counts: list[int] = inside.sum(1).tolist()
        starts = [0]
        for count in counts[:-1]:
            starts.append(starts[-1] + count)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order))
        return cls(position=position, counts=counts, starts=starts, rank=rank)


# The maximum over time of convolutions, from words that were projected one by one.
#
# A convolution is linear in each word's vector: with a filter of length k and weights w_0 .. w_{k-1}, the window that
# starts at word t has the value  sum over o < k of  w_o . x_{t+o}.  A slot is one pair (filter length, offset o); a row
# of projected words (slots x count) holds w_o . x for every slot and every filter, so a window's value is the sum of k
# pieces taken from k rows. Beyond a title's end lies padding, whose vector and row are zero.


@dataclass(frozen=True, slots=True)
class Filters:
    """Their lengths in words, and how many there are of each."""

    lengths: tuple[int, ...]
    count: int

    @property
    def slots(self) -> int:
        """How many pairs of a length and an offset in it there are."""
        return sum(self.lengths)

    @property
    def offsets(self) -> list[int]:
        """Each slot's offset from the start of its window."""
        return [offset for length in self.lengths for offset in range(length)]


def max_over_time(projected: Tensor, lengths: Tensor, filters: Filters) -> Tensor:
    """Maxima (B, lengths x count) over the windows that start on a word, from projected words (B, T, slots x count).

    For each length, its k pieces (B, T, count) are shifted to the left by their offsets and added. Costs k additions of
    B x T x count numbers for each length. Of windows that share a maximum each gets an equal part of its gradient, in
    ``max_over_time_per_word`` the first gets all: two subgradients of the same loss.
    """
    time = torch.arange(projected.shape[1], device=projected.device)
    beyond = (time >= lengths[:, None])[:, :, None]
    pieces = iter(torch.split(projected, filters.count, dim=2))
    maxima = []
    for length in filters.lengths:
        windows = next(pieces).float()  # under autocast the products are bfloat16; their sums are not
        for offset in range(1, length):
            windows = windows + nn.functional.pad(next(pieces)[:, offset:], (0, 0, 0, min(offset, len(time))))
        maxima.append(windows.masked_fill(beyond, -torch.inf).amax(dim=1))
    return torch.cat(maxima, dim=1)


def max_over_time_per_word(rows: Tensor, index: Tensor, lengths: Tensor, filters: Filters) -> Tensor:
    """The same maxima from projected words (U, slots x count) and each token's row (B, T); row 0 is the padding's."""
    maxima: Tensor = _MaxOverTime.apply(rows, index, lengths, filters)  # type: ignore[no-untyped-call]
    return maxima


class _MaxOverTime(Function):
    """``max_over_time`` without padding and without the (B, T, slots x count) tensor in memory.

    Forward takes N x slots x count additions and keeps N x lengths x count values until the maxima are found; saved
    for backward are the layout and one window number per maximum. Autograd's own backward of the maximum would fill a
    tensor of the windows' size with zeros, all but the winners.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, lengths: Tensor, filters: Filters) -> Tensor:
        packed = Packed.of(lengths, index.shape[1])
        parts = _parts(index, packed, filters)
        windows = _sums(rows, parts, filters)
        maxima, winners = _first_maxima(windows, packed, with_winners=rows.requires_grad)
        ctx.filters, ctx.shape = filters, rows.shape
        if winners is not None:
            ctx.save_for_backward(parts, winners.index_select(0, packed.rank))
        return maxima.index_select(0, packed.rank)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        # gradient (B, lengths x count) -> (U, slots x count). A maximum's gradient goes to the window that won, and as
        # the window is a sum, unchanged to each of its k pieces: B x count additions for each slot.
        parts, winners = ctx.saved_tensors
        filters: Filters = ctx.filters
        count = filters.count
        rows = gradient.new_zeros(ctx.shape)
        flat = rows.view(-1)
        number = torch.arange(count)
        slot = 0
        for position, length in enumerate(filters.lengths):
            own = slice(position * count, (position + 1) * count)
            values = gradient[:, own].reshape(-1)
            windows = winners[:, own].reshape(-1)
            for _ in range(length):
                target = parts[slot].index_select(0, windows).view(-1, count) * count + number
                flat.index_add_(0, target.view(-1), values)
                slot += 1
        return rows, None, None, None


def _parts(index: Tensor, packed: Packed, filters: Filters) -> Tensor:
    """For each slot and window (slots, N), which of the rows' pieces (U x slots, count) is added.

    The (B, T) matrix is widened by the longest filter less one, so that a window's offset stays within its title's row.
    """
    longest = max(filters.lengths)
    padded = nn.functional.pad(index, (0, longest - 1))
    width, new_width = index.shape[1], padded.shape[1]
    start = packed.position + packed.position // width * (new_width - width)  # the same position in the wider matrix
    position = start + torch.tensor(filters.offsets)[:, None]
    row = padded.view(-1).index_select(0, position.view(-1)).view(position.shape)
    return row * filters.slots + torch.arange(filters.slots)[:, None]


def _sums(rows: Tensor, parts: Tensor, filters: Filters) -> Tensor:
    """The windows' values (N, lengths x count), summed by embedding_bag: one bag for each window and length.

    Its kernel gathers and adds in one pass, so the N x slots pieces never exist in memory.
    """
    windows = parts.shape[1]
    lengths = torch.tensor(filters.lengths)
    starts = (torch.arange(windows)[:, None] * filters.slots + (lengths.cumsum(0) - lengths)).view(-1)
    pieces = rows.detach().reshape(-1, filters.count)
    sums = nn.functional.embedding_bag(parts.t().reshape(-1), pieces, starts, mode="sum")
    return sums.view(windows, -1)


def _first_maxima(windows: Tensor, packed: Packed, *, with_winners: bool) -> tuple[Tensor, Tensor | None]:
    """Maxima over time (B, lengths x count) of windows (N, lengths x count), and which window each is.

    Both have the titles by length. Of equal windows the first wins (``amax`` would share the gradient among them). One
    pass over the windows, in T slices.
    """
    maxima = windows[: packed.counts[0]].clone()
    winners = torch.arange(packed.counts[0])[:, None].repeat(1, windows.shape[1]) if with_winners else None
    times: Sequence[tuple[int, int]] = list(zip(packed.counts, packed.starts, strict=True))[1:]
    for count, start in times:
        values, so_far = windows[start : start + count], maxima[:count]
        if winners is not None:
            number = torch.arange(start, start + count)[:, None]
            torch.where(values > so_far, number, winners[:count], out=winners[:count])
        torch.maximum(values, so_far, out=so_far)
    return maxima, winners


# The CNN as a network.


class Cnn(nn.Module):
    """One-dimensional convolutions, the maximum over the windows that start on a word of the title, and ReLU.

    A title of n words has n windows for every filter length; what a window holds beyond the title's end is zero,
    whatever the rest of the batch looks like, so a filter longer than the title sees all of it. ``weight`` is
    (slots x count, D): for every filter length, every offset in it, every filter.
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
        self._initialise()

    def _initialise(self) -> None:
        """As nn.Conv1d does: uniform within 1 / sqrt(inputs of a filter), for weights and bias."""
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
        tokens = self.words.apply_word_dropout(batch.tokens)
        if per_word_path(tokens):
            rows, index = self._projection(self.words, tokens, self.weight)
            maxima = max_over_time_per_word(rows, index, batch.lengths, self.filters)
        else:
            projected = nn.functional.linear(self.words(tokens), self.weight)
            maxima = max_over_time(projected, batch.lengths, self.filters)
        return self.head(self.relu(maxima + self.bias))  # type: ignore[no-any-return]


def build(settings: Settings, *, vectors: Tensor, classes: int, max_length: int) -> nn.Module:  # noqa: ARG001
    """A CNN over these vectors (V, D) with ``classes`` logits."""
    words = WordEmbedding.from_settings(settings, vectors)
    filters = Filters(settings.filters_length, settings.filters_count)
    return Cnn(words, build_head(settings, features=len(filters.lengths) * filters.count, classes=classes), filters)
