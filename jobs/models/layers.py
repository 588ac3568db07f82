"""Layers that several networks share: word embedding, projection of words, classifier head, dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from jobs.models import NetworkSettings

if TYPE_CHECKING:
    from jobs.models.subwords import SubwordVectors

PER_WORD_MOST_BYTES = 1 << 30
DROPOUT_LEVELS = 1 << 16
PAD, UNK = 0, 1
Fetch = Callable[[Tensor], Tensor]


# Matrix products on a CPU.
#
# PyTorch computes float32 products with MKL, which uses no more than AVX2 on processors that are not Intel's. oneDNN,
# part of the same PyTorch, uses AVX-512 there and takes half the time. Its only public operator is the convolution's,
# so this module alone calls the private one, and falls back to MKL where a build of PyTorch lacks it. Both compute the
# same sums in another order, so results on two kinds of machine differ in the last bits.


def _has_onednn() -> bool:
    return (
        bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


ONEDNN = _has_onednn()


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.t()``, (N, K) and (M, K) -> (N, M), both float32 on a CPU; any strides; no gradient."""
    if not ONEDNN or left.numel() == 0 or right.numel() == 0:
        return left @ right.t()
    # The operator that torch.compile's CPU backend emits for nn.Linear; torch defines no gradient for it.
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return result


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``inputs @ weight.t() + bias`` with its gradients, for inputs (N, K) on a CPU."""
    outputs: Tensor = _Linear.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]
    return outputs


def use_onednn(inputs: Tensor) -> bool:
    """Whether ``linear`` applies: a float32 matrix on a CPU, without autocast."""
    return inputs.device.type == "cpu" and inputs.dim() == 2 and not torch.is_autocast_enabled("cpu")


class Linear(nn.Linear):
    """nn.Linear, computed by ``linear`` where that applies."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, K) -> (N, M)."""
        return linear(inputs, self.weight, self.bias) if use_onednn(inputs) else super().forward(inputs)


class _Linear(Function):
    """y = x W' + b, with x (N, K), W (M, K), b (M,), y (N, M)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        outputs = product(inputs, weight)
        return outputs if bias is None else outputs.add_(bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        # With g = dL/dy (N, M): dL/dx = g W, dL/dW = g' x, dL/db = the column sums of g. ``product`` transposes its
        # second argument, hence the transposes here; strides are enough for it, nothing is copied.
        inputs, weight = ctx.saved_tensors
        to_inputs = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        to_weight = product(gradient.t(), inputs.t()) if ctx.needs_input_grad[1] else None
        return to_inputs, to_weight, gradient.sum(0) if ctx.needs_input_grad[2] else None


# A linear layer over word vectors, computed once for each distinct word instead of once for each of its occurrences.
#
# A word's projection depends on nothing but the word, so gathering rows of U projected words gives what projecting all
# B x T positions gives. The product takes U x D x P instead of B x T x D x P multiplications, and as titles repeat the
# same frequent words (Zipf's law) U is well below B x T. A GPU is faster at the larger product than at finding distinct
# words, whose number the host would have to wait for: there networks project every position.


class Projection:
    """Projects words: in training a batch's distinct ones, in evaluation each word when it first occurs.

    Evaluation keeps a table (V, P) of the words projected so far until a weight changes, so that a whole split
    projects each word once. It is not kept where it would take more than ``PER_WORD_MOST_BYTES``.
    """

    def __init__(self) -> None:
        self._key: tuple[int, ...] = ()
        self._table: Tensor | None = None  # (V, P)
        self._filled: Tensor | None = None  # (V,) bool: which of its rows are computed

    def __call__(self, words: WordEmbedding, tokens: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (U, P) of projected words and each token's row number, shaped as ``tokens``, for ``weight`` (P, D)."""
        small = words.weight.shape[0] * weight.shape[0] * 4 <= PER_WORD_MOST_BYTES and words.subwords is None
        if small and not words.training and not torch.is_grad_enabled():
            return self._filled_table(words, tokens, weight), tokens
        self._table = None
        rows, index = words.distinct(tokens)
        return linear(rows, weight), index

    def _filled_table(self, words: WordEmbedding, tokens: Tensor, weight: Tensor) -> Tensor:
        """The table (V, P), with the rows of these tokens computed."""
        # A tensor's version counts the writes to it in place: an optimiser's step or loaded weights make a new key.
        key = tuple(number for tensor in (words.weight, weight) for number in (tensor.data_ptr(), tensor._version))
        if self._table is None or self._filled is None or key != self._key:
            # Zero, not uninitialised: windows that reach beyond a title's end read the padding's row, which must be
            # zero even where no title of the batch is padded. Made outside of inference mode, since a tensor made
            # inside could not be written outside of it.
            with torch.inference_mode(False):
                self._table = weight.new_zeros((words.weight.shape[0], weight.shape[0]))
                self._filled = torch.zeros(words.weight.shape[0], dtype=torch.bool)
            self._key = key
        flat = tokens.reshape(-1)
        new = torch.unique(flat[~self._filled.index_select(0, flat)])
        if len(new):
            self._table.index_copy_(0, new, product(words.weight.index_select(0, new), weight))
            self._filled.index_fill_(0, new, True)
        return self._table


