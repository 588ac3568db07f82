"""Word vectors: the first layer of every network, frozen or trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PAD = 0


class Words(nn.Module):
    """The vectors of a vocabulary, shape (V, D); row 0 is the padding's: zero as given, and so it stays.

    Frozen vectors are no part of the state that is saved: the data set has them.
    """

    weight: Tensor

    def __init__(self, vectors: Tensor, *, frozen: bool, scale: float, dropout: float) -> None:
        super().__init__()
        weight = vectors.detach().to(torch.float32)
        # Frozen vectors are used where they lie: tasks on a node share the pages of the data set's file.
        if not (frozen and scale == 1.0):
            weight = weight * scale
        self.frozen = frozen
        self.dropout = dropout
        if frozen:
            self.register_buffer("weight", weight, persistent=False)
        else:
            self.weight = nn.Parameter(weight)

    @property
    def size(self) -> int:
        """How many numbers a word's vector has."""
        return int(self.weight.shape[1])

    def hide(self, tokens: Tensor) -> Tensor:
        """The tokens with a share of them turned into padding, in training alone."""
        if not self.training or self.dropout == 0.0:
            return tokens
        return tokens * (torch.rand(tokens.shape, device=tokens.device) >= self.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors (B, T, D) of tokens (B, T)."""
        return nn.functional.embedding(tokens, self.weight, padding_idx=PAD)
