"""AdamW, Adam with decoupled decay: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from jobs.settings import ORIGINAL, Doc, settings
from jobs.training.optimisers import CatchUp, OptimiserSettings, Rates

if TYPE_CHECKING:
    from torch import Tensor

REVISION = 1
SLOWEST = 0.995  # what may be left after a step of what a row without a gradient has still to move


@settings
class Settings(OptimiserSettings):
    """AdamW's."""

    beta1: Annotated[float, Ge(0), Le(0.99), ORIGINAL, Doc("share of the gradients' mean kept each step")] = 0.9
    beta2: Annotated[float, Ge(0.9), Le(0.9999), ORIGINAL, Doc("share of their squares' mean kept each step")] = 0.999
    epsilon: Annotated[float, Gt(0), Le(1), ORIGINAL, Doc("added to the root of the squares' mean")] = 1e-8

    def state_names(self) -> tuple[str, ...]:
        return ("means", "squares")

    def step(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        states: Sequence[list[Tensor]],
        steps: list[Tensor],
        *,
        rate: float | Tensor,
        decay: float,
    ) -> None:
        from torch.optim.adamw import adamw

        means, squares = states
        adamw(
            weights, gradients, means, squares, [], steps, fused=True, amsgrad=False, maximize=False,
            beta1=self.beta1, beta2=self.beta2, eps=self.epsilon, lr=rate, weight_decay=decay,
        )  # fmt: skip

    def dense_because(self, rate: float, decay: float) -> str | None:
        # The closed form sums powers of this ratio, and subtracts sums: it must be well below 1.
        if self.beta1 / self.beta2**0.5 >= SLOWEST * (1 - rate * decay):
            return f"decays weights by {rate * decay:.2g} a step, too fast for its closed form"
        return None

    def catch_up(self, rates: Rates, decay: float) -> CatchUp:
        from jobs.training.catch_up import AdamCatchUp

        return AdamCatchUp(rates, self.beta1, self.beta2, self.epsilon, decay=decay)

    def check(self, rate: float, decay: float) -> str | None:
        """A decay that takes more than all of a weight, or means that outlast their squares."""
        if rate * decay >= 1:
            return f"learning_rate * weight_decay must be below 1, and {rate:g} * {decay:g} is {rate * decay:g}"
        if self.beta1**2 >= self.beta2:
            return f"beta1 {self.beta1:g} is too high beside beta2 {self.beta2:g}: its square must be below beta2"
        return None
