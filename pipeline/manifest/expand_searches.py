"""Searches: what is fixed, what is searched, and that every point of the space could be trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jobs.data.settings import Data
from jobs.metrics import searchable
from jobs.plugins import ALGORITHMS, STOPPING, name_of
from jobs.search.algorithms import startups
from jobs.search.space import decided, is_branch, is_conditional, is_distribution, read_space, samples
from jobs.settings import Setting, Value, deciding, describe, named
from pipeline.manifest.expansion import Architecture, Expansion, Layer
from pipeline.manifest.model import Search
from pipeline.manifest.schema import Search as SearchSection
from pipeline.manifest.space_validation import Problem, validate_space
from pipeline.manifest.validation import SettingError, read_part, read_value
from sharedfs.errors import KeyPath, did_you_mean
from sharedfs.typed_json import Json


def expand_search(name: str, section: SearchSection, expansion: Expansion) -> Search | None:
    """A search as the plan takes it, or None with the problems noted."""
    path: KeyPath = ("searches", name)
    expansion.check_group_name(name, path)
    architecture = expansion.architectures.get(section.architecture, path)
    _check_numbers(section, expansion, path)
    if architecture is None:
        return None
    fixed = expansion.architectures.section_layer(architecture, section, path)
    problems = validate_space(section.space, architecture.settings.values())
    for below, message in problems:
        expansion.findings.add((*path, "space", *below), message)
    data = expansion.datasets.get(fixed.data, path)
    if problems or data is None or check_stopping(section.stopping):
        return None
    return _search(name, section, architecture, fixed, data, expansion)


def _check_numbers(section: SearchSection, expansion: Expansion, path: KeyPath) -> None:
    legal = ALGORITHMS.names()
    if section.algorithm not in legal:
        expansion.findings.add(
            (*path, "algorithm"), f"unknown algorithm {section.algorithm!r}{did_you_mean(section.algorithm, legal)}"
        )
    elif section.startup is not None and startups(section.algorithm) is None:
        expansion.findings.add((*path, "startup"), f"is no setting of {section.algorithm}", key=True)
    figures = searchable()
    if section.metric not in figures:
        expansion.findings.add((*path, "metric"), f"must be one of {', '.join(figures)}, not {section.metric!r}")
    if section.evaluate_best > section.trials:
        expansion.findings.add(
            (*path, "evaluate_best"), f"must be at most trials, {section.trials}, not {section.evaluate_best}"
        )
    for below, message in check_stopping(section.stopping):
        expansion.findings.add((*path, "stopping", *below), message)
    expansion.check_seeds(section.refit_seeds or (), (*path, "refit_seeds"))
    expansion.check_reference(section.reference or {}, (*path, "reference"))


def _search(
    name: str, section: SearchSection, architecture: Architecture, fixed: Layer, data: Data, expansion: Expansion
) -> Search:
    path: KeyPath = ("searches", name)
    space = canonical(section.space, architecture.settings)
    always = {key for key, spec in space.items() if not is_branch(architecture.settings.get(key), spec)}
    for key in fixed.settings:
        if key in always:
            expansion.findings.add((*path, key), "is searched: space has it too", key=True)
    if "seed" in space:
        message = "the seed is not searched: use refit_seeds to train the winner with several"
        expansion.findings.add((*path, "space", "seed"), message, key=True)
    settings = {**architecture.base, **fixed.settings}
    seed = int(getattr(architecture.settings_class(**settings), "seed", 0)) if section.seed is None else section.seed
    if "seed" in settings:
        settings["seed"] = seed
    metric = _metric(section, architecture, fixed, settings, expansion, path)
    for point in samples(read_space(space, architecture.settings.values())):
        drawn = {key: architecture.settings[key].read(value) for key, value in point.items()}
        at_point = architecture.settings_class(**{**settings, **drawn})
        expansion.check_settings(architecture, at_point, data, (*path, "space"))
    resources = dict(expansion.resources(architecture, section.resources))
    throttle = min(section.parallel, resources["train"].throttle or section.parallel)
    resources["train"] = replace(resources["train"], throttle=throttle)
    return Search(
        name=name,
        architecture=architecture.name,
        algorithm=section.algorithm,
        trials=section.trials,
        parallel=section.parallel,
        metric=metric,
        space=space,
        stopping=_stopping(section.stopping),
        seed=seed,
        settings=architecture.settings_class(**settings),
        searched=frozenset(always),
        decided=decided(space, architecture.settings),
        data=data,
        resources=resources,
        evaluate_best=section.evaluate_best,
        refit_seeds=tuple(section.refit_seeds or ()),
        reference=section.reference or {},
        startup=_startup(section),
    )


def _metric(
    section: SearchSection,
    architecture: Architecture,
    fixed: Layer,
    settings: dict[str, Value],
    expansion: Expansion,
    path: KeyPath,
) -> str:
    """What a search is judged by: the setting ``select_by`` of its trials, whose old name in a search is ``metric``."""
    if "select_by" not in architecture.settings:
        return section.metric
    if "metric" in section.model_fields_set:
        if fixed.settings.get("select_by", section.metric) != section.metric:
            message = f"is the old name of select_by, which is {fixed.settings['select_by']!r}: leave one of them out"
            expansion.findings.add((*path, "metric"), message, key=True)
        settings["select_by"] = section.metric
    return str(settings.get("select_by", section.metric))


def _startup(section: SearchSection) -> int | None:
    known = startups(section.algorithm) if section.algorithm in ALGORITHMS.names() else None
    if known is None:
        return None
    return known[0] if section.startup is None else section.startup


def check_stopping(stopping: Mapping[str, Mapping[str, Json] | None] | None) -> list[Problem]:
    """Everything wrong with a search's ``stopping``: (path below it, what would be right)."""
    try:
        _stopping(stopping)
    except SettingError as error:
        return [(path, message) for path, message, _ in error.problems]
    return []


