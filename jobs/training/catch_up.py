"""Closed forms of the steps in which a word's vector had no gradient, for optimisers that are lazy on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.training.optimisers import Rates

Correction = Callable[[int], NDArray[np.float64]]


# How far a row moves without a gradient, in units of its last direction.


class Tail:
    """The sum of the shares of its last direction that a row moves in steps without a gradient.

    The j-th such step after step t moves it by rate(t + j) x r^j x c(t + j): r is what is left of the direction after a
    step, c the optimiser's own correction. With tail(t), the sum over all j >= 1, the sum of the first k is
    tail(t) - r^k x tail(t + k).

    With decoupled decay each step first takes rate x decay of the row. Let kept be the product of (1 - rate x decay)
    over the k steps. What a step adds decays in those after it, so it counts as it would if it came before all of them,
    divided by the product up to itself: tail(t) then sums rate(t + j) x r^j x c(t + j) / product(t + 1 .. t + j), and
    the row ends at kept x (row - tail(t)) + r^k x tail(t + k).

    The tails are a table of float64: of a schedule one for each step, by one pass backwards over
    tail(t) = r / (1 - rate(t + 1) x decay) x (rate(t + 1) x c(t + 1) + tail(t + 1)); at a constant rate as many as it
    takes until c is 1, made in a few milliseconds, and for a rate of 1.
    """

    def __init__(self, rates: Rates, ratio: float, correction: Correction, settles: int, *, decay: float = 0.0) -> None:
        self._ratio = ratio
        self._rate = rates if isinstance(rates, float) else 1.0
        self._log_kept: Tensor | float | None = None  # after each step from the start; or of one step
        # Rounded to float32, as torch's kernels have it: over a thousand steps of 1 - 1e-4 that is 2e-5 of a row.
        kept = (1 - decay * np.atleast_1d(np.asarray(rates))).astype(np.float32).astype(np.float64)
        if isinstance(rates, float):
            self._table = torch.from_numpy(_constant(ratio / float(kept[0]), correction, settles))
            if decay:
                self._log_kept = math.log(kept[0])
            return
        steps = zip(rates, correction(len(rates)).tolist(), kept.tolist(), strict=True)
        tails = accumulate(
            reversed([*steps]), lambda tail, step: ratio / step[2] * (step[0] * step[1] + tail), initial=0.0
        )
        self._table = torch.tensor([*tails], dtype=torch.float64).flip(0)
        if decay:
            self._log_kept = torch.from_numpy(np.concatenate([[0.0], np.cumsum(np.log(kept))]))

    def moved(self, last: Tensor, now: int, steps: Tensor) -> tuple[Tensor, Tensor | None]:
        """How far rows (U,) moved from step ``last`` to ``now``, ``steps`` float64 later, and what was kept of them.

        Both (U,) float64; the second is None without decay, where all was.
        """
        top = len(self._table) - 1
        far = self._table[min(now, top)] * self._ratio**steps
        near = self._table[last.clamp(max=top)]
        if self._log_kept is None:
            return self._rate * (near - far), None
        logs = self._log_kept
        kept = torch.exp(logs * steps if isinstance(logs, float) else logs[now] - logs[last])
        return self._rate * (kept * near - far), kept


def _constant(ratio: float, correction: Correction, settles: int) -> NDArray[np.float64]:
    """tail(0) .. tail(settles) at a rate of 1; from there on the last one."""
    # After so many steps what is left has left float64's precision.
    length = int(42 / -math.log(ratio)) if ratio else 1
    decay = ratio ** np.arange(1, length + 1, dtype=np.float64)
    # tail[t] needs c(t + 1), c(t + 2) ..: the correction's items t, t + 1 ..
    return np.correlate(correction(settles + length), decay, mode="valid")


# Each optimiser's own.


class AdamCatchUp:
    """The sum of the steps that dense Adam, or AdamW, would have taken with a row while its gradient was zero.

    From algorithm 1 of Kingma and Ba, 2015. A row last moved at step t has the moments m (mean) and v (square) of its
    gradients. After j steps without a gradient these are m x beta1^j and v x beta2^j, so step t + j moves the row by
    rate x m / sqrt(v) x r^j x c(t + j), with r = beta1 / sqrt(beta2) and the bias correction
    c(n) = sqrt(1 - beta2^n) / (1 - beta1^n): see ``Tail``. Adam's epsilon has no closed form: it is taken as it stands
    a few steps on, the average age of what is left of the momentum.

    Catching up costs one pass over (U, D), however many steps k were left out.
    """

    def __init__(self, rates: Rates, beta1: float, beta2: float, epsilon: float, *, decay: float = 0.0) -> None:
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._age = round(1 / (1 - beta1))  # steps that what is left of the momentum lasts, on average
        self.every_row = decay > 0

        def correction(count: int) -> NDArray[np.float64]:
            step = np.arange(1, count + 1, dtype=np.float64)
            mean = -np.expm1(step * math.log(beta1)) if beta1 else 1.0
            return np.asarray(np.sqrt(-np.expm1(step * math.log(beta2))) / mean)

        settles = int(40.981 / -math.log(beta2))  # steps after which c is 1 in float64
        self._tail = Tail(rates, beta1 / math.sqrt(beta2), correction, settles, decay=decay)

    def apply(self, rows: Tensor, states: Sequence[Tensor], *, last: Tensor, now: int) -> None:
        """Bring rows (U, D), their means and squares from their last steps (U,) to step ``now``, in place."""
        mean, square = states
        steps = (now - last).to(torch.float64)
        moved, kept = self._tail.moved(last, now, steps)
        # Adam adds epsilon to sqrt(v x beta2^j / (1 - beta2^(t + j))); taken where the momentum is on average.
        middle = last + self._age
        correction = torch.sqrt(-torch.expm1(middle * math.log(self._beta2))) * self._beta2 ** (-self._age / 2)
        share = mean / square.sqrt().add_((self._epsilon * correction).float()[:, None])
        if kept is not None:
            rows.mul_(kept.float()[:, None])
        rows.addcmul_(share, moved.float()[:, None], value=-1.0)
        mean.mul_((self._beta1**steps).float()[:, None])
        square.mul_((self._beta2**steps).float()[:, None])


class SgdCatchUp:
    """The sum of the steps that dense SGD would have taken with a row while its gradient was zero.

    A step without a gradient multiplies the momentum by its share r, and moves the row by rate x momentum; Nesterov's
    by rate x r x momentum. See ``Tail``.
    """

    every_row = False

    def __init__(self, rates: Rates, momentum: float, *, nesterov: bool) -> None:
        self._momentum = momentum
        self._ahead = momentum if nesterov else 1.0
        self._tail = Tail(rates, momentum, np.ones, 0)

    def apply(self, rows: Tensor, states: Sequence[Tensor], *, last: Tensor, now: int) -> None:
        """Bring rows (U, D) and their momenta from their last steps (U,) to step ``now``, in place."""
        if not self._momentum:
            return
        (momentum,) = states
        steps = (now - last).to(torch.float64)
        moved, _ = self._tail.moved(last, now, steps)
        rows.addcmul_(momentum, (self._ahead * moved).float()[:, None], value=-1.0)
        momentum.mul_((self._momentum**steps).float()[:, None])
