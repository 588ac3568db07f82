"""Rules that stop a trial early, each one file here, found by its name.

A file holds ``SETTINGS``, ``milestones(settings, epochs)``, the epochs of its rungs, at which trials are compared, and
``promoted(values, settings, final)``, the numbers of the trials that train on, given the values (larger is better)
of all that reached the same rung.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from jobs import load_module, module_names
from jobs.errors import InputError, did_you_mean
from jobs.search.space import Problem
from jobs.settings import Setting, by_name, resolve


class Rule(Protocol):
    """What a file here is."""

    SETTINGS: tuple[Setting, ...]

    def milestones(self, settings: Mapping[str, Any], epochs: int) -> tuple[int, ...]:
        """The epochs of the rungs, rising and below ``epochs``."""

    def promoted(self, values: Mapping[int, float], settings: Mapping[str, Any], *, final: bool) -> set[int]:
        """The trials that train on past a rung; ``final``: every trial submitted has ended."""


def names() -> tuple[str, ...]:
    """Every rule there is, sorted."""
    return module_names(__name__)


def load(name: str) -> Rule:
    """A rule by its name; raises ValueError naming the legal ones."""
    return cast(Rule, load_module(__name__, name, names(), kind="stopping rule"))


def check_stopping(stopping: Mapping[str, Any] | None) -> list[Problem]:
    """Everything wrong with a search's ``stopping``: (path below it, what would be right)."""
    if stopping is None:
        return []
    if not isinstance(stopping, Mapping) or len(stopping) != 1:
        return [
            ((), f"must name one rule with its settings, such as {{asha: {{grace_epochs: 1}}}}: {', '.join(names())}")
        ]
    ((name, settings),) = stopping.items()
    if name not in names():
        return [((name,), f"unknown stopping rule{did_you_mean(name, names())}")]
    if not isinstance(settings, Mapping | None):
        return [((name,), f"must map settings to values, not {settings!r}")]
    legal = by_name(load(name).SETTINGS)
    problems: list[Problem] = []
    for key, value in (settings or {}).items():
        if key not in legal:
            problems.append(((name, key), f"unknown setting{did_you_mean(key, legal)}"))
            continue
        try:
            legal[key].read(value)
        except ValueError as error:
            problems.append(((name, key), str(error)))
    return problems


def read_stopping(stopping: Mapping[str, Any] | None) -> tuple[Rule, dict[str, Any]] | None:
    """A checked rule and its resolved settings, or None; raises ValueError with the first thing that is wrong."""
    problems = check_stopping(stopping)
    if problems:
        path, message = problems[0]
        raise InputError(f"{'.'.join(map(str, ('stopping', *path)))}: {message}")
    if stopping is None:
        return None
    ((name, settings),) = stopping.items()
    rule = load(name)
    return rule, resolve(rule.SETTINGS, settings or {})
