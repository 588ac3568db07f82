"""Adam, and Adam for trained word vectors that touches only the words of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from jobs.models.layers import WordEmbedding
from jobs.training.settings import TrainingSettings
from sharedfs.errors import InputError

DECAY_STEPS = 400  # steps after which a factor below 0.91 a step has left float64's precision
MEAN_AGE = 10  # steps that what is left of the momentum lasts, on average
BIAS_STEPS = 40_960  # steps after which Adam's bias correction is 1 in float64
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
ROWS = 8_192  # word vectors brought up to date at once: few enough for the processor's cache

# torch's own fused kernel: it updates weights, moments and step counters in place, in one pass over memory.
_adam = partial(adam, fused=True, amsgrad=False, beta1=BETA1, beta2=BETA2, eps=EPSILON, maximize=False)


# What dense Adam does to a row whose gradient is zero for some steps, in closed form.


class AdamCatchUp:
    """The sum of the steps that dense Adam would have taken with a row while its gradient was zero.

    From algorithm 1 of Kingma and Ba, 2015. A row last moved at step t has the moments m (mean) and v (square) of its
    gradients. After j steps without a gradient these are m x beta1^j and v x beta2^j, so step t + j moves the row by
    rate x m / sqrt(v) x r^j x c(t + j), with r = beta1 / sqrt(beta2) and the bias correction
    c(n) = sqrt(1 - beta2^n) / (1 - beta1^n). With tail(t), the sum of r^j x c(t + j) over all j >= 1, the sum of the
    first k is tail(t) - r^k x tail(t + k). Adam's epsilon has no closed form: it is taken as it stands ``MEAN_AGE``
    steps on, the average age of what is left of the momentum.

    The tails are a table: 40,961 numbers, 0.3 MB, made in a few milliseconds. Catching up costs one pass over (U, D),
    however many steps k were left out.
    """

    def __init__(self, beta1: float, beta2: float, epsilon: float) -> None:
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._ratio = beta1 / math.sqrt(beta2)
        step = np.arange(1, BIAS_STEPS + DECAY_STEPS + 1, dtype=np.float64)
        correction = np.sqrt(-np.expm1(step * math.log(beta2))) / -np.expm1(step * math.log(beta1))
        decay = self._ratio ** np.arange(1, DECAY_STEPS + 1, dtype=np.float64)
        # tail[t] needs c(t + 1), c(t + 2) ..: correction[t], correction[t + 1] ..
        self._tail = torch.from_numpy(np.correlate(correction, decay, mode="valid"))

    def apply(self, row: Tensor, mean: Tensor, square: Tensor, *, last: Tensor, now: int, rate: float) -> None:
        """Bring rows (U, D), their means and squares from their last steps (U,) to step ``now``, in place."""
        steps = (now - last).to(torch.float64)
        # far is r^k x tail(t + k), moved is rate x the sum of the k steps' factors, both (U,) float64.
        far = self._tail[min(now, BIAS_STEPS)] * self._ratio**steps
        moved = rate * (self._tail[last.clamp(max=BIAS_STEPS)] - far)
        # Adam adds epsilon to sqrt(v x beta2^j / (1 - beta2^(t + j))); taken where the momentum is on average.
        middle = last + MEAN_AGE
        correction = torch.sqrt(-torch.expm1(middle * math.log(self._beta2))) * self._beta2 ** (-MEAN_AGE / 2)
        share = mean / square.sqrt().add_((self._epsilon * correction).float()[:, None])
        row.addcmul_(share, moved.float()[:, None], value=-1.0)
        mean.mul_((self._beta1**steps).float()[:, None])
        square.mul_((self._beta2**steps).float()[:, None])


# Adam, which on a CPU touches only those word vectors that a batch used and still ends where dense Adam does.


class OptimiserState(TypedDict):
    """All that an optimiser needs to go on exactly: each part's tensors by name, as a checkpoint has them."""

    parts: list[dict[str, list[Tensor]]]


