"""What dense Adam does to a row whose gradient is zero for some steps, in closed form."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

FADED = 400  # steps after which a factor below 0.91 a step has left float64's precision
MIDDLE = 10  # steps that what is left of the momentum lasts, on average
STEADY = 40_960  # steps after which Adam's bias correction is 1 in float64


class Lag:
    """The sum of the steps that dense Adam would have taken with a row while its gradient was zero.

    A row last moved at step t has mean m and square v of its gradients. In step t + j, without a gradient, Adam moves
    it by rate x m / sqrt(v) x r^j x c(t + j), where r = beta1 / sqrt(beta2) and
    c(n) = sqrt(1 - beta2^n) / (1 - beta1^n). With tail(t), the sum of r^j x c(t + j) over all j >= 1, the sum of the
    first k is tail(t) - r^k x tail(t + k). Adam's epsilon has no closed form: it is taken as it stands ``MIDDLE``
    steps on.
    """

    def __init__(self, beta1: float, beta2: float, epsilon: float) -> None:
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._ratio = beta1 / math.sqrt(beta2)
        step = np.arange(1, STEADY + FADED + 1, dtype=np.float64)
        correction = np.sqrt(-np.expm1(step * math.log(beta2))) / -np.expm1(step * math.log(beta1))
        fading = self._ratio ** np.arange(1, FADED + 1, dtype=np.float64)
        # tail[t] needs c(t + 1), c(t + 2) ..: correction[t], correction[t + 1] ..
        self._tail = torch.from_numpy(np.correlate(correction, fading, mode="valid"))

    def catch_up(self, row: Tensor, mean: Tensor, square: Tensor, *, last: Tensor, now: int, rate: float) -> None:
        """Bring rows (U, D), their means and squares from their last steps (U,) to step ``now``, in place."""
        steps = (now - last).to(torch.float64)
        far = self._tail[min(now, STEADY)] * self._ratio**steps
        moved = rate * (self._tail[last.clamp(max=STEADY)] - far)
        # Adam adds epsilon to sqrt(v x beta2^j / (1 - beta2^(t + j))); taken where the momentum is on average.
        middle = last + MIDDLE
        correction = torch.sqrt(-torch.expm1(middle * math.log(self._beta2))) * self._beta2 ** (-MIDDLE / 2)
        share = mean / square.sqrt().add_((self._epsilon * correction).float()[:, None])
        row.addcmul_(share, moved.float()[:, None], value=-1.0)
        mean.mul_((self._beta1**steps).float()[:, None])
        square.mul_((self._beta2**steps).float()[:, None])
