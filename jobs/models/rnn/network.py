"""Recurrent network: LSTM layers over the words of a title."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jobs.models.layers import WordEmbedding, build_head, per_word_path

if TYPE_CHECKING:
    from jobs.data.batches import Batch


OVERHEAD = 32  # titles whose work a group costs at each of its words, on top of its own titles'


# Titles of like length together, so that a recurrent layer spends little of its work on padding.


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


# The RNN as a network.


class Rnn(nn.Module):
    """A stacked LSTM in reading direction and the state of its last layer after each title's last word."""

    def __init__(self, words: WordEmbedding, head: nn.Module, *, layers: int, features: int) -> None:
        super().__init__()
        self.words = words
        self.lstm = nn.LSTM(words.size, features, layers)
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        tokens = self.words.hide(batch.tokens)
        state = self._grouped(tokens, batch.lengths) if per_word_path(tokens) else self._whole(tokens, batch.lengths)
        return self.head(state)  # type: ignore[no-any-return]

    def _whole(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Last states (B, H): the layer reads forward, so padding after a title changes nothing before it."""
        return self._last(self.words(tokens.t()), lengths)

    def _grouped(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The same with little work on padding."""
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
        """The last layer's state (B, H) after the last word of titles by time, (T, B, D)."""
        states: Tensor = self.lstm(vectors)[0]
        last = (lengths - 1)[None, :, None].expand(1, -1, states.shape[2])
        return states.gather(0, last).squeeze(0)


def unsupported(device: torch.device, precision: str) -> str | None:
    """Why no LSTM can be computed so, or None.

    oneDNN has LSTMs in bfloat16 for processors with AVX-512 alone (matrix products for all), and can be told to leave
    those instructions out; so it is asked for a small one. Draws from the global generator.
    """
    if device.type != "cpu" or precision != "bfloat16":
        return None
    lstm = nn.LSTM(8, 8)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = lstm(torch.zeros(1, 1, 8))[0]
        torch.autograd.backward(states.float().sum())
    except RuntimeError:
        return "precision: bfloat16: this processor computes no LSTM in it; set precision: float32, or use a GPU"
    return None


def build(settings: Mapping[str, Any], *, vectors: Tensor, classes: int) -> nn.Module:
    """An RNN over these vectors (V, D) with logits for so many classes."""
    words = WordEmbedding(
        vectors,
        frozen=settings["freeze_embeddings"],
        scale=settings["embedding_scale"],
        dropout=settings["word_dropout"],
    )
    layers, features = settings["lstm_layers"], settings["lstm_features"]
    return Rnn(words, build_head(settings, features=features, classes=classes), layers=layers, features=features)
