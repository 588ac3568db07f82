"""The CNN as a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jobs.models.head import build_head
from jobs.models.words import Words

if TYPE_CHECKING:
    from jobs.data.batches import Batch


class Cnn(nn.Module):
    """One-dimensional convolutions, ReLU and the maximum over the windows that start on a word of the title.

    A title of n words has n windows for every filter length; what a window holds beyond the title's end is zero,
    whatever the rest of the batch looks like, so a filter longer than the title sees all of it.
    """

    def __init__(self, words: Words, head: nn.Module, *, lengths: list[int], count: int) -> None:
        super().__init__()
        self.words = words
        self.lengths = tuple(lengths)
        self.convolutions = nn.ModuleList(nn.Conv1d(words.size, count, length) for length in lengths)
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        vectors = self.words(self.words.hide(batch.tokens)).transpose(1, 2)
        time = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
        beyond = (time >= batch.lengths[:, None])[:, None, :]
        pooled = []
        for length, convolution in zip(self.lengths, self.convolutions, strict=True):
            padded = nn.functional.pad(vectors, (0, length - 1))
            pooled.append(convolution(padded).masked_fill(beyond, -torch.inf).amax(dim=2))
        return self.head(torch.cat(pooled, dim=1).relu())  # type: ignore[no-any-return]


def build(settings: Mapping[str, Any], *, vectors: Tensor, classes: int) -> nn.Module:
    """A CNN over these vectors (V, D) with logits for so many classes."""
    words = Words(
        vectors,
        frozen=settings["freeze_embeddings"],
        scale=settings["embedding_scale"],
        dropout=settings["word_dropout"],
    )
    lengths, count = settings["filters_length"], settings["filters_count"]
    return Cnn(
        words, build_head(settings, features=count * len(lengths), classes=classes), lengths=lengths, count=count
    )
