"""Searches: what is fixed, what is searched, and that every point of the space could be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from jobs.data.settings import Data
from jobs.metrics import searchable
from jobs.plugins import ALGORITHMS, STOPPING, name_of
from jobs.search.across import DEFAULT, default_space, joined, own, shared, space_of
from jobs.search.algorithms import startups
from jobs.search.points import IllegalPointError, draws_of
from jobs.search.space import Space, decided, is_branch, is_conditional, is_distribution
from jobs.settings import ModelSettings, Setting, Value, deciding, describe, named
from pipeline.manifest.expansion import Architecture, Expansion, Layer
from pipeline.manifest.model import Fixed, Search
from pipeline.manifest.schema import Search as SearchSection
from pipeline.manifest.space_validation import Problem, validate_space, validate_spaces
from pipeline.manifest.validation import Findings, SettingError, read_part, read_value
from sharedfs.errors import KeyPath, did_you_mean
from sharedfs.typed_json import Json


def expand_search(name: str, section: SearchSection, expansion: Expansion) -> Search | None:
    """A search as the plan takes it, or None with the problems noted."""
    path: KeyPath = ("searches", name)
    expansion.check_group_name(name, path)
    architectures = _architectures(section, expansion, path)
    _check_numbers(section, expansion, path)
    if not architectures:
        return None
    layers = [expansion.architectures.section_layer(each, section, path) for each in architectures]
    space, problems = _read_space(section.space, list(zip(architectures, layers, strict=True)))
    for below, message in problems:
        expansion.findings.add((*path, "space", *below), message)
    data = expansion.datasets.get(layers[0].data, path)
    if problems or data is None or check_stopping(section.stopping):
        return None
    return _search(name, section, list(zip(architectures, layers, strict=True)), space, data, expansion)


def _architectures(section: SearchSection, expansion: Expansion, path: KeyPath) -> list[Architecture]:
    """Those that a search names, in the order of their names; none with the problem noted."""
    listed: object = section.architecture
    if isinstance(listed, Mapping):
        listed = listed["choice"] if set(listed) == {"choice"} else []
    names = [listed] if isinstance(listed, str) else listed
    if not isinstance(names, list) or not names or len(set(names)) < len(names):
        message = "must be a name, or different names as in [mlp, cnn] or {choice: [mlp, cnn]}"
        expansion.findings.add((*path, "architecture"), message)
        return []
    # Sorted: the same search written in another order is the same search, and must give the same points.
    found = [expansion.architectures.get(name, path) for name in sorted(names)]
    return [each for each in found if each is not None] if None not in found else []


def _read_space(
    given: Mapping[str, Json] | str, layers: Sequence[tuple[Architecture, Layer]]
) -> tuple[dict[str, Json], list[Problem]]:
    """The space with default ones in their places and numbers in their settings' types, and what is wrong with it."""
    known = {each.name: each.settings for each, _ in layers}
    alone = len(known) == 1
    whole: dict[str, Json] = dict.fromkeys(known, given) if alone or isinstance(given, str) else dict(given)
    common = {} if alone else shared(whole, tuple(known))
    for each, layer in layers:
        if whole.get(each.name) == DEFAULT:
            default = default_space(each.name)
            if default is None:
                below: KeyPath = () if alone else (each.name,)
                return {}, [(below, f"{each.name} declares no default space: give its distributions")]
            # What the search says itself, fixed or for all, is not the default's to draw.
            taken = {*layer.settings, *decided(common, each.settings)}
            whole[each.name] = {key: spec for key, spec in default.items() if key not in taken}
    if alone:
        ((name, given_one),) = whole.items()
        space = cast(Mapping[str, Json], given_one)
        problems = validate_space(space, known[name].values())
        return ({} if problems else canonical(space, known[name])), problems
    problems = validate_spaces(whole, {name: settings.values() for name, settings in known.items()})
    if problems:
        return {}, problems
    versions = [canonical(shared(whole, tuple(known)), settings) for settings in known.values()]
    for key in versions[0]:
        if any(version[key] != versions[0][key] for version in versions):
            problems.append(((key,), f"is of different types in {', '.join(known)}: give it to each of them"))
    return versions[0] | {name: canonical(own(whole, name), known[name]) for name in known}, problems


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
    name: str,
    section: SearchSection,
    layers: Sequence[tuple[Architecture, Layer]],
    space: dict[str, Json],
    data: Data,
    expansion: Expansion,
) -> Search:
    path: KeyPath = ("searches", name)
    known = {architecture.name: architecture for architecture, _ in layers}
    names = tuple(known)
    fixed, metrics = {}, {}
    for architecture, layer in layers:
        inside = space if len(names) == 1 else {**shared(space, names), **own(space, architecture.name)}
        fixed[architecture.name], metrics[architecture.name] = _fixed(
            section, architecture, layer, inside, expansion, path
        )
    if len(set(metrics.values())) > 1:
        judged = ", ".join(f"{each} by {metric}" for each, metric in metrics.items())
        expansion.findings.add((*path, "architecture"), f"can't be compared: {judged}")
    first, across = fixed[names[0]], fixed if len(names) > 1 else {}
    # A network's: an estimator is given no GPU of the manifest's.
    resources = dict(
        expansion.resources(max(known.values(), key=lambda each: each.kind == "network"), section.resources)
    )
    throttle = min(section.parallel, resources["train"].throttle or section.parallel)
    resources["train"] = replace(resources["train"], throttle=throttle)
    search = Search(
        name=name,
        architecture=joined(names),
        algorithm=section.algorithm,
        trials=section.trials,
        parallel=section.parallel,
        metric=metrics[names[0]],
        space=space,
        stopping=_stopping(section.stopping),
        seed=_seed(section, first.settings),
        settings=first.settings,
        searched=first.searched,
        decided=first.decided,
        data=data,
        resources=resources,
        evaluate_best=section.evaluate_best,
        refit_seeds=tuple(section.refit_seeds or ()),
        reference=section.reference or {},
        startup=_startup(section),
        points=_points(section, space_of(space, names), expansion, path),
        continues=section.continue_,
        across=across,
    )
    for of, settings in search.examples:
        expansion.check_settings(known[of], settings, data, (*path, "space", *((of,) if across else ())))
    return search