def _stopping(stopping: Mapping[str, Mapping[str, Json] | None] | None) -> dict[str, dict[str, Value]] | None:
    """A rule with its settings: one left at its default is the same search as one that says so."""
    if stopping is None:
        return None
    rule = read_part(STOPPING, stopping)
    return {name_of(type(rule)): deciding(rule)}


def canonical(space: Mapping[str, Json], settings: Mapping[str, Setting]) -> dict[str, Json]:
    """A checked space with its numbers in their settings' types: `0` and `0.0` are the same search."""
    return {name: _canonical(name, value, settings) for name, value in space.items()}


def _canonical(name: str, value: Json, settings: Mapping[str, Setting]) -> Json:
    setting = settings.get(name)
    if not is_distribution(value, setting):
        return _plain(read_value(settings[name], value), settings[name])
    ((kind, arguments),) = value.items()
    if setting is not None and setting.room is not None:
        return {kind: [_part(setting, option) for option in arguments]}
    if is_conditional(arguments):
        return {kind: [canonical(option, settings) for option in arguments]}
    if kind != "choice":
        number = int if settings[name].whole else float
        return {kind: [number(argument) for argument in arguments]}
    return {kind: [_plain(settings[name].read(option), settings[name]) for option in arguments]}


def _part(setting: Setting, option: Json) -> Json:
    """One option of a choice of parts: all its settings, those at their baselines left out, some of them drawn."""
    assert setting.room is not None
    name, given = named(option)
    known = {each.name: each for each in describe(setting.room.settings(name))}
    drawn = {key: value for key, value in given.items() if is_distribution(value, known[key])}
    part = read_value(setting, {name: {key: value for key, value in given.items() if key not in drawn}})
    return {
        name: {**{key: value for key, value in deciding(part).items() if key not in drawn}, **canonical(drawn, known)}
    }


def _plain(value: Value, setting: Setting) -> Json:
    """As JSON has it, in which a search is stored and shown."""
    if setting.room is not None:
        return {name_of(type(value)): deciding(value)}
    return list(value) if isinstance(value, tuple) else value
