"""Adam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Optimiser:
    """Adam with L2 over the parameters that are trained."""

    def __init__(self, model: nn.Module, *, learning_rate: float, weight_decay: float) -> None:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._adam = torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)

    def step(self) -> None:
        """One step along the gradients of the last backward pass."""
        self._adam.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._adam.zero_grad(set_to_none=True)

    def settle(self) -> None:
        """Bring every weight up to date: before an evaluation, before weights or state are saved."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on as if never stopped: tensors, numbers, lists and dictionaries alone."""
        return self._adam.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises ValueError when it is another model's."""
        self._adam.load_state_dict(dict(state))


def make(model: nn.Module, settings: Mapping[str, Any], _device: torch.device) -> Optimiser:
    """The optimiser of a network on a device, by ``learning_rate`` and ``weight_decay``."""
    return Optimiser(model, learning_rate=settings["learning_rate"], weight_decay=settings["weight_decay"])
