"""Word vectors: the first layer of every network, frozen or trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

PAD = 0

Fetch = Callable[[Tensor], Tensor]


class Words(nn.Module):
    """The vectors of a vocabulary, shape (V, D); row 0 is the padding's: zero as given, and so it stays.

    Frozen vectors are no part of the state that is saved: the data set has them. On a CPU the gradient of trained
    ones is sparse, with a row for each distinct word of the batch; ``fetch`` is where a lazy optimiser puts its own
    way to read rows (U,) -> (U, D), since those in ``weight`` may lag behind.
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
        self.fetch: Fetch | None = None
        self.used: Tensor | None = None
        if frozen:
            self.register_buffer("weight", weight, persistent=False)
        else:
            self.weight = nn.Parameter(weight)

    @property
    def size(self) -> int:
        """How many numbers a word's vector has."""
        return int(self.weight.shape[1])

    @property
    def trains(self) -> bool:
        """Whether a pass now is one that the vectors learn from."""
        return self.training and not self.frozen and torch.is_grad_enabled()

    @property
    def hides(self) -> bool:
        """Whether a pass now is one that hides words."""
        return self.training and self.dropout > 0.0

    def hide(self, tokens: Tensor) -> Tensor:
        """The tokens with a share of them turned into padding, in training alone."""
        if not self.hides:
            return tokens
        return tokens * (torch.rand(tokens.shape, device=tokens.device) >= self.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors (B, T, D) of tokens (B, T)."""
        if self.trains and tokens.device.type == "cpu":
            rows, index = self.distinct(tokens)
            return nn.functional.embedding(index, rows)
        self.used = tokens if self.trains else None
        return nn.functional.embedding(tokens, self.weight, padding_idx=PAD)

    def distinct(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (U, D) of the distinct tokens, padding first even where there is none, and each token's row."""
        padding = tokens.new_zeros(1)
        ids, index = torch.unique(torch.cat([padding, tokens.reshape(-1)]), return_inverse=True)
        index = index[1:].view(tokens.shape)
        if not self.trains:
            return self.weight.index_select(0, ids), index
        rows = self.fetch(ids) if self.fetch else self.weight.detach().index_select(0, ids)
        return _Rows.apply(self.weight, rows, ids), index  # type: ignore[no-untyped-call]


class _Rows(Function):
    """Hands on rows of the weights, and their gradient back as sparse rows of the weights' gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
        ctx.shape = weight.shape
        ctx.save_for_backward(ids)
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        gradient = gradient.clone()
        gradient[PAD] = 0.0
        # Distinct and ascending by construction, which is what coalesced means.
        rows = torch.sparse_coo_tensor(ids[None], gradient, ctx.shape, is_coalesced=True, check_invariants=False)
        return rows, None, None
