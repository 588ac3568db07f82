"""What an algorithm is told of the trials before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A trial so far: its draws and its loss (smaller is better).

    ``loss`` is None while the trial runs, and infinite when it failed because of its settings.
    """

    draws: Mapping[str, float]
    loss: float | None
