"""The RNN as a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from jobs.models.head import build_head
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

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        states, _ = self.lstm(self.words(self.words.hide(batch.tokens)))
        last = (batch.lengths - 1)[:, None, None].expand(-1, 1, states.shape[2])
        return self.head(states.gather(1, last).squeeze(1))  # type: ignore[no-any-return]


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