def per_word_path(tokens: Tensor) -> bool:
    """Whether to compute once for each distinct word: on a CPU, in float32; see ``Projection``."""
    return tokens.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


# Dropout that draws 16 random bits for a unit instead of 64.


class Dropout(nn.Dropout):
    """nn.Dropout; on a CPU its share is rounded to a 65,536th and the mask is drawn in a quarter of the time.

    Drawing bits there costs more than the matrix products of a small hidden layer, and torch draws 64 for each unit.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Units zeroed with the given probability and the rest scaled up, in training alone."""
        dropped = round(self.p * DROPOUT_LEVELS)
        if not self.training or inputs.device.type != "cpu" or not 0 < dropped < DROPOUT_LEVELS:
            return super().forward(inputs)
        # ``random_`` from -2^63 up fills all 64 bits, which are read as four independent int16 numbers, each uniform
        # over DROPOUT_LEVELS values from -DROPOUT_LEVELS / 2 up. The lowest ``dropped`` of these values drop a unit;
        # the others are scaled by the inverse of the share kept, so that the mean stays (inverted dropout).
        draws = torch.empty(-(-inputs.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: inputs.numel()].view(inputs.shape)
        kept = bits >= dropped - DROPOUT_LEVELS // 2
        return inputs * (kept * (DROPOUT_LEVELS / (DROPOUT_LEVELS - dropped)))


# The hidden layers and the output: the last part of every network.


def build_head(settings: NetworkSettings, *, features: int, classes: int) -> nn.Sequential:
    """Linear, ReLU and dropout for each of ``hidden_layers``, then the logits: (B, features) -> (B, classes)."""
    layers: list[nn.Module] = []
    if settings.embedding_dropout:
        layers.append(Dropout(settings.embedding_dropout))
    for width in settings.hidden_layers:
        layers += [Linear(features, width), nn.ReLU()]
        if settings.dropout:
            layers.append(Dropout(settings.dropout))
        features = width
    layers.append(Linear(features, classes))
    return nn.Sequential(*layers)


# Word vectors: the first layer of every network, frozen or trained.


class WordEmbedding(nn.Module):
    """The vectors of a vocabulary, ``weight`` (V, D); row 0 is the padding's, which is zero and stays zero.

    Frozen vectors are no part of the state that is saved: the data set has them. On a CPU the gradient of trained
    ones is sparse, with a row for each distinct word of the batch; a lazy optimiser sets ``fetch`` to read rows,
    (U,) -> (U, D), since those in ``weight`` may be out of date. Elsewhere ``used`` are the tokens of the last
    training pass, for the optimiser's L2 term. With ``subwords`` those of a word are added to its vector, and tokens
    from V on are unknown words, whose own vector is that of <UNK>.
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
        self.subwords: SubwordVectors | None = None
        if frozen:
            self.register_buffer("weight", weight, persistent=False)
        else:
            self.weight = nn.Parameter(weight)

    @classmethod
    def from_settings(cls, settings: NetworkSettings, vectors: Tensor) -> WordEmbedding:
        """The embedding of a data set's vectors (V, D), by the settings that every network takes."""
        return cls(
            vectors,
            frozen=settings.freeze_embeddings,
            scale=settings.embedding_scale,
            dropout=settings.word_dropout,
        )

    @property
    def size(self) -> int:
        """The dimension D of a word's vector."""
        return int(self.weight.shape[1])

    @property
    def trains(self) -> bool:
        """Whether a forward pass now will have a gradient for the vectors."""
        return self.training and not self.frozen and torch.is_grad_enabled()

    @property
    def drops_words(self) -> bool:
        """Whether a forward pass now applies word dropout."""
        return self.training and self.dropout > 0.0

    def apply_word_dropout(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) with a share of them replaced by padding, in training alone."""
        if not self.drops_words:
            return tokens
        return tokens * (torch.rand(tokens.shape, device=tokens.device) >= self.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors (B, T, D) of tokens (B, T)."""
        if (self.trains or self.subwords is not None) and tokens.device.type == "cpu":
            rows, index = self.distinct(tokens)
            return nn.functional.embedding(index, rows)
        known = tokens if self.subwords is None else tokens.where(tokens < len(self.weight), UNK)
        self.used = known if self.trains else None
        vectors = nn.functional.embedding(known, self.weight, padding_idx=PAD)
        return vectors if self.subwords is None else vectors + self.subwords.of_tokens(tokens)

    def distinct(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (U, D) of the distinct tokens, padding first even where there is none, and each token's row in them.

        The row numbers have the shape of ``tokens``. Costs a sort of the tokens, N log N for N of them.
        """
        first = [PAD] if self.subwords is None else [PAD, UNK]
        ids, index = torch.unique(torch.cat([tokens.new_tensor(first), tokens.reshape(-1)]), return_inverse=True)
        index = index[len(first) :].view(tokens.shape)
        if self.subwords is None:
            return self._rows(ids), index
        # Unknown words have the highest ids: their rows, the last ones, begin as that of <UNK>, which is at its id.
        known = self._rows(ids[ids < len(self.weight)])
        rows = torch.cat([known, known[UNK].expand(len(ids) - len(known), -1)])
        return rows + self.subwords.of_words(ids), index

    def _rows(self, ids: Tensor) -> Tensor:
        """Vectors (U, D) of distinct ids (U,), ascending."""
        if not self.trains:
            return self.weight.index_select(0, ids)
        rows = self.fetch(ids) if self.fetch else self.weight.detach().index_select(0, ids)
        return _Rows.apply(self.weight, rows, ids)  # type: ignore[no-untyped-call, no-any-return]


class _Rows(Function):
    """Passes rows (U, D) through and returns their gradient as a sparse gradient of the whole weight (V, D).

    A dense gradient would write V x D numbers in every step, of which all but U x D are zero.
    """

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


# Means of rows over bags of unequal length: a title's words, a word's n-grams.


def means(rows: Tensor, index: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Means (B, D) of rows (U, D) on a CPU; see ``_Mean``. A bag without any is zero."""
    result: Tensor = _Mean.apply(rows, index, starts, lengths)  # type: ignore[no-untyped-call]
    return result


class _Mean(Function):
    """Means (B, D) of rows (U, D) over bags; ``index`` (N,) is each item's row, ``starts`` (B,) where a bag begins.

    The gradient of row u is the sum, over the occurrences of item u, of gradient[bag] / length[bag]. torch would
    scatter N rows of D numbers one by one; sorting the occurrences by item (N log N on integers) makes each row's sum a
    bag over bags, which the vectorised kernel of the forward pass adds many times faster.
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
        bags = torch.repeat_interleave(lengths)
        order = torch.argsort(index, stable=True)
        sizes = torch.bincount(index, minlength=ctx.count)
        rows = nn.functional.embedding_bag(bags[order], shares, sizes.cumsum(0) - sizes, mode="sum")
        return rows, None, None, None
