"""Adam, with weight decay as L2: Kingma and Ba, *Adam: A Method for Stochastic Optimization*, 2015."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Annotated, Literal

from jobs.settings import Baseline, Doc, settings
from jobs.training.optimisers import CatchUp, MomentSettings, OptimiserSettings, Rates, Update

REVISION = 1


@settings
class Settings(MomentSettings):
    """Adam's."""

    vector_decay: Annotated[
        Literal["always", "when_used"],
        Baseline("when_used"),
        Doc(
            "always: the L2 term of each trained word vector counts in each step, as in torch, and all of them move; "
            "when_used: in the steps whose batch has the word, which on a CPU touch no other vector"
        ),
    ] = "always"

    def step(self, update: Update) -> None:
        from torch.optim.adam import adam

        # torch's own fused kernel: weights, moments and counters in place, in one pass over memory.
        means, squares = update.states
        adam(
            update.weights, update.gradients, means, squares, [], update.steps, fused=True, amsgrad=False,
            maximize=False, beta1=self.beta1, beta2=self.beta2, eps=self.epsilon, lr=update.rate,
            weight_decay=update.decay,
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


@cache
def _when_used(rule: Settings) -> Settings:
    return replace(rule, vector_decay="when_used")
