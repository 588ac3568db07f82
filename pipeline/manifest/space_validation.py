"""What a search's space may say: every mistake found before anything is submitted, and what would be right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from jobs.search.across import ARCHITECTURE, shared
from jobs.search.space import DISTRIBUTIONS, Distribution, decided, is_branch, is_distribution
from jobs.settings import Setting, describe, named
from pipeline.manifest.validation import SettingError, read_value, shown
from sharedfs.errors import InputError, KeyPath, did_you_mean
from sharedfs.typed_json import Json, Undecodable

Problem = tuple[KeyPath, str]


def validate_space(space: Mapping[str, Json], settings: Iterable[Setting]) -> list[Problem]:
    """Everything wrong with a space for an architecture's settings: (path below ``space``, what would be right)."""
    if not isinstance(space, Mapping) or not space:
        return [((), f"must be default, or map settings to distributions ({', '.join(DISTRIBUTIONS)})")]
    return _check_mapping(space, {setting.name: setting for setting in settings}, (), frozenset(), fixed_allowed=False)


def validate_spaces(space: Mapping[str, Json], architectures: Mapping[str, Iterable[Setting]]) -> list[Problem]:
    """The same for a search of several architectures: what is theirs alike, and what is of each alone."""
    common = shared(space, tuple(architectures))
    problems: list[Problem] = []
    if ARCHITECTURE in common:
        problems.append(((ARCHITECTURE,), "is taken: architectures are named beside `space`"))
    for name, settings in architectures.items():
        known = {setting.name: setting for setting in settings}
        alike = _check_mapping(common, known, (), frozenset(), fixed_allowed=False)
        problems += [(path, message.replace("the architecture", name)) for path, message in alike]
        inside = space.get(name, {})
        if isinstance(inside, Mapping):
            problems += _check_mapping(inside, known, (name,), decided(common, known), fixed_allowed=True)
        else:
            problems.append(
                ((name,), f"must map settings to distributions or values, or be default, not {shown(inside)}")
            )
    return problems


def _check_mapping(
    space: Mapping[str, Json],
    settings: Mapping[str, Setting],
    where: KeyPath,
    taken: frozenset[str],
    *,
    fixed_allowed: bool,
) -> list[Problem]:
    problems: list[Problem] = []
    for name in space:
        here = (*where, name)
        spec = space[name]
        if is_distribution(spec, settings.get(name)):
            problems += _check_distribution(name, spec, settings, here, taken)
        elif fixed_allowed:
            problems += _check_setting(name, settings, here, taken) or _check_value(settings[name], spec, here)
        else:
            message = f"must be a distribution such as {{uniform: [0, 0.5]}} or {{choice: [..]}}, not {shown(spec)}"
            problems.append((here, message))
        taken |= decided({name: spec}, settings)
    return problems


def _check_distribution(
    name: str, spec: Distribution, settings: Mapping[str, Setting], here: KeyPath, taken: frozenset[str]
) -> list[Problem]:
    if len(spec) != 1:
        named = ", ".join(map(str, spec)) or "none"
        return [(here, f"must name exactly one distribution of {', '.join(DISTRIBUTIONS)}, not {named}")]
    ((kind, arguments),) = spec.items()
    if kind not in DISTRIBUTIONS:
        return [((*here, kind), f"unknown distribution{did_you_mean(kind, DISTRIBUTIONS)}")]
    if is_branch(settings.get(name), spec):
        return _check_branch(arguments, settings, (*here, kind), taken)
    problems = _check_setting(name, settings, here, taken)
    if problems:
        return problems
    if kind == "choice" and settings[name].room is not None:
        return _check_parts(settings[name], arguments, (*here, kind))
    if kind == "choice":
        return _check_choice(settings[name], arguments, (*here, kind))
    return _check_range(settings[name], kind, arguments, (*here, kind))


def _check_setting(name: str, settings: Mapping[str, Setting], here: KeyPath, taken: frozenset[str]) -> list[Problem]:
    if name not in settings:
        return [(here, f"the architecture has no such setting{did_you_mean(name, settings)}")]
    if settings[name].plumbing:
        return [(here, "never changes a result, so there is nothing to search")]
    if name in taken:
        return [(here, "is already decided by another entry of the space")]
    return []


