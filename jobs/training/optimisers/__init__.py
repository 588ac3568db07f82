"""Optimisers, each one file here, found by its name; read without torch.

A file holds ``REVISION`` and ``Settings``, a class of the optimiser's own settings that inherits ``OptimiserSettings``
and is the optimiser: it says which tensors it keeps for a weight, and how a step moves weights. The step size and the
decay are the run's ``learning_rate`` (times its schedule's factor) and ``weight_decay``, and are given to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from jobs.settings import settings

if TYPE_CHECKING:
    from torch import Tensor

Rates = float | Sequence[float]
"""The step size: one for all steps, or that of each step of the run from 0."""


class CatchUp(Protocol):
    """What an optimiser does to word vectors in steps that gave them no gradient, in closed form.

    ``every_row``: whether this moves a row that has never had a gradient.
    """

    every_row: bool

    def apply(self, rows: Tensor, states: Sequence[Tensor], *, last: Tensor, now: int) -> None:
        """Bring rows (U, D) and their states, each (U, D), from their last steps (U,) int64 to step ``now``, in place.

        Steps are counted from 1; 0 is the start.
        """


@settings
class OptimiserSettings:
    """What every optimiser is; torch is imported by ``step`` and ``catch_up`` alone."""

    def state_names(self) -> tuple[str, ...]:
        """The tensors that it keeps for each weight, of the weight's shape and zero at first; keys of checkpoints."""
        return ()

    def step(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        states: Sequence[list[Tensor]],
        steps: list[Tensor],
        *,
        rate: float | Tensor,
        decay: float,
    ) -> None:
        """Move weights along their dense gradients, in place, and their states with them.

        ``states`` has a list for each of ``state_names``; ``steps`` a counter () float32 for each weight of the steps
        so far, which one that has ``catch_up`` raises by one here, as torch's own kernels do: a run that moves to a CPU
        catches up from there. A ``rate`` that changes on a GPU is a tensor (): nothing here may read a number from the
        device, so that the step can be captured as a graph.
        """
        raise NotImplementedError

    def dense_because(self, rate: float, decay: float) -> str | None:  # noqa: ARG002 - some need them
        """Why each step has to move every word vector; None where ``catch_up`` makes up for those it leaves out."""
        return "has no closed form for the steps that a word is not in"

    def catch_up(self, rates: Rates, decay: float) -> CatchUp:
        """What makes it lazy for word vectors on a CPU; called where ``dense_because`` is None."""
        raise NotImplementedError

    @property
    def decays_used_words_only(self) -> bool:
        """Whether a word's vector decays in those steps alone whose batch has the word."""
        return False

    def without_vector_decay(self) -> OptimiserSettings:
        """The same where word vectors do not decay: settings that then do nothing at their baselines."""
        return self

    def check(self, rate: float, decay: float) -> str | None:  # noqa: ARG002 - some need them
        """What is wrong, in words, with its settings and a run's highest step size and decay; or None."""
        return None
