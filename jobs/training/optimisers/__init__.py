"""Optimisers, each one file here, found by its name; read without torch.

A file holds ``REVISION`` and ``Settings``, a class of the optimiser's own settings that inherits ``OptimiserSettings``
and is the optimiser: it says which tensors it keeps for a weight, and how a step moves weights. The step size and the
decay are the run's ``learning_rate`` (times its schedule's factor) and ``weight_decay``, and are given to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from annotated_types import Ge, Gt, Le

from jobs.settings import ORIGINAL, Doc, settings

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


@dataclass(frozen=True, slots=True)
class Update:
    """What a step moves: ``weights`` along their dense ``gradients``, at this ``rate`` and this weight ``decay``.

    ``states`` has a list for each of ``state_names``, ``steps`` a counter () float32 of the steps so far, each with an
    item for each weight. A ``rate`` that changes on a GPU is a tensor ().
    """

    weights: list[Tensor]
    gradients: list[Tensor]
    states: Sequence[list[Tensor]]
    steps: list[Tensor]
    rate: float | Tensor
    decay: float


@settings
class OptimiserSettings:
    """What every optimiser is; torch is imported by ``step`` and ``catch_up`` alone."""

    def state_names(self) -> tuple[str, ...]:
        """The tensors that it keeps for each weight, of the weight's shape and zero at first; keys of checkpoints."""
        return ()

    def step(self, update: Update) -> None:
        """Move the weights of an update along their gradients, in place, and their states with them.

        One that has ``catch_up`` raises ``steps`` by one here, as torch's own kernels do: a run that moves to a CPU
        catches up from there. Nothing here may read a number from a GPU, so that the step can be captured as a graph.
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


@settings
class MomentSettings(OptimiserSettings):
    """What Adam and those made of it have: the means of a weight's gradients and of their squares."""

    beta1: Annotated[float, Ge(0), Le(0.99), ORIGINAL, Doc("share of the gradients' mean kept each step")] = 0.9
    beta2: Annotated[float, Ge(0.9), Le(0.9999), ORIGINAL, Doc("share of their squares' mean kept each step")] = 0.999
    epsilon: Annotated[float, Gt(0), Le(1), ORIGINAL, Doc("added to the root of the squares' mean")] = 1e-8

    def state_names(self) -> tuple[str, ...]:
        return ("means", "squares")

    def check(self, rate: float, decay: float) -> str | None:  # noqa: ARG002
        """The means must outlast none of the squares, or a step without a gradient moves a weight ever faster."""
        if self.beta1**2 >= self.beta2:
            return f"beta1 {self.beta1:g} is too high beside beta2 {self.beta2:g}: its square must be below beta2"
        return None
