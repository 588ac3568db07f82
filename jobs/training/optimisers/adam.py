"""Adam, with weight decay as L2: Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2015."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from jobs.settings import ORIGINAL, Baseline, Doc, settings
from jobs.training.optimisers import CatchUp, OptimiserSettings, Rates

if TYPE_CHECKING:
    from torch import Tensor

REVISION = 1


@settings
class Settings(OptimiserSettings):
    """Adam's."""

    beta1: Annotated[float, Ge(0), Le(0.99), ORIGINAL, Doc("share of the gradients' mean kept each step")] = 0.9
    beta2: Annotated[float, Ge(0.9), Le(0.9999), ORIGINAL, Doc("share of their squares' mean kept each step")] = 0.999
    epsilon: Annotated[float, Gt(0), Le(1), ORIGINAL, Doc("added to the root of the squares' mean")] = 1e-8
    vector_decay: Annotated[
        Literal["always", "when_used"],
        Baseline("when_used"),
        Doc(
            "always: the L2 term of each trained word vector counts in each step, as in torch, and all of them move; "
            "when_used: in the steps whose batch has the word, which on a CPU touch no other vector"
        ),
    ] = "always"

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
        from torch.optim.adam import adam

        # torch's own fused kernel: weights, moments and counters in place, in one pass over memory.
        means, squares = states
        adam(
            weights, gradients, means, squares, [], steps, fused=True, amsgrad=False, maximize=False,
            beta1=self.beta1, beta2=self.beta2, eps=self.epsilon, lr=rate, weight_decay=decay,
        )  # fmt: skip

    def dense_because(self, rate: float, decay: float) -> str | None:  # noqa: ARG002
        if decay and self.vector_decay == "always":
            return "adds weight_decay to the gradient of every vector (adamw and vector_decay: when_used do not)"
        return None

    def catch_up(self, rates: Rates, decay: float) -> CatchUp:  # noqa: ARG002 - an L2 term has no part in it
        from jobs.training.catch_up import AdamCatchUp

        return AdamCatchUp(rates, self.beta1, self.beta2, self.epsilon)

    @property
    def decays_used_words_only(self) -> bool:
        return self.vector_decay == "when_used"

    def without_vector_decay(self) -> OptimiserSettings:
        return self if self.vector_decay == "when_used" else _when_used(self)

    def check(self, rate: float, decay: float) -> str | None:  # noqa: ARG002
        """Adam's means must outlast none of its squares, or a step without a gradient moves a weight ever faster."""
        if self.beta1**2 >= self.beta2:
            return f"beta1 {self.beta1:g} is too high beside beta2 {self.beta2:g}: its square must be below beta2"
        return None


@cache
def _when_used(rule: Settings) -> Settings:
    return replace(rule, vector_decay="when_used")
