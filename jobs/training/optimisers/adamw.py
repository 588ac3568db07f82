"""AdamW, Adam with decoupled decay: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019."""

from __future__ import annotations

from jobs.settings import settings
from jobs.training.optimisers import CatchUp, MomentSettings, Rates, Update

REVISION = 1
SLOWEST = 0.995  # what may be left after a step of what a row without a gradient has still to move


@settings
class Settings(MomentSettings):
    """AdamW's."""

    def step(self, update: Update) -> None:
        from torch.optim.adamw import adamw

        means, squares = update.states
        adamw(
            update.weights, update.gradients, means, squares, [], update.steps, fused=True, amsgrad=False,
            maximize=False, beta1=self.beta1, beta2=self.beta2, eps=self.epsilon, lr=update.rate,
            weight_decay=update.decay,
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
        """A decay that takes more than all of a weight; see ``MomentSettings`` too."""
        if rate * decay >= 1:
            return f"learning_rate * weight_decay must be below 1, and {rate:g} * {decay:g} is {rate * decay:g}"
        return super().check(rate, decay)
