"""Rules that stop a trial early, each one file here, found by its name.

A file holds ``REVISION`` and ``Rule``, a class of settings with ``milestones(epochs)``, the epochs of its rungs, at
which trials are compared, and ``promoted(values, final)``, the numbers of the trials that train on, given the values
(larger is better) of all that reached the same rung.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Protocol, cast

from jobs import load_module, module_names
from jobs.settings import Value
from sharedfs.documents import decode_as


class Rule(Protocol):
    """What a file's class is."""

    def milestones(self, epochs: int) -> tuple[int, ...]:
        """The epochs of the rungs, rising and below ``epochs``."""

    def promoted(self, values: Mapping[int, float], *, final: bool) -> set[int]:
        """The trials that train on past a rung; ``final``: every trial submitted has ended."""


@cache
def names() -> tuple[str, ...]:
    """Every rule there is, sorted."""
    return module_names(__name__)


def load(name: str) -> type[Rule]:
    """A rule's class by its name; raises ValueError naming the legal ones."""
    return cast(type[Rule], load_module(__name__, name, names(), kind="stopping rule").Rule)


def read_rule(stopping: Mapping[str, Mapping[str, Value]] | None, where: object) -> Rule | None:
    """The rule of the search stored in ``where``, or None; raises ValueError for one that this version lacks."""
    if stopping is None:
        return None
    ((name, settings),) = stopping.items()
    return decode_as(load(name), settings, where, f"settings of stopping.{name}")
