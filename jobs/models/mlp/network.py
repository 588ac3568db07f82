"""The MLP as a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from jobs.models.layers import PAD, WordEmbedding, build_head, means

if TYPE_CHECKING:
    from jobs.data.batches import Ahead, Batch
    from jobs.models.mlp import Settings


class Mlp(nn.Module):
    """Mean of the word vectors over a title's own words, then the head."""

    def __init__(self, words: WordEmbedding, head: nn.Module) -> None:
        super().__init__()
        self.words = words
        self.head = head

    @property
    def ahead(self) -> Ahead | None:
        """Computes the means of frozen vectors before a step; None where training changes vectors or drops words."""
        changes = not self.words.frozen or self.words.dropout or self.words.subwords is not None
        return None if changes else self._mean

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        return self.head(self._means(batch))  # type: ignore[no-any-return]

    def _means(self, batch: Batch) -> Tensor:
        if batch.features is not None:
            return batch.features
        if batch.flat_tokens is not None and not self.words.drops_words:
            return self._mean(batch.flat_tokens, batch.lengths)
        tokens = self.words.apply_word_dropout(batch.tokens)
        if tokens.device.type == "cpu":
            kept = tokens != PAD
            return self._mean(tokens[kept], kept.sum(1))
        if self.words.subwords is not None:
            kept = (tokens != PAD)[:, :, None]
            sums: Tensor = (self.words(tokens) * kept).sum(1)
            return sums / kept.sum(1).clamp(min=1)
        self.words.used = tokens
        return nn.functional.embedding_bag(tokens, self.words.weight, mode="mean", padding_idx=PAD)

    def _mean(self, flat: Tensor, lengths: Tensor) -> Tensor:
        """Means (B, D) of the words (N,) of titles of these lengths (B,), one title after the other."""
        starts = lengths.cumsum(0) - lengths
        if self.words.trains or self.words.subwords is not None:
            return means(*self.words.distinct(flat), starts, lengths)
        # Summing and dividing takes two thirds of the time of mode="mean" and gives the same bits.
        sums = nn.functional.embedding_bag(flat, self.words.weight, starts, mode="sum")
        return sums.div_(lengths.clamp(min=1)[:, None])


def build(settings: Settings, *, vectors: Tensor, classes: int, max_length: int) -> nn.Module:  # noqa: ARG001
    """An MLP over these vectors (V, D) with ``classes`` logits."""
    words = WordEmbedding.from_settings(settings, vectors)
    return Mlp(words, build_head(settings, features=words.size, classes=classes))
