"""Ways to choose the next point, each one file here, found by its name.

A file holds ``REVISION`` and ``propose(space, history, seed) -> draws``: the same history and seed always give the same
draws. One that draws at random until enough trials have a result may take ``startup``, how many; then it has
``DEFAULT_STARTUP``, and ``BASELINE_STARTUP``, that of searches which do not say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs.plugins import ALGORITHMS
from jobs.search.space import Draws, Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A trial so far: its draws and its loss (smaller is better).

    ``loss`` is None while the trial runs, and infinite when it failed because of its settings.
    """

    draws: Mapping[str, float]
    loss: float | None


class Algorithm(Protocol):
    """What a file here is."""

    def propose(self, space: Space, history: Sequence[Observation], seed: int) -> Draws:
        """Draws for the next trial."""


def startups(name: str) -> tuple[int, int] | None:
    """The default and the baseline of ``startup`` of an algorithm; None for one that has no such setting."""
    module = ALGORITHMS.load(name)
    default, baseline = getattr(module, "DEFAULT_STARTUP", None), getattr(module, "BASELINE_STARTUP", None)
    return (default, baseline) if isinstance(default, int) and isinstance(baseline, int) else None
