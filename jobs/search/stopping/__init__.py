"""Rules that stop a trial early, each one file here, found by its name.

A file holds ``REVISION`` and ``Rule``, a class of settings with ``milestones(epochs)``, the epochs of its rungs, at
which trials are compared, and ``promoted(values, final)``, the numbers of the trials that train on, given the values
(larger is better) of all that reached the same rung.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from jobs.plugins import STOPPING
from jobs.settings import Named, Value
from sharedfs.errors import DamagedFileError
from sharedfs.typed_json import Undecodable


class Rule(Protocol):
    """What a file's class is."""

    def milestones(self, epochs: int) -> tuple[int, ...]:
        """The epochs of the rungs, rising and below ``epochs``."""

    def promoted(self, values: Mapping[int, float], *, final: bool) -> set[int]:
        """The trials that train on past a rung; ``final``: every trial submitted has ended."""


def read_rule(stopping: Mapping[str, Mapping[str, Value]] | None) -> Rule | None:
    """The rule of a stored search, or None; raises ValueError for one that this version does not have."""
    if stopping is None:
        return None
    try:
        rule: Rule = Named(STOPPING).decode(stopping)
    except Undecodable as error:
        raise DamagedFileError(f"stopping: {error}") from error
    return rule
