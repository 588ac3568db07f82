"""What a search chooses from: distributions over settings, read and checked without torch and without hyperopt.

    dropout: {uniform: [0, 0.5]}                      any number from low to high
    learning_rate: {loguniform: [1e-5, 1e-1]}         its logarithm is uniform
    batch_size: {quniform: [128, 1024, 128]}          low, low + step, ... up to high, equally likely
    lstm_features: {qloguniform: [64, 1024, 64]}      the same values, small ones as likely as in loguniform
    epochs: {randint: [1, 15]}                        whole numbers, both ends included
    hidden_layers: {choice: [[256], [256, 128]]}      one of these values
    depth: {choice: [{hidden_layers: [64]}, {hidden_layers: [512], dropout: {uniform: [0, 0.5]}}]}

The last is conditional: each option is a mapping of settings to values or further distributions, and the name
(`depth`) is free. A setting that names a part, such as an optimiser, has options with settings of their own:

    optimiser: {choice: [adam, adamw, {sgd: {momentum: {uniform: [0.5, 0.99]}}}]}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from jobs.plugins import name_of
from jobs.settings import Setting, Value, describe, named, values
from sharedfs.typed_json import Json

DISTRIBUTIONS = ("choice", "uniform", "loguniform", "quniform", "qloguniform", "randint")

Distribution = Mapping[str, Sequence[Any]]  # its kind, and what that takes
Point = dict[str, Value]
Draws = dict[str, float]
"""What each distribution gave, by its label: the option's position for a choice, a raw number for a range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of some values of a setting."""

    label: str
    setting: Setting
    options: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A number of a setting: raw draws lie in ``low``..``high``, on a log scale or not.

    With a ``step``, a draw is rounded to the nearest of ``first + k * step``, 0 <= k <= ``steps``.
    """

    label: str
    setting: Setting
    log: bool
    low: float
    high: float
    first: float = 0.0
    step: float | None = None
    steps: int = 0

    def value(self, draw: float) -> Any:
        """The setting's value for a raw draw, in the setting's type."""
        if self.step is not None:
            nearest = math.floor((draw - self.first) / self.step + 0.5)
            draw = self.first + min(max(nearest, 0), self.steps) * self.step
            # 0.1 + 2 * 0.1 is 0.30000000000000004: what was written with few digits comes out so.
            draw = float(f"{draw:.12g}")
        else:
            # exp(log(10)) is 10.000000000000002.
            draw = min(max(draw, self.low), self.high)
        return self.setting.read(draw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way of a conditional choice: settings it fixes and dimensions that exist only there.

    Of a choice of parts they are the settings of the one called ``part``.
    """

    fixed: Mapping[str, Value]
    dimensions: tuple[Dimension, ...]
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A conditional choice; of the parts that ``setting`` names, where there is one."""

    label: str
    options: tuple[Option, ...]
    setting: Setting | None = None


Dimension = Choice | Range | Branch


@dataclass(frozen=True, slots=True)
class Space:
    """The dimensions of a search, in the order of their names."""

    dimensions: tuple[Dimension, ...]

    def point(self, draws: Mapping[str, float]) -> Point:
        """The settings that draws stand for, each in its setting's type; raises KeyError for a missing draw."""
        point: Point = {}
        _gather(self.dimensions, draws, point)
        return point


def decided(space: Mapping[str, Json], settings: Mapping[str, Setting]) -> frozenset[str]:
    """Every setting that some point of a space has a value for."""
    return frozenset().union(*(_decided(name, spec, settings) for name, spec in space.items()))


def _decided(name: str, spec: Json, settings: Mapping[str, Setting]) -> frozenset[str]:
    if not is_branch(settings.get(name), spec):
        return frozenset({name})
    options = spec["choice"] if isinstance(spec, Mapping) else ()
    assert isinstance(options, Sequence)
    return frozenset().union(*(decided(option, settings) for option in options if isinstance(option, Mapping)))


def read_space(space: Mapping[str, Json], settings: Iterable[Setting]) -> Space:
    """A checked space ready to be drawn from."""
    return Space(_dimensions(space, {setting.name: setting for setting in settings}, ""))


def samples(space: Space) -> list[Point]:
    """Points that show every option of every choice, and ranges at both ends: for checks between settings."""
    points: list[Point] = []
    for turn in range(max(2, _widest(space.dimensions))):
        draws: Draws = {}
        _sample(space.dimensions, turn, draws)
        points.append(space.point(draws))
    return points


def all_dimensions(dimensions: Iterable[Dimension]) -> Iterator[Dimension]:
    """All dimensions, each followed by those inside it where it is a conditional choice."""
    for dimension in dimensions:
        yield dimension
        if isinstance(dimension, Branch):
            for option in dimension.options:
                yield from all_dimensions(option.dimensions)


def _dimensions(space: Mapping[str, Json], settings: Mapping[str, Setting], prefix: str) -> tuple[Dimension, ...]:
    # Sorted: the same space written in another order is the same search, and must give the same points.
    drawn = ((name, space[name]) for name in sorted(space))
    return tuple(
        _dimension(name, spec, settings, prefix) for name, spec in drawn if is_distribution(spec, settings.get(name))
    )


