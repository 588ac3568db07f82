"""SGD: steps along the gradient, with momentum (Polyak, 1964), Nesterov's or none, and weight decay as L2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from jobs.settings import ORIGINAL, Doc, settings
from jobs.training.optimisers import CatchUp, OptimiserSettings, Rates, Update

if TYPE_CHECKING:
    from torch import Tensor

REVISION = 1


@settings
class Settings(OptimiserSettings):
    """SGD's."""

    momentum: Annotated[float, Ge(0), Le(0.999), ORIGINAL, Doc("share of the last step's direction kept")] = 0.9
    nesterov: Annotated[bool, ORIGINAL, Doc("look ahead along the momentum")] = False

    def state_names(self) -> tuple[str, ...]:
        return ("momenta",) if self.momentum else ()

    def step(self, update: Update) -> None:
        import torch
        from torch.optim.sgd import sgd

        torch._foreach_add_(update.steps, 1)  # its kernel counts none
        momenta: list[Tensor | None] = [*update.states[0]] if self.momentum else [None for _ in update.weights]
        # torch starts with the first gradient as momentum: so do momenta of zero, as nothing is damped.
        sgd(
            update.weights, update.gradients, momenta, fused=True, momentum=self.momentum, nesterov=self.nesterov,
            dampening=0.0, maximize=False, lr=update.rate, weight_decay=update.decay,  # type: ignore[arg-type]
        )  # fmt: skip

    def dense_because(self, rate: float, decay: float) -> str | None:  # noqa: ARG002
        return "adds weight_decay to the gradient of every vector (adamw does not)" if decay else None

    def catch_up(self, rates: Rates, decay: float) -> CatchUp:  # noqa: ARG002
        from jobs.training.catch_up import SgdCatchUp

        return SgdCatchUp(rates, self.momentum, nesterov=self.nesterov)

    def check(self, rate: float, decay: float) -> str | None:  # noqa: ARG002
        """Nesterov's momentum needs one."""
        return "nesterov needs a momentum above 0" if self.nesterov and not self.momentum else None
