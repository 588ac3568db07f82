"""The RNN as a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jobs.models.head import build_head
from jobs.models.packed import Packed
from jobs.models.product import linear
from jobs.models.projection import Projection, by_word
from jobs.models.rnn.lstm import run_layer
from jobs.models.words import Words

if TYPE_CHECKING:
    from jobs.data.batches import Batch


class Rnn(nn.Module):
    """A stacked LSTM in reading direction and the state of its last layer after each title's last word."""

    def __init__(self, words: Words, head: nn.Module, *, layers: int, features: int) -> None:
        super().__init__()
        self.words = words
        self.lstm = nn.LSTM(words.size, features, layers, batch_first=True)
        self.head = head
        self._projection = Projection()

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        tokens = self.words.hide(batch.tokens)
        state = self._packed(tokens, batch.lengths) if by_word(tokens) else self._padded(tokens, batch.lengths)
        return self.head(state)  # type: ignore[no-any-return]

    def _padded(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Last states (B, H): the layer reads forward, so padding after a title changes nothing before it."""
        states: Tensor = self.lstm(self.words(tokens))[0]
        last = (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2])
        return states.gather(1, last).squeeze(1)

    def _packed(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The same without work on padding."""
        packed = Packed.of(lengths, tokens.shape[1])
        states = torch.empty(0)
        for layer in range(self.lstm.num_layers):
            into, recurrent, bias, more = (
                getattr(self.lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            if layer == 0:
                rows, index = self._projection(self.words, tokens, into)
                index = index.reshape(-1).index_select(0, packed.place)
                states = run_layer(rows, recurrent, bias + more, packed, index)
            else:
                states = run_layer(linear(states, into), recurrent, bias + more, packed)
        return states.index_select(0, packed.last(lengths))


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
