"""One step and one validation pass of a network: building it, the loss, the batch loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.data.batches import Batch
from jobs.data.dataset import Dataset
from jobs.training.device import UnusableError, autocast
from jobs.training.metric_accumulator import MetricAccumulator

# Training for balanced accuracy where categories are of very different sizes.


def logit_adjustment(support: NDArray[np.int64], strength: float, device: torch.device) -> Tensor | None:
    """What is added to the logits inside the training loss, (C,); None for strength 0.

    ``strength`` times the logarithm of each category's share of the training titles (logit adjustment: Menon and
    others, 2021). At 1 the network's own logits, without the shift, aim at the least balanced error. A category
    without training titles counts as if it had one.
    """
    if strength == 0.0:
        return None
    shares = np.maximum(support, 1) / max(int(support.sum()), 1)
    return torch.from_numpy((strength * np.log(shares)).astype(np.float32)).to(device)


# An architecture's network over a data set's word vectors.


def build_network(settings: Mapping[str, Any], dataset: Dataset, device: torch.device) -> nn.Module:
    """The network with its initial weights, the same for a seed wherever it runs.

    Raises UnusableError where its own ``unsupported`` says why it can't be computed so on this device.
    """
    network = import_module(f"jobs.models.{settings['architecture']}.network")
    problem = network.unsupported(device, settings["precision"]) if hasattr(network, "unsupported") else None
    if problem is not None:
        raise UnusableError("error", problem)
    with warnings.catch_warnings():
        # The vectors are a read-only map shared by every task of the node; a network only reads them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        vectors = torch.from_numpy(dataset.vectors())
    torch.manual_seed(settings["seed"])
    model: nn.Module = network.build(settings, vectors=vectors, classes=len(dataset.classes))
    return model.to(device)


# One step and one pass: the model and nothing else; what is measured stays on the device.


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
        tally: MetricAccumulator,
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
    tally: MetricAccumulator,
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
