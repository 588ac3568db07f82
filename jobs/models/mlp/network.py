"""The MLP as a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from jobs.models.layers import PAD, WordEmbedding, build_head

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
        return self._mean if self.words.frozen and not self.words.dropout else None

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
        self.words.used = tokens
        return nn.functional.embedding_bag(tokens, self.words.weight, mode="mean", padding_idx=PAD)

    def _mean(self, flat: Tensor, lengths: Tensor) -> Tensor:
        """Means (B, D) of the words (N,) of titles of these lengths (B,), one title after the other."""
        starts = lengths.cumsum(0) - lengths
        if self.words.trains:
            rows, index = self.words.distinct(flat)
            mean: Tensor = _Mean.apply(rows, index, starts, lengths)  # type: ignore[no-untyped-call]
            return mean
        # Summing and dividing takes two thirds of the time of mode="mean" and gives the same bits.
        sums = nn.functional.embedding_bag(flat, self.words.weight, starts, mode="sum")
        return sums.div_(lengths.clamp(min=1)[:, None])


class _Mean(Function):
    """Means (B, D) of rows (U, D) over titles; ``index`` (N,) is each word's row, ``starts`` (B,) where a title begins.

    The gradient of row u is the sum, over the occurrences of word u, of gradient[title] / length[title]. torch would
    scatter N rows of D numbers one by one; sorting the occurrences by word (N log N on integers) makes each row's sum a
    bag over titles, which the vectorised kernel of the forward pass adds many times faster.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        ctx.save_for_backward(index, lengths)
        ctx.count = len(rows)
        return nn.functional.embedding_bag(index, rows, starts, mode="mean")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        # gradient (B, D) -> (U, D).
        index, lengths = ctx.saved_tensors
        shares = gradient / lengths.clamp(min=1)[:, None]
        titles = torch.repeat_interleave(lengths)
        order = torch.argsort(index, stable=True)
        sizes = torch.bincount(index, minlength=ctx.count)
        rows = nn.functional.embedding_bag(titles[order], shares, sizes.cumsum(0) - sizes, mode="sum")
        return rows, None, None, None


def build(settings: Settings, *, vectors: Tensor, classes: int, max_length: int) -> nn.Module:  # noqa: ARG001
    """An MLP over these vectors (V, D) with ``classes`` logits."""
    words = WordEmbedding.from_settings(settings, vectors)
    return Mlp(words, build_head(settings, features=words.size, classes=classes))