class Optimiser:
    """Adam with L2 (Kingma and Ba, 2015) over every parameter that is trained.

    One departure: the L2 term of a word's vector counts in the steps whose batch has the word, on every device.
    Dense Adam would also pull rare words to zero, by a full step size each step once their own gradient has decayed.
    On a CPU a step touches only the vectors of the words in its batch: U x D numbers instead of V x D.
    """

    def __init__(self, model: nn.Module, *, learning_rate: float, weight_decay: float, device: torch.device) -> None:
        embeddings = [module for module in model.modules() if isinstance(module, WordEmbedding) and not module.frozen]
        vectors = {id(module.weight) for module in embeddings}
        dense = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in vectors]
        self._lazy: list[_LazyEmbedding] = []
        self._parts: list[_Dense | _LazyEmbedding] = [_Dense(dense, learning_rate, weight_decay)]
        for module in embeddings:
            if device.type == "cpu":
                self._lazy.append(_LazyEmbedding(module, learning_rate, weight_decay))
            else:
                self._parts.append(_DenseEmbedding(module, learning_rate, weight_decay))
        self._parts += self._lazy

    def step(self) -> None:
        """One step along the gradients of the last backward pass."""
        with torch.no_grad():
            for part in self._parts:
                part.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for part in self._parts:
            for weight in part.weights:
                weight.grad = None

    def flush(self) -> None:
        """Bring every word vector up to date. Before an evaluation only: a checkpoint must not change a bit."""
        with torch.no_grad():
            for part in self._lazy:
                part.flush()

    def tensors(self) -> list[Tensor]:
        """Every tensor that a step changes, weights excepted."""
        return [tensor for part in self._parts for tensors in part.state().values() for tensor in tensors]

    def state_dict(self) -> OptimiserState:
        """Everything needed to resume exactly."""
        return {"parts": [part.state() for part in self._parts]}

    def load_state_dict(self, state: OptimiserState) -> None:
        """Resume from a state; raises ValueError when it is another model's or another kind of device's."""
        if [_shapes(part.state()) for part in self._parts] != [_shapes(saved) for saved in state["parts"]]:
            raise InputError("the optimiser's state is of another model or another kind of device: train again")
        for part, saved in zip(self._parts, state["parts"], strict=True):
            for name, tensors in part.state().items():
                for tensor, value in zip(tensors, saved[name], strict=True):
                    tensor.copy_(value)


def make(model: nn.Module, settings: TrainingSettings, device: torch.device) -> Optimiser:
    """The optimiser of a network on a device, by ``learning_rate`` and ``weight_decay``."""
    return Optimiser(model, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, device=device)


class _Dense:
    """Parameters of which every number moves at every step."""

    def __init__(self, weights: list[nn.Parameter], rate: float, weight_decay: float) -> None:
        self.weights = weights
        self._rate, self._decay = rate, weight_decay
        self._means = [torch.zeros_like(weight) for weight in weights]
        self._squares = [torch.zeros_like(weight) for weight in weights]
        self._steps = [torch.zeros((), device=weight.device) for weight in weights]

    def step(self) -> None:
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        if len(gradients) < len(self.weights):
            raise RuntimeError("a parameter has no gradient: every one must take part in every step")
        weights: list[Tensor] = [*self.weights]
        moments = self._means, self._squares
        _adam(weights, gradients, *moments, [], self._steps, lr=self._rate, weight_decay=self._decay)

    def state(self) -> dict[str, list[Tensor]]:
        return {"means": self._means, "squares": self._squares, "steps": self._steps}


class _DenseEmbedding(_Dense):
    """Word vectors (V, D) on a GPU, whose memory is fast enough to move all of them at every step.

    A lazy update would make the host wait for the number of distinct words, and its shapes could not be captured.
    """

    def __init__(self, embedding: WordEmbedding, rate: float, weight_decay: float) -> None:
        super().__init__([embedding.weight], rate, 0.0)  # type: ignore[list-item]
        self._embedding = embedding
        self._l2 = weight_decay

    def step(self) -> None:
        # The L2 term of the batch's words alone: a column (V, 1), the decay at their rows and zero elsewhere.
        weight, used = self._embedding.weight, self._embedding.used
        if self._l2 and used is not None and weight.grad is not None:
            share = weight.new_zeros(len(weight), 1).index_fill_(0, used.reshape(-1), self._l2)
            weight.grad.addcmul_(weight, share)
        super().step()