def _check_branch(
    options: Sequence[Json], settings: Mapping[str, Setting], here: KeyPath, taken: frozenset[str]
) -> list[Problem]:
    problems: list[Problem] = []
    for position, option in enumerate(options):
        place = (*here, position)
        if not isinstance(option, Mapping) or not option:
            problems.append((place, f"must map settings to values like the other options, not {shown(option)}"))
        else:
            problems += _check_mapping(option, settings, place, taken, fixed_allowed=True)
    return problems


def _check_value(setting: Setting, value: object, here: KeyPath) -> list[Problem]:
    try:
        read_value(setting, value)
    except SettingError as error:
        return [((*here, *below), message) for below, message, _ in error.problems]
    return []


def _check_parts(setting: Setting, options: object, here: KeyPath) -> list[Problem]:
    """Each option a name, or a name with settings, of which some may be drawn."""
    if not isinstance(options, list | tuple) or not options:
        return [(here, f"must be a non-empty list of names, or of names with settings, not {options!r}")]
    return [
        problem
        for position, option in enumerate(options)
        for problem in _check_part(setting, option, (*here, position))
    ]


def _check_part(setting: Setting, option: object, here: KeyPath) -> list[Problem]:
    assert setting.room is not None
    try:
        name, given = named(option)
        known = {each.name: each for each in describe(setting.room.settings(name))}
    except (Undecodable, InputError):
        return _check_value(setting, option, here)  # which says what would be right
    fixed = {key: value for key, value in given.items() if key not in known or not is_distribution(value, known[key])}
    drawn = {key: value for key, value in given.items() if key not in fixed}
    problems = _check_value(setting, {name: fixed}, here) if fixed else []
    return problems + _check_mapping(drawn, known, (*here, name), frozenset(), fixed_allowed=True)


def _check_choice(setting: Setting, options: object, here: KeyPath) -> list[Problem]:
    if not isinstance(options, list | tuple) or not options:
        return [(here, f"must be a non-empty list of values, not {shown(options)}")]
    return [
        problem
        for position, option in enumerate(options)
        for problem in _check_value(setting, option, (*here, position))
    ]


def _check_range(setting: Setting, kind: str, arguments: object, here: KeyPath) -> list[Problem]:
    if not setting.is_number:
        return [(here, f"{setting.name} is not a number: use choice")]
    if kind in ("uniform", "loguniform") and setting.whole:
        return [(here, f"gives fractions and {setting.name} is a whole number: use q{kind} with a step, or randint")]
    form = "[low, high, step]" if kind.startswith("q") else "[low, high]"
    if not isinstance(arguments, list | tuple) or len(arguments) != len(form.split(",")):
        return [(here, f"must be {form}, not {shown(arguments)}")]
    whole = kind == "randint" or setting.whole
    problems = [
        ((*here, position), f"must be a {'whole ' if whole else ''}number, not {shown(number)}")
        for position, number in enumerate(arguments)
        if not _is_number(number, whole=whole)
    ]
    return problems or _check_bounds(setting, kind, list(arguments), here)


def _check_bounds(setting: Setting, kind: str, arguments: list[float], here: KeyPath) -> list[Problem]:
    low, high, *step = arguments
    if low >= high:
        turned = " (low and high are the wrong way round)" if low > high else ""
        return [(here, f"low must be below high, not {low!r} and {high!r}{turned}")]
    if kind in ("loguniform", "qloguniform") and low <= 0:
        return [((*here, 0), f"low must be above 0, not {low!r}: zero has no logarithm")]
    if step and not 0 < step[0] <= high - low:
        return [((*here, 2), f"step must be above 0 and at most high - low = {high - low:g}, not {step[0]!r}")]
    return [
        problem
        for position, number in enumerate((low, high))
        for problem in _check_value(setting, number, (*here, position))
    ]


def _is_number(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return not whole or value == int(value)
