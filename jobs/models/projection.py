"""A linear layer over word vectors, computed once for each distinct word instead of once for each place it stands."""

from __future__ import annotations

import torch
from torch import Tensor

from jobs.models.product import linear, product
from jobs.models.words import Words

MOST_BYTES = 1 << 30


class Projection:
    """Projects words: in training the batch's distinct ones, in evaluation each word when it is first met.

    The table of words met so far is kept until a weight changes, unless it would take more than 1 GiB.
    """

    def __init__(self) -> None:
        self._key: tuple[int, ...] = ()
        self._table: Tensor | None = None
        self._known: Tensor | None = None

    def __call__(self, words: Words, tokens: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (U, P) and each token's row in them, for ``weight`` (P, D)."""
        small = words.weight.shape[0] * weight.shape[0] * 4 <= MOST_BYTES
        if small and not words.training and not torch.is_grad_enabled():
            return self._remember(words, tokens, weight), tokens
        self._table = None
        rows, index = words.distinct(tokens)
        return linear(rows, weight), index

    def _remember(self, words: Words, tokens: Tensor, weight: Tensor) -> Tensor:
        key = tuple(number for tensor in (words.weight, weight) for number in (tensor.data_ptr(), tensor._version))
        if self._table is None or self._known is None or key != self._key:
            # Zero, and not whatever lies in memory: windows beyond a title's end read the padding's row, which is zero,
            # also where no title of the batch is padded. Made outside of inference mode, to be written outside of it.
            with torch.inference_mode(False):
                self._table = weight.new_zeros((words.weight.shape[0], weight.shape[0]))
                self._known = torch.zeros(words.weight.shape[0], dtype=torch.bool)
            self._key = key
        flat = tokens.reshape(-1)
        new = torch.unique(flat[~self._known.index_select(0, flat)])
        if len(new):
            self._table.index_copy_(0, new, product(words.weight.index_select(0, new), weight))
            self._known.index_fill_(0, new, True)
        return self._table


def by_word(tokens: Tensor) -> bool:
    """Whether to work word by word: on a CPU, in float32; a GPU is faster at doing the same thing everywhere."""
    return tokens.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