class _LazyEmbedding:
    """Word vectors (V, D) on a CPU: a step reads, brings up to date, moves and writes back its batch's rows (U, D).

    Between two uses dense Adam still moves a row, by its decaying momentum; ``AdamCatchUp`` sums that up in closed
    form. So after ``flush`` the vectors are those of dense Adam, up to rounding and to epsilon's small share.

    A step goes: the forward pass calls ``fetch`` for its distinct words, which keeps the rows and their moments aside;
    ``step`` moves those and writes them back. Nothing else is written, so a forward pass without a step has no effect.
    """

    def __init__(self, embedding: WordEmbedding, rate: float, weight_decay: float) -> None:
        self._embedding = embedding
        self._rate, self._decay = rate, weight_decay
        self.weights: list[nn.Parameter] = [embedding.weight]  # type: ignore[list-item]
        self._mean = torch.zeros_like(embedding.weight, requires_grad=False)
        self._square = torch.zeros_like(embedding.weight, requires_grad=False)
        self._last = torch.zeros(len(embedding.weight), dtype=torch.int64)  # the step a row is up to date with
        self._steps = torch.zeros((), dtype=torch.int64)
        self._catch_up = AdamCatchUp(BETA1, BETA2, EPSILON)
        self._fetched: tuple[Tensor, Tensor, Tensor, Tensor] | None = None  # ids (U,); rows, means, squares (U, D)
        embedding.fetch = self.fetch

    def fetch(self, ids: Tensor) -> Tensor:
        """Rows (U, D) as they are after all steps so far; nothing is written, since a step need not follow."""
        rows = self._up_to_date(ids)
        self._fetched = (ids, *rows)
        return rows[0]

    def step(self) -> None:
        gradient = self._embedding.weight.grad
        if gradient is None or self._fetched is None:
            raise RuntimeError("the word vectors have no gradient: every step follows a forward and a backward pass")
        ids, row, mean, square = self._fetched
        self._fetched = None
        # Adam's kernel counts this step itself.
        before = self._steps.to(torch.float32)
        values = gradient._values()  # (U, D): the sparse gradient has the rows of ids, in their order
        _adam([row], [values], [mean], [square], [], [before], lr=self._rate, weight_decay=self._decay)
        self._steps += 1
        self._write(ids, row, mean, square)

    def flush(self) -> None:
        now = int(self._steps)
        # Words that no batch has used have no momentum and have not moved.
        behind = ((self._last > 0) & (self._last < now)).nonzero().view(-1)
        for ids in torch.split(behind, ROWS):
            self._write(ids, *self._up_to_date(ids))

    def state(self) -> dict[str, list[Tensor]]:
        return {"means": [self._mean], "squares": [self._square], "last": [self._last], "steps": [self._steps]}

    def _up_to_date(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        row = self._embedding.weight.detach().index_select(0, ids)
        mean, square = self._mean.index_select(0, ids), self._square.index_select(0, ids)
        last = self._last.index_select(0, ids)
        self._catch_up.apply(row, mean, square, last=last, now=int(self._steps), rate=self._rate)
        return row, mean, square

    def _write(self, ids: Tensor, row: Tensor, mean: Tensor, square: Tensor) -> None:
        rows = ids.numpy()
        # NumPy copies whole rows; torch's index_copy_ takes three times as long.
        self._embedding.weight.detach().numpy()[rows] = row.numpy()
        self._mean.numpy()[rows] = mean.numpy()
        self._square.numpy()[rows] = square.numpy()
        self._last.index_fill_(0, ids, int(self._steps))


def _shapes(state: Mapping[str, list[Tensor]]) -> dict[str, list[torch.Size]]:
    return {name: [tensor.shape for tensor in tensors] for name, tensors in state.items()}
