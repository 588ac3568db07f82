"""Ways to choose the next point, each one file here, found by its name.

A file holds ``propose(space, history, seed) -> draws``: the same history and seed always give the same draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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
