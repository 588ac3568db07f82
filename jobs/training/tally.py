"""What one pass over a split adds up to, on the device: the host reads nothing until the pass is over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def best(logits: Tensor) -> Tensor:
    """The category of the highest logit, the first of equals: (B, C) -> (B,) int64."""
    if logits.device.type == "cpu":
        # numpy's argmax uses the processor's vector units and is eight times torch's speed here.
        return torch.from_numpy(logits.numpy().argmax(1))
    return logits.argmax(1)


class Tally:
    """Sums of losses, hits and gradient norms.

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

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a step: mean loss (), logits (B, C) float32, labels (B,) int64."""
        sums = self._sums
        sums["loss"].add_(loss.detach(), alpha=len(labels))
        # A cross-entropy is never below zero: what is less than infinity is neither that nor NaN.
        sums["finite"].add_(sums["loss"].lt(math.inf))
        hits = best(logits.detach()).eq(labels).long()
        if labels.is_cuda:
            with _racing():
                sums["correct"].index_add_(0, labels, hits)
        else:
            sums["correct"].index_add_(0, labels, hits)

    def look(self, norm: Tensor) -> None:
        """Add the gradient norm of a step that was looked at."""
        self._sums["norm"].add_(norm)
        self._sums["looks"].add_(1)

    @property
    def finite(self) -> Tensor:
        """How many steps had a finite loss, () int64, before the first that had not."""
        return self._sums["finite"]

    def clear(self) -> None:
        """Start a new pass; the tensors stay the same ones, as a captured graph needs them to."""
        for value in self._sums.values():
            value.zero_()

    def read(self) -> dict[str, Any]:
        """The sums on the host: ``loss``, ``norm`` (mean over looks), ``finite``, ``correct`` (C,) int64."""
        host = {name: value.cpu() for name, value in self._sums.items()}
        looks = int(host["looks"])
        return {
            "loss": float(host["loss"]),
            "norm": float(host["norm"]) / looks if looks else None,
            "finite": int(host["finite"]),
            "correct": host["correct"].numpy(),
        }

    def state(self) -> dict[str, Tensor]:
        """A copy for a checkpoint."""
        return {name: value.detach().clone() for name, value in self._sums.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self._sums.items():
            value.copy_(state[name])


@contextmanager
def _racing() -> Iterator[None]:
    # Sums of integers are the same in any order: the slow deterministic kernel would buy nothing.
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
