"""A network's step and validation pass: building it, the loss, and the metrics that a pass adds up."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.data.batches import Batch
from jobs.data.dataset import Dataset
from jobs.data.vectors import of_run
from jobs.models import Recipe
from jobs.models.layers import WordEmbedding
from jobs.models.protocol import Build
from jobs.models.subwords import SubwordVectors
from jobs.plugins import MODELS, torch_side
from jobs.training import stops
from jobs.training.device import UnusableError, autocast
from jobs.training.loss import PLAIN, Loss
from jobs.training.optimiser import Optimiser

# An architecture's network over a data set's word vectors.


def build_network(
    recipe: Recipe, dataset: Dataset, device: torch.device, *, vectors_seed: int | None = None
) -> nn.Module:
    """The network with its initial weights, the same for a seed on every device.

    ``vectors_seed`` is what word vectors that are no file's are drawn by: the run's own seed where it is not given.

    Raises UnusableError where its own ``unsupported`` says why this device can't compute it with this precision.
    """
    settings = recipe.network
    network = torch_side(MODELS.load(recipe.architecture), "network")
    problem = network.unsupported(device, settings.precision) if hasattr(network, "unsupported") else None
    if problem is not None:
        raise UnusableError("error", problem)
    with warnings.catch_warnings():
        # The vectors are a read-only memory map shared by every task of the node; a network only reads them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        vectors = torch.from_numpy(of_run(dataset, settings.seed if vectors_seed is None else vectors_seed))
    torch.manual_seed(settings.seed)
    build: Build = partial(network.build, folder=dataset.folder) if settings.takes_encoder else network.build
    max_length = dataset.meta.settings.max_length
    model = build(settings, vectors=vectors, classes=len(dataset.classes), max_length=max_length)
    if settings.subwords and dataset.subwords is not None:
        for words in [module for module in model.modules() if isinstance(module, WordEmbedding)]:
            words.subwords = SubwordVectors(dataset.subwords, len(dataset.subword_ngrams), words.size)
    return model.to(device)


# Metrics of one pass over a split. A GPU runs behind the host, which would have to wait for it to read a number: so
# sums stay on the device and are read once, when the pass is over.


def make_accumulator(classes: int, device: torch.device) -> MetricAccumulator:
    """The accumulator for ``classes`` categories that suits a device."""
    return HostMetricAccumulator(classes, device) if device.type == "cpu" else MetricAccumulator(classes, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassSums:
    """Of a pass: the sum of losses, the mean of gradient norms if any was added, how many steps were finite before one
    was not, hits by category (C,) int64."""

    loss: float
    norm: float | None
    finite: int
    correct: NDArray[np.int64]


class MetricAccumulator:
    """Sums of losses, hits and gradient norms, kept on the device.

    Sums are added to one step at a time, in order, so a pass that was interrupted anywhere and resumed ends with the
    same bits. The loss is summed in float64, weighted by titles. ``finite`` counts the steps before the loss was first
    NaN or infinite: from then on the sum is not finite either. Takes 4 numbers and (C,) of memory.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        # The keys are the checkpoint's; "looks" counts the gradient norms added to "norm".
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

    def add_grad_norm(self, norm: Tensor) -> None:
        """Add the gradient norm, (), of a step; the pass's figure is the mean of those added."""
        self._sums["norm"].add_(norm)
        self._sums["looks"].add_(1)

    @property
    def finite(self) -> Tensor:
        """How many steps had a finite loss, () int64, before the first that had not."""
        return self._current()["finite"]

    def non_finite(self, step: int) -> bool:
        """Whether the loss was NaN or infinite by an earlier step, without waiting for the device.

        Each call starts a copy of ``finite`` to the host and reads the copy that an earlier call started, once it has
        arrived; so the answer is late by one call at least. ``step`` is the number of steps so far.
        """
        non_finite = False
        if self._copy is not None:
            at_step, finite, arrived = self._copy
            if not arrived.query():  # type: ignore[no-untyped-call]
                return False
            non_finite = int(finite) < at_step
        finite = torch.empty((), dtype=torch.int64, pin_memory=True).copy_(self._sums["finite"], non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._copy = step, finite, arrived
        return non_finite

    def clear(self) -> None:
        """Start a new pass; the tensors stay the same ones, since a captured graph writes to their addresses."""
        self._copy = None
        for value in self._current().values():
            value.zero_()

    def read(self) -> PassSums:
        """The sums so far, on the host."""
        host = {name: value.cpu() for name, value in self._current().items()}
        norms = int(host["looks"])
        return PassSums(
            loss=float(host["loss"]),
            norm=float(host["norm"]) / norms if norms else None,
            finite=int(host["finite"]),
            correct=host["correct"].numpy(),
        )

    def tensors(self) -> list[Tensor]:
        """The sums themselves."""
        return list(self._current().values())

    def state(self) -> dict[str, Tensor]:
        """A copy for a checkpoint."""
        return {name: value.detach().clone() for name, value in self._current().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's state."""
        for name, value in self._current().items():
            value.copy_(state[name])

    def _current(self) -> dict[str, Tensor]:
        return self._sums


class HostMetricAccumulator(MetricAccumulator):
    """The same on a CPU, where each torch call costs more than its arithmetic: steps are added up 64 at a time."""

    def __init__(self, classes: int, device: torch.device) -> None:
        super().__init__(classes, device)
        self._steps: list[tuple[Tensor, NDArray[np.int64], Tensor]] = []

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        # NumPy's argmax uses the processor's vector units and is eight times as fast as torch's here.
        self._steps.append((loss.detach(), logits.detach().numpy().argmax(1), labels))
        if len(self._steps) >= 64:
            self._current()

    def non_finite(self, step: int) -> bool:
        return int(self.finite) < step

    def _current(self) -> dict[str, Tensor]:
        if not self._steps:
            return self._sums
        steps, self._steps = self._steps, []
        total, finite = float(self._sums["loss"]), 0
        # One after the other: how many steps are added up at a time must not change a bit.
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
    # Sums of integers are the same in any order: the deterministic kernel would be slower and no more exact.
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


# One step and one pass.


@dataclass(frozen=True, eq=False)
class Stepper:
    """Steps a model over batches: forward, loss, metrics, backward, update.

    ``gradient_clip`` is all gradients' largest norm.
    """

    model: nn.Module
    optimiser: Optimiser
    metrics: MetricAccumulator
    device: torch.device
    precision: str
    loss: Loss = PLAIN
    gradient_clip: float | None = None

    def step(self, batch: Batch) -> None:
        """One update; nothing here waits for the device."""
        self.zero_grad()
        logits, loss = forward(self.model, batch, self.device, self.precision, self.loss)
        # Before the backward pass: the logits are still in the processor's cache, and gradients can take their memory.
        self.metrics.add(loss, logits, batch.labels)
        del logits
        torch.autograd.backward(loss)
        if self.gradient_clip is not None:
            clip(self.gradients(), self.gradient_clip)
        self.optimiser.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.optimiser.zero_grad()

    def gradients(self) -> Sequence[Tensor]:
        """The gradients of the last step."""
        return [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]


def clip(gradients: Sequence[Tensor], largest: float) -> None:
    """Scale gradients in place so that the norm of all together is at most ``largest``, as ``clip_grad_norm_`` does.

    Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural networks*, 2013. Nothing is read from
    the device; a norm that is not finite makes all of them NaN, which the loss then shows.
    """
    values = [gradient._values() if gradient.is_sparse else gradient for gradient in gradients]
    norm = stops.norm_of(gradients)
    torch._foreach_mul_(values, torch.clamp(largest / (norm + 1e-6), max=1.0))


def forward(
    model: Callable[[Batch], Tensor],
    batch: Batch,
    device: torch.device,
    precision: str,
    loss: Loss = PLAIN,
) -> tuple[Tensor, Tensor]:
    """Logits (B, C) float32 and the batch's loss, ()."""
    with autocast(device, precision):
        logits = model(batch)
    logits = logits.float()
    return logits, loss(logits, batch)


def validate(
    model: nn.Module,
    batches: Iterable[Batch],
    metrics: MetricAccumulator,
    *,
    device: torch.device,
    precision: str,
    on_batch: Callable[[], None],
) -> None:
    """Add up the metrics of a whole split with dropout off; ``on_batch`` is called before each batch and may raise."""
    model.eval()
    metrics.clear()
    with torch.inference_mode():
        for batch in batches:
            on_batch()
            logits, loss = forward(model, batch, device, precision)
            metrics.add(loss, logits, batch.labels)
