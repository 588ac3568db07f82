"""From a point back to the draws that give it: points that a person gives, and those of an earlier search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from jobs.search.across import ARCHITECTURE
from jobs.search.space import Branch, Choice, Dimension, Draws, Option, Range, Space
from jobs.settings import Value, named
from sharedfs.errors import KeyPath
from sharedfs.typed_json import Undecodable


class IllegalPointError(ValueError):
    """A point that a space cannot give; ``path`` is where in it, the message what would be right."""

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path


def draws_of(space: Space, point: Mapping[str, Value], *, whole: bool = True) -> Draws:
    """The draws whose point this is; raises IllegalPointError for one that the space cannot give.

    Unless ``whole``, the point may hold other settings too.
    """
    draws: Draws = {}
    taken = _read(space.dimensions, point, draws)
    for name in point if whole else ():
        if name not in taken:
            raise IllegalPointError((name,), "is no setting of the space")
    return draws


def _read(dimensions: Iterable[Dimension], point: Mapping[str, Value], draws: Draws) -> set[str]:
    """Note the draws of these dimensions; the settings that they decided."""
    taken: set[str] = set()
    for dimension in dimensions:
        if isinstance(dimension, Branch):
            taken |= _read_branch(dimension, point, draws)
            continue
        name = dimension.setting.name
        if name not in point:
            raise IllegalPointError((), f"has no {name}: a point gives every setting of the space")
        draws[dimension.label] = _draw(dimension, point[name])
        taken.add(name)
    return taken


def _draw(dimension: Range | Choice, value: Value) -> float:
    name = dimension.setting.name
    if isinstance(dimension, Choice):
        found = [at for at, option in enumerate(dimension.options) if _plain(option) == _plain(value)]
        if found:
            return found[0]
        options = ", ".join(str(_plain(option)) for option in dimension.options)
        raise IllegalPointError((name,), f"must be one of {options}, not {value!r}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise IllegalPointError((name,), f"must be a number, not {value!r}")
    number = float(value)
    reached = dimension.value(number)
    if not math.isclose(reached, number, rel_tol=1e-9, abs_tol=1e-12):
        low, high = dimension.value(dimension.low), dimension.value(dimension.high)
        steps = "" if dimension.step is None else f" in steps of {dimension.step:g}"
        raise IllegalPointError((name,), f"must be from {low:g} to {high:g}{steps}, not {value!r}")
    return number


def _read_branch(branch: Branch, point: Mapping[str, Value], draws: Draws) -> set[str]:
    if branch.setting is not None:
        name = branch.setting.name
        if name not in point:
            raise IllegalPointError((), f"has no {name}: a point gives every setting of the space")
        try:
            part, inside = named(point[name])
        except Undecodable as error:
            raise IllegalPointError((name,), str(error)) from error
        tried = [(at, option, inside) for at, option in enumerate(branch.options) if option.part == part]
        if not tried:
            parts = ", ".join(dict.fromkeys(option.part for option in branch.options))
            raise IllegalPointError((name,), f"must be one of {parts}, not {part!r}")
        where: KeyPath = (name, part)
    else:
        tried, where = [(at, option, point) for at, option in _meant(branch, point)], ()
    problems = []
    for at, option, given in tried:
        found: Draws = {branch.label: at}
        try:
            taken = _read_option(option, given, found)
        except IllegalPointError as error:
            problems.append(error)
            continue
        if branch.setting is not None and (unknown := [key for key in given if key not in taken]):
            problems.append(IllegalPointError((unknown[0],), f"is no setting of {option.part}"))
            continue
        draws |= found
        return taken if branch.setting is None else {branch.setting.name}
    if len(problems) == 1:
        raise IllegalPointError((*where, *problems[0].path), str(problems[0]))
    raise IllegalPointError(where, f"is none of the options of {branch.label}")


def _meant(branch: Branch, point: Mapping[str, Value]) -> list[tuple[int, Option]]:
    """The options that a point may be of, with their positions: of several architectures those of its own."""
    options = list(enumerate(branch.options))
    if branch.label != ARCHITECTURE or not all(ARCHITECTURE in option.fixed for option in branch.options):
        return options
    if ARCHITECTURE not in point:
        raise IllegalPointError((), f"has no {ARCHITECTURE}: a point gives every setting of the space")
    meant = [(at, option) for at, option in options if option.fixed[ARCHITECTURE] == point[ARCHITECTURE]]
    if not meant:
        names = ", ".join(str(option.fixed[ARCHITECTURE]) for option in branch.options)
        raise IllegalPointError((ARCHITECTURE,), f"must be one of {names}, not {point[ARCHITECTURE]!r}")
    return meant


def _read_option(option: Option, point: Mapping[str, Value], draws: Draws) -> set[str]:
    # Of a part, a setting that is not given has the fixed value; elsewhere a point gives it.
    for name, value in option.fixed.items():
        if name not in point and not option.part:
            raise IllegalPointError((), f"has no {name}: a point gives every setting of the space")
        if name in point and _plain(point[name]) != _plain(value):
            raise IllegalPointError((name,), f"must be {_plain(value)} here, not {point[name]!r}")
    return {*option.fixed, *_read(option.dimensions, point, draws)}


def _plain(value: Any) -> Any:
    """As JSON has it, whatever sequence it is in memory; true is not 1."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, bool) else value