def _dimension(name: str, spec: Distribution, settings: Mapping[str, Setting], prefix: str) -> Dimension:
    label = f"{prefix}{name}"
    ((kind, arguments),) = spec.items()
    setting = settings.get(name)
    if setting is not None and setting.room is not None:
        options = tuple(_part(setting, option, f"{label}.{position}.") for position, option in enumerate(arguments))
        return Branch(label=label, options=options, setting=setting)
    if kind != "choice":
        return _range(label, settings[name], kind, arguments)
    if not is_conditional(arguments):
        return Choice(
            label=label,
            setting=settings[name],
            options=tuple(settings[name].read(option) for option in arguments),
        )
    options = tuple(read_option(option, settings, f"{label}.{position}.") for position, option in enumerate(arguments))
    return Branch(label=label, options=options)


def read_option(option: Mapping[str, Json], settings: Mapping[str, Setting], prefix: str) -> Option:
    """A checked option of a conditional choice: what it fixes, and its dimensions with this before their labels."""
    return Option(fixed=_fixed(option, settings), dimensions=_dimensions(option, settings, prefix))


def _fixed(option: Mapping[str, Json], settings: Mapping[str, Setting]) -> dict[str, Value]:
    return {
        key: stored(settings[key], settings[key].read(value))
        for key, value in option.items()
        if not is_distribution(value, settings.get(key))
    }


def _part(setting: Setting, option: Json, prefix: str) -> Option:
    """One part of a room, with those of its settings that are drawn; the others at their baselines or defaults."""
    assert setting.room is not None
    name, given = named(option)
    part = setting.room.settings(name)
    settings = {each.name: each for each in describe(part)}
    usual = {each.name: each.default for each in settings.values()} | part.WHEN_MISSING
    fixed = {key: value for key, value in usual.items() if key not in given} | _fixed(given, settings)
    return Option(fixed=fixed, dimensions=_dimensions(given, settings, prefix), part=name)


def stored(setting: Setting, value: Any) -> Value:
    """A setting's value as a point has it: a part by its name, with all its settings."""
    plain: Value = {name_of(type(value)): values(value)} if setting.room is not None else value
    return plain


def _range(label: str, setting: Setting, kind: str, arguments: Sequence[float]) -> Range:
    low, high = float(arguments[0]), float(arguments[1])
    log = kind in ("loguniform", "qloguniform")
    if kind in ("uniform", "loguniform"):
        return Range(label=label, setting=setting, log=log, low=low, high=high)
    step = 1.0 if kind == "randint" else float(arguments[2])
    steps = math.floor((high - low) / step + 1e-9)
    # Half a step more on either side makes the first and the last value as likely as the others.
    widen = 0.0 if log else step / 2
    return Range(
        label=label,
        setting=setting,
        log=log,
        low=low - widen,
        high=low + steps * step + widen,
        first=low,
        step=step,
        steps=steps,
    )


def _gather(dimensions: Iterable[Dimension], draws: Mapping[str, float], point: Point) -> None:
    for dimension in dimensions:
        draw = draws[dimension.label]
        if isinstance(dimension, Range):
            point[dimension.setting.name] = dimension.value(draw)
        elif isinstance(dimension, Choice):
            point[dimension.setting.name] = dimension.options[int(draw)]
        else:
            option = dimension.options[int(draw)]
            inside = {**option.fixed}
            _gather(option.dimensions, draws, inside)
            point.update(inside if dimension.setting is None else {dimension.setting.name: {option.part: inside}})


def _widest(dimensions: Iterable[Dimension]) -> int:
    widths = [1]
    for dimension in dimensions:
        if isinstance(dimension, Choice):
            widths.append(len(dimension.options))
        elif isinstance(dimension, Branch):
            inner = max(_widest(option.dimensions) for option in dimension.options)
            widths.append(len(dimension.options) * inner)
    return max(widths)


def _sample(dimensions: Iterable[Dimension], turn: int, draws: Draws) -> None:
    for dimension in dimensions:
        if isinstance(dimension, Range):
            draws[dimension.label] = dimension.high if turn % 2 else dimension.low
        elif isinstance(dimension, Choice):
            draws[dimension.label] = turn % len(dimension.options)
        else:
            position = turn % len(dimension.options)
            draws[dimension.label] = position
            _sample(dimension.options[position].dimensions, turn // len(dimension.options), draws)


def is_distribution(value: object, setting: Setting | None = None) -> TypeGuard[Distribution]:
    """Whether a value of a space is one: any mapping, but for a part with its settings only ``{choice: ..}``."""
    if setting is None or setting.room is None:
        return isinstance(value, Mapping)
    return isinstance(value, Mapping) and any(kind in value for kind in DISTRIBUTIONS)


def is_conditional(options: object) -> bool:
    return isinstance(options, list | tuple) and any(isinstance(option, Mapping) for option in options)


def is_branch(setting: Setting | None, spec: object) -> bool:
    """Whether an entry of a space decides other settings than the one of its name."""
    of_parts = setting is not None and setting.room is not None
    return isinstance(spec, Mapping) and is_conditional(spec.get("choice")) and not of_parts
