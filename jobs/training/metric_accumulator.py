"""What one pass over a split adds up to: nothing is read by the host while the pass goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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
