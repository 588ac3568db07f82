"""The MLP as a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from jobs.models.head import build_head
from jobs.models.words import PAD, Words

if TYPE_CHECKING:
    from jobs.data.batches import Batch


class Mlp(nn.Module):
    """Mean of the word vectors over a title's own words, then the head."""

    def __init__(self, words: Words, head: nn.Module) -> None:
        super().__init__()
        self.words = words
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        tokens = self.words.hide(batch.tokens)
        mean = nn.functional.embedding_bag(tokens, self.words.weight, mode="mean", padding_idx=PAD)
        return self.head(mean)  # type: ignore[no-any-return]


def build(settings: Mapping[str, Any], *, vectors: Tensor, classes: int) -> nn.Module:
    """An MLP over these vectors (V, D) with logits for so many classes."""
    words = Words(
        vectors,
        frozen=settings["freeze_embeddings"],
        scale=settings["embedding_scale"],
        dropout=settings["word_dropout"],
    )
    return Mlp(words, build_head(settings, features=words.size, classes=classes))
