"""Sub-word vectors: character n-grams have vectors of their own, and an unknown word is known by those that it has."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from jobs.data.dataset import Ragged, offsets
from jobs.models.layers import PAD, WordEmbedding, means


class SubwordVectors(nn.Module):
    """The mean of the vectors of a word's character n-grams (Bojanowski et al. 2017), to be added to the word's own.

    Which n-grams a word has is the data set's to say, by its token id, and no part of the state that is saved. The
    vectors are trained, from zero: at the start a network is the one without them. They are a ``WordEmbedding``, so on
    a CPU a step moves those of its batch alone.
    """

    flat: Tensor  # (M,) int32: the n-grams of all words, one word after the other
    starts: Tensor  # (W + 1,) int64: where those of a token id begin

    def __init__(self, table: Ragged, ngrams: int, size: int) -> None:
        super().__init__()
        self.vectors = WordEmbedding(torch.zeros(ngrams + 1, size), frozen=False, scale=1.0, dropout=0.0)
        for name in ("flat", "starts"):
            self.register_buffer(name, None, persistent=False)
        self.read(table, torch.device("cpu"))

    def read(self, table: Ragged, device: torch.device) -> None:
        """Take another table, such as one with the unknown words of new titles: rows of n-gram ids by token id."""
        self.table = table
        self.most = max(1, int(table.lengths.max(initial=0)))
        # One more, which no word has: a last word without n-grams begins there.
        self.flat = torch.from_numpy(np.append(table.values, PAD).astype(np.int32)).to(device)
        self.starts = torch.from_numpy(offsets(table.lengths)).to(device)

    def of_words(self, ids: Tensor) -> Tensor:
        """Means (U, D) for token ids (U,), on a CPU: n-grams that many words have are looked up once."""
        starts = self.starts[ids]
        lengths = self.starts[ids + 1] - starts
        ends = lengths.cumsum(0)
        places = torch.arange(int(ends[-1])) + torch.repeat_interleave(starts - (ends - lengths), lengths)
        rows, index = self.vectors.distinct(self.flat[places].long())
        return means(rows, index, ends - lengths, lengths)

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """Means (.., D) for tokens of any shape, by which all other shapes go: a GPU's host waits for nothing."""
        column = torch.arange(self.most, device=tokens.device)
        flat = tokens.reshape(-1, 1)
        starts = self.starts[flat]
        inside = column < self.starts[flat + 1] - starts
        ngrams = self.flat[(starts + column).clamp(max=len(self.flat) - 1)].long().masked_fill(~inside, PAD)
        self.vectors.used = ngrams if self.vectors.trains else None
        bags = nn.functional.embedding_bag(ngrams, self.vectors.weight, mode="mean", padding_idx=PAD)
        return bags.view(*tokens.shape, -1)


def read_subwords(model: nn.Module, table: Ragged, device: torch.device) -> None:
    """Have a network know the words of a table; nothing is done where it knows them already."""
    for module in model.modules():
        if isinstance(module, SubwordVectors) and module.table is not table:
            module.read(table, device)
