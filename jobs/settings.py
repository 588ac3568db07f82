"""What a model, a stage or an algorithm can be told: names, types, ranges and defaults, without torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.errors import InputError

TYPES = ("int", "float", "bool", "str", "ints")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: ``ints`` is a list of at least ``items`` whole numbers (layer widths, filter lengths).

    ``low`` and ``high`` are inclusive bounds, of each item for ``ints``; ``above`` is an exclusive lower one.
    """

    name: str
    type: str
    default: Any
    doc: str
    low: float | None = None
    above: float | None = None
    high: float | None = None
    items: int = 1
    choices: tuple[str, ...] = ()
    plumbing: bool = False  # how, where or how often, never what: not part of a task's id

    def read(self, value: object) -> Any:
        """The value in this setting's type; raises ValueError saying what would be right."""
        if self.type == "ints":
            if not isinstance(value, list | tuple) or len(value) < self.items:
                kind = "non-empty list" if self.items else "list"
                raise InputError(f"must be a {kind} of whole numbers, not {value!r}")
            return [self._number(item, whole=True) for item in value]
        if self.type == "bool":
            if not isinstance(value, bool):
                raise InputError(f"must be true or false, not {value!r}")
            return value
        if self.type == "str":
            if value not in self.choices:
                raise InputError(f"must be one of {', '.join(self.choices)}, not {value!r}")
            return value
        return self._number(value, whole=self.type == "int")

    def _number(self, value: object, *, whole: bool) -> int | float:
        kind = "a whole number" if whole else "a number"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"must be {kind}, not {value!r}")
        if not math.isfinite(value) or (whole and value != int(value)):
            raise InputError(f"must be {kind}, not {value!r}")
        if self.low is not None and value < self.low:
            raise InputError(f"must be at least {self.low:g}, not {value!r}")
        if self.above is not None and value <= self.above:
            raise InputError(f"must be above {self.above:g}, not {value!r}")
        if self.high is not None and value > self.high:
            raise InputError(f"must be at most {self.high:g}, not {value!r}")
        return int(value) if whole else float(value)


def by_name(settings: Iterable[Setting]) -> dict[str, Setting]:
    """Settings keyed by their names."""
    return {setting.name: setting for setting in settings}


def resolve(settings: Iterable[Setting], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting's value: the last layer that names it wins, else its default; unknown keys are ignored.

    Raises ValueError (``name: reason``) for a value of the wrong type or out of range.
    """
    values = {}
    for setting in settings:
        value = next((layer[setting.name] for layer in reversed(layers) if setting.name in layer), setting.default)
        try:
            values[setting.name] = None if value is None and setting.default is None else setting.read(value)
        except ValueError as error:
            raise InputError(f"{setting.name}: {error}") from error
    return values
