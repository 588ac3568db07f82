"""Ways to choose the next point, each one file here, found by its name.

A file holds ``propose(space, history, seed) -> draws``: the same history and seed always give the same draws.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from jobs.errors import InputError
from jobs.search.space import Draws, Space
from jobs.search.study import Observation


class Algorithm(Protocol):
    """What a file here is."""

    def propose(self, space: Space, history: Sequence[Observation], seed: int) -> Draws:
        """Draws for the next trial."""


def names() -> tuple[str, ...]:
    """Every algorithm there is, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> Algorithm:
    """An algorithm by its name; raises ValueError naming the legal ones."""
    if name not in names():
        raise InputError(f"unknown search algorithm {name!r}: must be one of {', '.join(names())}")
    return cast(Algorithm, import_module(f"jobs.search.algorithms.{name}"))
