"""The CNN as a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jobs.models.cnn.windows import Filters, strongest, strongest_by_word
from jobs.models.head import build_head
from jobs.models.projection import Projection, by_word
from jobs.models.words import Words

if TYPE_CHECKING:
    from jobs.data.batches import Batch


class Cnn(nn.Module):
    """One-dimensional convolutions, the maximum over the windows that start on a word of the title, and ReLU.

    A title of n words has n windows for every filter length; what a window holds beyond the title's end is zero,
    whatever the rest of the batch looks like, so a filter longer than the title sees all of it. ``weight`` is
    (slots x count, D): for every filter length, every place in it, every filter.
    """

    def __init__(self, words: Words, head: nn.Module, filters: Filters) -> None:
        super().__init__()
        self.words = words
        self.filters = filters
        self.weight = nn.Parameter(torch.empty(filters.slots * filters.count, words.size))
        self.bias = nn.Parameter(torch.empty(len(filters.lengths) * filters.count))
        self.relu = nn.ReLU()
        self.head = head
        self._projection = Projection()
        self._start()

    def _start(self) -> None:
        """As nn.Conv1d does: uniform within 1 / sqrt(inputs of a filter)."""
        parts = zip(
            torch.split(self.weight, [length * self.filters.count for length in self.filters.lengths]),
            torch.split(self.bias, self.filters.count),
            self.filters.lengths,
            strict=True,
        )
        for weight, bias, length in parts:
            bound = 1 / math.sqrt(self.words.size * length)
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch."""
        tokens = self.words.hide(batch.tokens)
        if by_word(tokens):
            rows, index = self._projection(self.words, tokens, self.weight)
            maxima = strongest_by_word(rows, index, batch.lengths, self.filters)
        else:
            places = nn.functional.linear(self.words(tokens), self.weight)
            maxima = strongest(places, batch.lengths, self.filters)
        return self.head(self.relu(maxima + self.bias))  # type: ignore[no-any-return]


def build(settings: Mapping[str, Any], *, vectors: Tensor, classes: int) -> nn.Module:
    """A CNN over these vectors (V, D) with logits for so many classes."""
    words = Words(
        vectors,
        frozen=settings["freeze_embeddings"],
        scale=settings["embedding_scale"],
        dropout=settings["word_dropout"],
    )
    filters = Filters(tuple(settings["filters_length"]), settings["filters_count"])
    return Cnn(words, build_head(settings, features=len(filters.lengths) * filters.count, classes=classes), filters)
