"""Recurrent network: LSTM layers over the words of a title."""

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
# A forward LSTM's state after a title's last word does not depend on what follows, so a batch may be cut into groups
# that are each padded to their own longest title. More groups mean less padding and more, smaller matrix products.


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


# The RNN as a network.


class Rnn(nn.Module):
    """A stacked LSTM in reading direction and the state of its last layer after each title's last word."""

    width_multiple = 2  # of a captured graph: every word of padding is one more step in time

    def __init__(self, words: WordEmbedding, head: nn.Module, *, layers: int, features: int) -> None:
        super().__init__()
        self.words = words
        self.lstm = nn.LSTM(words.size, features, layers)
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        tokens = self.words.apply_word_dropout(batch.tokens)
        state = self._grouped(tokens, batch.lengths) if per_word_path(tokens) else self._whole(tokens, batch.lengths)
        return self.head(state)  # type: ignore[no-any-return]

    def _whole(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Last states (B, H), every title padded to the batch's longest."""
        return self._last(self.words(tokens.t()), lengths)

    def _grouped(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The same states with little work on padding; all groups' words are looked up at once, as one (1, N) title."""
        groups = Groups.of(lengths)
        pieces = list(groups.tokens(tokens))
        vectors = self.words(torch.cat([piece.reshape(-1) for piece in pieces])[None])[0]
        parts = zip(
            torch.split(vectors, [piece.numel() for piece in pieces]),
            torch.split(lengths.index_select(0, groups.rows), groups.counts),
            pieces,
            strict=True,
        )
        states = [self._last(part.view(*piece.shape, -1), own) for part, own, piece in parts]
        return torch.cat(states).index_select(0, groups.rank)

    def _last(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """The last layer's state (B, H) after the last word, from vectors (T, B, D) by time and lengths (B,)."""
        states: Tensor = self.lstm(vectors)[0]
        last = (lengths - 1)[None, :, None].expand(1, -1, states.shape[2])
        return states.gather(0, last).squeeze(0)


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
    layers, features = settings.lstm_layers, settings.lstm_features
    return Rnn(words, build_head(settings, features=features, classes=classes), layers=layers, features=features)
