"""The RNN as a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jobs.models.head import build_head
from jobs.models.projection import by_word
from jobs.models.rnn.groups import Groups
from jobs.models.words import Words

if TYPE_CHECKING:
    from jobs.data.batches import Batch


class Rnn(nn.Module):
    """A stacked LSTM in reading direction and the state of its last layer after each title's last word."""

    def __init__(self, words: Words, head: nn.Module, *, layers: int, features: int) -> None:
        super().__init__()
        self.words = words
        self.lstm = nn.LSTM(words.size, features, layers)
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        tokens = self.words.hide(batch.tokens)
        state = self._grouped(tokens, batch.lengths) if by_word(tokens) else self._whole(tokens, batch.lengths)
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
    words = Words(
        vectors,
        frozen=settings["freeze_embeddings"],
        scale=settings["embedding_scale"],
        dropout=settings["word_dropout"],
    )
    layers, features = settings["lstm_layers"], settings["lstm_features"]
    return Rnn(words, build_head(settings, features=features, classes=classes), layers=layers, features=features)
