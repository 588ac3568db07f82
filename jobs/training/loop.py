"""One step and one pass: the model and nothing else; what is measured stays on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from jobs.data.batches import Batch
from jobs.training.device import autocast
from jobs.training.tally import Tally


class Optimiser(Protocol):
    """What a step needs of an optimiser."""

    def step(self) -> None: ...
    def zero_grad(self) -> None: ...


class Stepper:
    """Steps a model over batches; forward, loss, backward, update, tally."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: Optimiser,
        tally: Tally,
        *,
        device: torch.device,
        precision: str,
        shift: Tensor | None = None,
    ) -> None:
        self._model = model
        self._shift = shift
        self._optimiser = optimiser
        self._tally = tally
        self._device = device
        self._precision = precision
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(self, batch: Batch) -> None:
        """One update; nothing here waits for the device."""
        self.forget()
        logits, loss = forward(self._model, batch, self._device, self._precision, self._shift)
        # Before the way back: the logits are still in the processor's cache, and their memory is free for gradients.
        self._tally.add(loss, logits, batch.labels)
        del logits
        torch.autograd.backward(loss)
        self._optimiser.step()

    def forget(self) -> None:
        """Let go of the gradients."""
        self._optimiser.zero_grad()

    def gradients(self) -> Sequence[Tensor]:
        """The gradients of the last step."""
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]


def forward(
    model: Callable[[Batch], Tensor], batch: Batch, device: torch.device, precision: str, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logits (B, C) float32 and the mean cross-entropy over the batch, (), of the logits plus ``shift`` (C,)."""
    with autocast(device, precision):
        logits = model(batch)
    logits = logits.float()
    return logits, nn.functional.cross_entropy(logits if shift is None else logits + shift, batch.labels)


def validate(
    model: nn.Module,
    batches: Iterable[Batch],
    tally: Tally,
    *,
    device: torch.device,
    precision: str,
    between: Callable[[], None],
) -> None:
    """Tally a whole split with dropout off; ``between`` is called before each batch and may raise."""
    model.eval()
    tally.clear()
    with torch.inference_mode():
        for batch in batches:
            between()
            logits, loss = forward(model, batch, device, precision)
            tally.add(loss, logits, batch.labels)
