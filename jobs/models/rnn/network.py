"""Recurrent network: LSTM or GRU layers over the words of a title."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from jobs.models.layers import WordEmbedding, build_head, per_word_path

if TYPE_CHECKING:
    from jobs.data.batches import Batch
    from jobs.models.rnn import Settings


OVERHEAD = 32  # what a group costs at each time step on top of its titles, in the work of so many titles


# Titles of similar length together, so that a recurrent layer spends little of its work on padding.
#
# What a title is pooled from does not depend on the padding behind its words, so a batch may be cut into groups that
# are each padded to their own longest title. More groups mean less padding and more, smaller matrix products.


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """A batch of B titles cut into groups by length, longest first.

    ``rows`` (B,) are the batch's titles in that order; group g has the next ``counts[g]`` of them and is
    ``widths[g]`` words long. ``rank`` (B,) is each title's position in ``rows``.
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
        counts, widths = cheapest_groups(torch.bincount(lengths).tolist())
        return cls(rows=rows, rank=rank, counts=counts, widths=widths)

    def tokens(self, tokens: Tensor) -> Iterator[Tensor]:
        """Each group's tokens by time, (width, count)."""
        for rows, width in zip(torch.split(self.rows, self.counts), self.widths, strict=True):
            yield tokens.index_select(0, rows)[:, :width].t()


def cheapest_groups(titles: list[int]) -> tuple[list[int], list[int]]:
    """The number of titles in each group and its width, from the number of titles of each length (0, 1, ..).

    A group costs width x (titles + ``OVERHEAD``). Only consecutive lengths belong together in the cheapest cut, so
    dynamic programming finds it: the best cut of the first k lengths, longest first, is the best cut of the first j
    and one group of the rest, for some j < k. Takes the square of the number of different lengths, a few hundred
    steps for titles of up to 30 words.
    """
    lengths = [length for length, count in enumerate(titles) if count][::-1]
    total = [0, *accumulate(titles[length] for length in lengths)]  # total[k]: titles of the first k lengths
    # best[k]: the cheapest cost of the first k lengths, and where its last group begins.
    best = [(0, 0)]
    for end in range(1, len(total)):
        costs = (
            (best[begin][0] + lengths[begin] * (total[end] - total[begin] + OVERHEAD), begin) for begin in range(end)
        )
        best.append(min(costs))
    counts, widths, end = [], [], len(lengths)
    while end:
        begin = best[end][1]
        counts.append(total[end] - total[begin])
        widths.append(lengths[begin])
        end = begin
    return counts[::-1], widths[::-1]


# Reading from both ends.
#
# torch's own bidirectional layers would begin the backward reading in the padding, or take packed sequences, which
# need the lengths on the host and keep a CPU from its fast kernels. So each direction is a layer of its own, and the
# second one is given each title's own words in reverse, padding behind them as ever.


class BothWays(nn.Module):
    """Stacked pairs of recurrent layers: the states of both directions together are the next pair's input."""

    def __init__(self, cell: type[nn.LSTM | nn.GRU], size: int, features: int, layers: int) -> None:
        super().__init__()
        sizes = [size, *[2 * features] * (layers - 1)]
        self.ahead = nn.ModuleList(cell(size, features) for size in sizes)
        self.back = nn.ModuleList(cell(size, features) for size in sizes)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """States (T, B, 2H) from vectors (T, B, D): of place t after reading up to it, and down to it."""
        order = mirror(lengths, vectors.shape[0])
        for ahead, back in zip(self.ahead, self.back, strict=True):
            vectors = torch.cat([ahead(vectors)[0], _take(back(_take(vectors, order))[0], order)], 2)
        return vectors


def mirror(lengths: Tensor, width: int) -> Tensor:
    """For each place (T, B), flattened, the place in all T x B that has its title's words in reverse; it is its own
    inverse. Padding stays where it is."""
    places = torch.arange(width, device=lengths.device)[:, None]
    titles = torch.arange(len(lengths), device=lengths.device)
    mirrored = torch.where(places < lengths, lengths - 1 - places, places)
    return (mirrored * len(lengths) + titles).reshape(-1)


def _take(states: Tensor, places: Tensor) -> Tensor:
    # Along one flat dimension: its gradient is deterministic on a GPU too, unlike that of gather.
    return states.reshape(-1, states.shape[2]).index_select(0, places).view_as(states)


# The RNN as a network.


