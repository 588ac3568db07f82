"""One step and one validation pass of a network: building it, the loss, the batch loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.data.batches import Batch
from jobs.data.dataset import Dataset
from jobs.training.device import UnusableError, autocast

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


# What one pass over a split adds up to: nothing is read by the host while the pass goes on.


def make_accumulator(classes: int, device: torch.device) -> MetricAccumulator:
    """A tally for so many categories on a device."""
    return HostMetricAccumulator(classes, device) if device.type == "cpu" else MetricAccumulator(classes, device)


class MetricAccumulator:
    """Sums of losses, hits and gradient norms, kept on the device.

    Every sum is a running one, so a pass cut anywhere and continued ends with the same bits. ``finite`` counts
    the steps before the loss was first NaN or infinite: a sum once spoilt stays spoilt.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self._sums = {
            "loss": torch.zeros((), dtype=torch.float64, device=device),
            "norm": torch.zeros((), dtype=torch.float64, device=device),
            "looks": torch.zeros((), dtype=torch.int64, device=device),
            "finite": torch.zeros((), dtype=torch.int64, device=device),
            "correct": torch.zeros(classes, dtype=torch.int64, device=device),
        }
        self._copy: tuple[int, Tensor, torch.cuda.Event] | None = None

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a step: mean loss (), logits (B, C) float32, labels (B,) int64."""
        sums = self._sums
        sums["loss"].add_(loss.detach(), alpha=len(labels))
        # A cross-entropy is never below zero: what is less than infinity is neither that nor NaN.
        sums["finite"].add_(sums["loss"].lt(math.inf))
        hits = logits.detach().argmax(1).eq(labels).long()
        with _allow_nondeterministic():
            sums["correct"].index_add_(0, labels, hits)

    def look(self, norm: Tensor) -> None:
        """Add the gradient norm of a step that was looked at."""
        self._sums["norm"].add_(norm)
        self._sums["looks"].add_(1)

    @property
    def finite(self) -> Tensor:
        """How many steps had a finite loss, () int64, before the first that had not."""
        return self._now()["finite"]

    def non_finite(self, step: int) -> bool:
        """Whether the loss is known to have been NaN or infinite by this step, without waiting for the device.

        What is known is what a copy begun at an earlier call has brought since.
        """
        known = False
        if self._copy is not None:
            begun, finite, arrived = self._copy
            if not arrived.query():  # type: ignore[no-untyped-call]
                return False
            known = int(finite) < begun
        finite = torch.empty((), dtype=torch.int64, pin_memory=True).copy_(self._sums["finite"], non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._copy = step, finite, arrived
        return known

    def clear(self) -> None:
        """Start a new pass; the tensors stay the same ones, as a captured graph needs them to."""
        self._copy = None
        for value in self._now().values():
            value.zero_()

    def read(self) -> dict[str, Any]:
        """The sums on the host: ``loss``, ``norm`` (mean over looks), ``finite``, ``correct`` (C,) int64."""
        host = {name: value.cpu() for name, value in self._now().items()}
        looks = int(host["looks"])
        return {
            "loss": float(host["loss"]),
            "norm": float(host["norm"]) / looks if looks else None,
            "finite": int(host["finite"]),
            "correct": host["correct"].numpy(),
        }

    def tensors(self) -> list[Tensor]:
        """The sums themselves."""
        return list(self._now().values())

    def state(self) -> dict[str, Tensor]:
        """A copy for a checkpoint."""
        return {name: value.detach().clone() for name, value in self._now().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self._now().items():
            value.copy_(state[name])

    def _now(self) -> dict[str, Tensor]:
        return self._sums


class HostMetricAccumulator(MetricAccumulator):
    """The same on a CPU, where an operation's cost is its call: steps are kept and added up many at a time."""

    def __init__(self, classes: int, device: torch.device) -> None:
        super().__init__(classes, device)
        self._steps: list[tuple[Tensor, NDArray[np.int64], Tensor]] = []

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        # numpy's argmax uses the processor's vector units and is eight times torch's speed here.
        self._steps.append((loss.detach(), logits.detach().numpy().argmax(1), labels))
        if len(self._steps) >= 64:
            self._now()

    def non_finite(self, step: int) -> bool:
        return int(self.finite) < step

    def _now(self) -> dict[str, Tensor]:
        if not self._steps:
            return self._sums
        steps, self._steps = self._steps, []
        total, finite = float(self._sums["loss"]), 0
        # One after the other: when they are added up must not change a bit.
        for loss, _, truth in steps:
            total += float(loss) * len(truth)
            finite += math.isfinite(total)
        labels = np.concatenate([truth.numpy() for _, _, truth in steps])
        hits = labels[np.concatenate([predicted for _, predicted, _ in steps]) == labels]
        self._sums["loss"].fill_(total)
        self._sums["finite"].add_(finite)
        correct = self._sums["correct"]
        correct.add_(torch.from_numpy(np.bincount(hits, minlength=len(correct))))
        return self._sums


@contextmanager
def _allow_nondeterministic() -> Iterator[None]:
    # Sums of integers are the same in any order: the slow deterministic kernel would buy nothing.
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


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