def _fixed(
    section: SearchSection,
    architecture: Architecture,
    layer: Layer,
    space: Mapping[str, Json],
    expansion: Expansion,
    path: KeyPath,
) -> tuple[Fixed, str]:
    """What a search fixes of an architecture, whose whole space this is, and what its trials are judged by."""
    always = {key for key, spec in space.items() if not is_branch(architecture.settings.get(key), spec)}
    for key in layer.settings:
        if key in always:
            expansion.findings.add((*path, key), "is searched: space has it too", key=True)
    if "seed" in space:
        message = "the seed is not searched: use refit_seeds to train the winner with several"
        expansion.findings.add((*path, "space", "seed"), message, key=True)
    settings = {**architecture.base, **layer.settings}
    if "seed" in settings:
        settings["seed"] = _seed(section, architecture.settings_class(**settings))
    metric = _metric(section, architecture, layer, settings, expansion, path)
    made = architecture.settings_class(**settings)
    return Fixed(settings=made, searched=frozenset(always), decided=decided(space, architecture.settings)), metric


def _seed(section: SearchSection, settings: ModelSettings) -> int:
    return int(getattr(settings, "seed", 0)) if section.seed is None else section.seed


def _points(section: SearchSection, read: Space, expansion: Expansion, path: KeyPath) -> tuple[dict[str, Value], ...]:
    """The points to try first as the space gives them, their problems noted."""
    points: list[dict[str, Value]] = []
    for position, given in enumerate(section.points or ()):
        where = (*path, "points", position)
        try:
            point = read.point(draws_of(read, cast(Mapping[str, Value], given)))
        except IllegalPointError as error:
            expansion.findings.add((*where, *error.path), str(error))
            continue
        if point in points:
            expansion.findings.add(where, f"is the same as point {points.index(point) + 1}")
        points.append(point)
    if len(section.points or ()) > section.trials:
        message = f"are {len(section.points or ())}, more than trials, {section.trials}"
        expansion.findings.add((*path, "points"), message, key=True)
    return tuple(points)


def check_continued(searches: Sequence[Search], findings: Findings) -> None:
    """Note every `continue` that names no search whose trials could be history."""
    by_name = {search.name: search for search in searches}
    for search in searches:
        if search.continues is None:
            continue
        path: KeyPath = ("searches", search.name, "continue")
        earlier = by_name.get(search.continues)
        if earlier is None:
            findings.add(path, f"no search {search.continues!r}{did_you_mean(search.continues, by_name)}")
        elif _continues(earlier, by_name, search.name):
            findings.add(path, f"{search.continues} continues {search.name}, or is the same search")
        elif earlier.metric != search.metric or not set(earlier.fixed) & set(search.fixed):
            message = f"{earlier.name} is a search of {earlier.architecture} by {earlier.metric}, this one of "
            findings.add(path, f"{message}{search.architecture} by {search.metric}: values are not comparable")
        elif earlier.data != search.data:
            findings.add(path, f"{earlier.name} has other data: its values are not comparable")


def _continues(search: Search, by_name: Mapping[str, Search], name: str) -> bool:
    """Whether a search is the one of this name, or continues it, through any number of others."""
    seen: set[str] = set()
    following: Search | None = search
    while following is not None and following.name not in seen:
        if following.name == name:
            return True
        seen.add(following.name)
        following = by_name.get(following.continues or "")
    return False


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
    if "metric" in section.model_fields_set and section.metric in searchable():  # any other is noted by its old name
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
