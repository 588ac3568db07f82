"""Adam, and Adam for trained word vectors that touches only the words of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from jobs.errors import InputError
from jobs.models.layers import WordEmbedding

DECAY_STEPS = 400  # steps after which a factor below 0.91 a step has left float64's precision
MEAN_AGE = 10  # steps that what is left of the momentum lasts, on average
BIAS_STEPS = 40_960  # steps after which Adam's bias correction is 1 in float64
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
ROWS = 8_192  # word vectors settled at once: a piece that fits the processor's cache


# What dense Adam does to a row whose gradient is zero for some steps, in closed form.


class AdamCatchUp:
    """The sum of the steps that dense Adam would have taken with a row while its gradient was zero.

    A row last moved at step t has mean m and square v of its gradients. In step t + j, without a gradient, Adam moves
    it by rate x m / sqrt(v) x r^j x c(t + j), where r = beta1 / sqrt(beta2) and
    c(n) = sqrt(1 - beta2^n) / (1 - beta1^n). With tail(t), the sum of r^j x c(t + j) over all j >= 1, the sum of the
    first k is tail(t) - r^k x tail(t + k). Adam's epsilon has no closed form: it is taken as it stands ``MEAN_AGE``
    steps on.
    """

    def __init__(self, beta1: float, beta2: float, epsilon: float) -> None:
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._ratio = beta1 / math.sqrt(beta2)
        step = np.arange(1, BIAS_STEPS + DECAY_STEPS + 1, dtype=np.float64)
        correction = np.sqrt(-np.expm1(step * math.log(beta2))) / -np.expm1(step * math.log(beta1))
        fading = self._ratio ** np.arange(1, DECAY_STEPS + 1, dtype=np.float64)
        # tail[t] needs c(t + 1), c(t + 2) ..: correction[t], correction[t + 1] ..
        self._tail = torch.from_numpy(np.correlate(correction, fading, mode="valid"))

    def catch_up(self, row: Tensor, mean: Tensor, square: Tensor, *, last: Tensor, now: int, rate: float) -> None:
        """Bring rows (U, D), their means and squares from their last steps (U,) to step ``now``, in place."""
        steps = (now - last).to(torch.float64)
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


class Optimiser:
    """Adam with L2 (Kingma and Ba, 2015) over every parameter that is trained.

    One departure: the L2 term of a word's vector counts in the steps whose batch has the word, on every device.
    Dense Adam would also pull rare words to zero, by a full step size each step once their own gradient has faded.
    """

    def __init__(self, model: nn.Module, *, learning_rate: float, weight_decay: float, device: torch.device) -> None:
        words = [module for module in model.modules() if isinstance(module, WordEmbedding) and not module.frozen]
        vectors = {id(module.weight) for module in words}
        dense = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in vectors]
        self._rate = learning_rate
        self._lazy: list[_Lazy] = []
        self._parts: list[_Dense | _Lazy] = [_Dense(dense, weight_decay)]
        for module in words:
            if device.type == "cpu":
                self._lazy.append(_Lazy(module, learning_rate, weight_decay))
            else:
                self._parts.append(_DenseEmbedding(module, weight_decay))
        self._parts += self._lazy

    def step(self) -> None:
        """One step along the gradients of the last backward pass."""
        with torch.no_grad():
            for part in self._parts:
                part.step(self._rate)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self._parts:
            for weight in part.weights:
                weight.grad = None

    def flush(self) -> None:
        """Bring every word vector up to date: before an evaluation, never at the whim of a checkpoint."""
        with torch.no_grad():
            for part in self._lazy:
                part.flush()

    def tensors(self) -> list[Tensor]:
        """Every tensor that a step changes, the weights left out."""
        return [tensor for part in self._parts for tensors in part.state().values() for tensor in tensors]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on as if never stopped: tensors in dictionaries and lists."""
        return {"parts": [part.state() for part in self._parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises ValueError when it is another model's or another kind of device's."""
        if [_shapes(part.state()) for part in self._parts] != [_shapes(saved) for saved in state["parts"]]:
            raise InputError("the optimiser's state is of another model or another kind of device: train anew")
        for part, saved in zip(self._parts, state["parts"], strict=True):
            for name, tensors in part.state().items():
                for tensor, value in zip(tensors, saved[name], strict=True):
                    tensor.copy_(value)


def make(model: nn.Module, settings: Mapping[str, Any], device: torch.device) -> Optimiser:
    """The optimiser of a network on a device, by ``learning_rate`` and ``weight_decay``."""
    return Optimiser(
        model, learning_rate=settings["learning_rate"], weight_decay=settings["weight_decay"], device=device
    )


class _Dense:
    """Parameters whose every number moves at every step, in one fused kernel."""

    def __init__(self, weights: list[nn.Parameter], weight_decay: float) -> None:
        self.weights = weights
        self._decay = weight_decay
        self._means = [torch.zeros_like(weight) for weight in weights]
        self._squares = [torch.zeros_like(weight) for weight in weights]
        self._steps = [torch.zeros((), device=weight.device) for weight in weights]

    def step(self, rate: float) -> None:
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        if len(gradients) < len(self.weights):
            raise RuntimeError("a parameter has no gradient: every one must take part in every step")
        _adam(self.weights, gradients, self._means, self._squares, self._steps, rate, self._decay)

    def state(self) -> dict[str, list[Tensor]]:
        return {"means": self._means, "squares": self._squares, "steps": self._steps}


class _DenseEmbedding(_Dense):
    """Word vectors on a GPU: its memory is quick enough to move them all."""

    def __init__(self, words: WordEmbedding, weight_decay: float) -> None:
        super().__init__([words.weight], 0.0)  # type: ignore[list-item]
        self._words = words
        self._l2 = weight_decay

    def step(self, rate: float) -> None:
        weight, used = self._words.weight, self._words.used
        if self._l2 and used is not None and weight.grad is not None:
            share = weight.new_zeros(len(weight), 1).index_fill_(0, used.reshape(-1), self._l2)
            weight.grad.addcmul_(weight, share)
        super().step(rate)


class _Lazy:
    """Word vectors on a CPU: rows are read, brought up to date, moved and written back when a batch uses them.

    Between two uses dense Adam still moves a row, by its fading momentum; ``Lag`` sums that up in closed form. So
    after ``flush`` the vectors are those of dense Adam, up to rounding and to epsilon's small share.
    """

    def __init__(self, words: WordEmbedding, rate: float, weight_decay: float) -> None:
        self._words = words
        self._rate, self._decay = rate, weight_decay
        self.weights: list[nn.Parameter] = [words.weight]  # type: ignore[list-item]
        self._mean = torch.zeros_like(words.weight, requires_grad=False)
        self._square = torch.zeros_like(words.weight, requires_grad=False)
        self._last = torch.zeros(len(words.weight), dtype=torch.int64)  # the step a row is up to date with
        self._steps = torch.zeros((), dtype=torch.int64)
        self._lag = AdamCatchUp(BETA1, BETA2, EPSILON)
        self._ready: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        words.fetch = self.fetch

    def fetch(self, ids: Tensor) -> Tensor:
        """Rows (U, D) as they are after all steps so far; nothing is written, for no step may follow."""
        rows = self._present(ids)
        self._ready = (ids, *rows)
        return rows[0]

    def step(self, rate: float) -> None:
        gradient = self._words.weight.grad
        if gradient is None or self._ready is None:
            raise RuntimeError("the word vectors have no gradient: every step follows a forward and a backward pass")
        ids, row, mean, square = self._ready
        self._ready = None
        # Adam's kernel counts this step itself.
        before = self._steps.to(torch.float32)
        _adam([row], [gradient._values()], [mean], [square], [before], rate, self._decay)
        self._steps += 1
        self._write(ids, row, mean, square)

    def flush(self) -> None:
        now = int(self._steps)
        late = ((self._last > 0) & (self._last < now)).nonzero().view(-1)
        for ids in torch.split(late, ROWS):
            self._write(ids, *self._present(ids))

    def state(self) -> dict[str, list[Tensor]]:
        return {"means": [self._mean], "squares": [self._square], "last": [self._last], "steps": [self._steps]}

    def _present(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        row = self._words.weight.detach().index_select(0, ids)
        mean, square = self._mean.index_select(0, ids), self._square.index_select(0, ids)
        last = self._last.index_select(0, ids)
        self._lag.catch_up(row, mean, square, last=last, now=int(self._steps), rate=self._rate)
        return row, mean, square

    def _write(self, ids: Tensor, row: Tensor, mean: Tensor, square: Tensor) -> None:
        places = ids.numpy()
        # NumPy copies whole rows; torch's index_copy_ takes three times as long.
        self._words.weight.detach().numpy()[places] = row.numpy()
        self._mean.numpy()[places] = mean.numpy()
        self._square.numpy()[places] = square.numpy()
        self._last.index_fill_(0, ids, int(self._steps))


def _adam(
    weights: list[Any],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
    rate: float,
    weight_decay: float,
) -> None:
    adam(
        weights,
        gradients,
        means,
        squares,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=BETA1,
        beta2=BETA2,
        lr=rate,
        weight_decay=weight_decay,
        eps=EPSILON,
        maximize=False,
    )


def _shapes(state: Mapping[str, list[Tensor]]) -> dict[str, list[torch.Size]]:
    return {name: [tensor.shape for tensor in tensors] for name, tensors in state.items()}