class Rnn(nn.Module):
    """Recurrent layers over a title's words, and a pool of their last layer's states."""

    width_multiple = 2  # of a captured graph: every word of padding is one more step in time

    def __init__(self, words: WordEmbedding, head: nn.Module, settings: Settings) -> None:
        super().__init__()
        self.words = words
        self.pooling = settings.pooling
        cell: type[nn.LSTM | nn.GRU] = nn.LSTM if settings.cell == "lstm" else nn.GRU
        shape = (words.size, settings.lstm_features, settings.lstm_layers)
        self.lstm = BothWays(cell, *shape) if settings.bidirectional else cell(*shape)
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        tokens = self.words.apply_word_dropout(batch.tokens)
        pooled = self._grouped(tokens, batch.lengths) if per_word_path(tokens) else self._whole(tokens, batch.lengths)
        return self.head(pooled)  # type: ignore[no-any-return]

    def _whole(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Pooled titles (B, P), every title padded to the batch's longest."""
        return self._pooled(self.words(tokens.t()), lengths)

    def _grouped(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The same with little work on padding; all groups' words are looked up at once, as one (1, N) title."""
        groups = Groups.of(lengths)
        pieces = list(groups.tokens(tokens))
        vectors = self.words(torch.cat([piece.reshape(-1) for piece in pieces])[None])[0]
        parts = zip(
            torch.split(vectors, [piece.numel() for piece in pieces]),
            torch.split(lengths.index_select(0, groups.rows), groups.counts),
            pieces,
            strict=True,
        )
        pooled = [self._pooled(part.view(*piece.shape, -1), own) for part, own, piece in parts]
        return torch.cat(pooled).index_select(0, groups.rank)

    def _pooled(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Pooled titles (B, P) from vectors (T, B, D) by time and lengths (B,)."""
        if not isinstance(self.lstm, BothWays):
            return pool(self.lstm(vectors)[0], lengths, self.pooling, ends=lengths)
        ahead, back = self.lstm(vectors, lengths).chunk(2, 2)
        first = torch.ones_like(lengths)  # where the backward reading ends
        parts = [pool(ahead, lengths, self.pooling, ends=lengths), pool(back, lengths, self.pooling, ends=first)]
        return torch.cat(parts, 1)


def pool(states: Tensor, lengths: Tensor, pooling: str, *, ends: Tensor) -> Tensor:
    """States (T, B, H) of titles of these lengths (B,) pooled, (B, H) or for ``max_mean`` (B, 2H).

    ``last`` is the state of the word in whose place, counted from 1, a title's reading ``ends`` (B,).
    """
    if pooling == "last":
        return states.gather(0, (ends - 1)[None, :, None].expand(1, -1, states.shape[2])).squeeze(0)
    own = (torch.arange(states.shape[0], device=lengths.device)[:, None] < lengths)[:, :, None]
    parts = []
    if pooling in ("max", "max_mean"):
        parts.append(states.masked_fill(~own, float("-inf")).amax(0))
    if pooling in ("mean", "max_mean"):
        # In float32 whatever the states are: a bfloat16 sum would round to 8 bits at each addition.
        sums = states.masked_fill(~own, 0.0).sum(0, dtype=torch.float32)
        parts.append((sums / lengths[:, None]).to(states.dtype))
    return torch.cat(parts, 1)


def unsupported(device: torch.device, precision: str) -> str | None:
    """Why an LSTM can't be computed on this device with this precision, or None.

    oneDNN has bfloat16 LSTMs for processors with AVX-512 alone (it has matrix products for all of them), and an
    environment variable can forbid it these instructions. So this tries a small one. Draws from the global generator.
    """
    if precision != "bfloat16":
        return None
    if device.type == "cuda":
        # at::autocast::_cudnn_rnn_cast_reflatten casts to Half, whatever type is asked for: found in the machine code
        # of torch 2.11 and 2.14. Most of a large batch's gradients are below float16's smallest normal number.
        return "precision: bfloat16: torch computes an LSTM on a GPU in float16 then; set precision: float32"
    if device.type != "cpu":
        return None
    lstm = nn.LSTM(8, 8)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = lstm(torch.zeros(1, 1, 8))[0]
        torch.autograd.backward(states.float().sum())
    except RuntimeError:
        return "precision: bfloat16: this processor computes no LSTM in it; set precision: float32"
    return None


def build(settings: Settings, *, vectors: Tensor, classes: int, max_length: int) -> nn.Module:  # noqa: ARG001
    """An RNN over these vectors (V, D) with ``classes`` logits."""
    words = WordEmbedding.from_settings(settings, vectors)
    return Rnn(words, build_head(settings, features=settings.pooled_features, classes=classes), settings)
