"""A manifest's plugins: found, and their code run or not, by whose the file is that names them.

Whoever submits runs the plugins of what they submit. A command that only looks (plan, status, report, compare, gc) runs
those of its own user's manifests. Where another user's file names a plugin, its place is taken by what the storage
recorded of it when it was submitted: which settings it has, not what it does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from types import ModuleType, NoneType, UnionType, new_class
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from jobs import plugins
from jobs.metrics import Metric
from jobs.models import NetworkSettings
from jobs.plugins import BY_NAME, Plugin, PluginNeededError, name_of
from jobs.settings import Baseline, Doc, ModelSettings, Named, Role, Setting, describe, settings, values
from jobs.storage import Storage
from jobs.training.optimisers import OptimiserSettings
from jobs.training.schedules import ScheduleSettings
from pipeline.manifest.path_fields import is_plugin_path
from pipeline.manifest.validation import Findings
from pipeline.manifest.yaml_nodes import Node
from sharedfs.documents import read_json, write_json
from sharedfs.errors import DamagedFileError, InputError, KeyPath
from sharedfs.files import OWNER_WRITES, plain_folder
from sharedfs.typed_json import Json, Undecodable, decode, decoder
from slurm.owned import check_own

PLACES: tuple[KeyPath, ...] = (("plugins",), ("cluster", "plugins"))


def use_plugins(document: Node, storage: Path, findings: Findings, *, run: bool) -> None:
    """Set the plugins that a manifest and its cluster profile name; problems go to the findings.

    In a job, those of its submission stay: the files that the manifest names may have been edited since.
    """
    if plugins.SNAPSHOT.is_dir():
        return
    found: list[Plugin] = []
    for path, item in _listed(document):
        try:
            named = plugins.find(Path(item.value)) if is_plugin_path(item.value) else plugins.find_installed(item.value)
            found += named if run or is_trusted(item.mark.source) else _recorded(named, Storage(storage))
            plugins.use(found)
        except (InputError, OSError) as error:
            findings.add(path, str(error))
    plugins.use(found if not len(findings) else ())


def _listed(document: Node) -> Iterator[tuple[KeyPath, Node]]:
    for place in PLACES:
        node = document.find(place)
        if node is not None and isinstance(node.value, list):
            yield from (((*place, position), item) for position, item in enumerate(node.value))


def is_trusted(source: str) -> bool:
    """Whether a file is this user's own or root's; what is no file was typed, as `--set`."""
    path = Path(source)
    return not path.exists() or path.stat().st_uid in (os.geteuid(), 0)


# What was made with plugins, opened again.

T = TypeVar("T")


def with_plugins(storage: Storage, given: Iterable[Path], opened: Callable[[], T]) -> T:
    """``opened()``, which may need plugins: those of the files ``given``, else those of this user's own submissions.

    Raises PluginNeededError where neither has one, or only another version of it.
    """
    plugins.use(plugin for path in given for plugin in plugins.find(path))
    while True:
        try:
            return opened()
        except PluginNeededError as error:
            found = _submitted(storage, error)
            if found is None or BY_NAME[found.room.name].plugin(found.name) is not None:
                raise
            plugins.use((*plugins.in_use(), found))


def _submitted(storage: Storage, needed: PluginNeededError) -> Plugin | None:
    """The plugin as a submission of this user's own holds it, which nobody else could change."""
    room, _, name = needed.name.partition(" ")
    for code in sorted(storage.submissions.glob("*/code")):
        folder = code / plugins.SNAPSHOT.name / room
        try:
            check_own(code)
            found = plugins.find(folder) if folder.is_dir() else ()
        except (PermissionError, InputError):  # another user's; one that this version cannot read
            continue
        for plugin in found:
            if plugin.name == name and plugin.identity == needed.identity:
                return plugin
    return None


# What a storage records of a plugin: enough to plan with, and nothing that could run.

BASES: Mapping[str, type] = {
    "network": NetworkSettings,
    "estimator": ModelSettings,
    "optimiser": OptimiserSettings,
    "schedule": ScheduleSettings,
}
"""By kind: whose settings those of a plugin build on."""


def record_plugins(storage: Storage) -> None:
    """Record the plugins in use, for others who look at what is submitted."""
    if plugins.in_use():
        plain_folder(storage.plugins)
    for plugin in plugins.in_use():
        if plugin.stand_in is None:
            write_json(_place(plugin, storage), _describe(plugin), permissions=OWNER_WRITES)


def _place(plugin: Plugin, storage: Storage) -> Path:
    return storage.plugins / f"{plugin.room.name}-{plugin.name}-{plugin.digest}.json"


def _recorded(found: Iterable[Plugin], storage: Storage) -> list[Plugin]:
    """The plugins with stand-ins for their code; tables and plots, which are nothing but code, are left out."""
    standing = []
    for plugin in found:
        if plugin.room in (plugins.TABLES, plugins.PLOTS):
            print(f"tanda: {plugin.path}: another user's {plugin}: not run, left out", file=sys.stderr)
            continue
        path = _place(plugin, storage)
        if not path.exists():
            raise InputError(
                f"{plugin.path}: another user's plugin, of which {storage.root} has no record: its code is not run; "
                "what it is for can be seen once it was submitted, or in a manifest of your own"
            )
        try:
            recorded = decode(Recorded, read_json(path))
            standing.append(replace(plugin, stand_in=_stand_in(plugin, recorded)))
        except (Undecodable, TypeError) as error:
            raise DamagedFileError(f"{path}: not a plugin's record: {error}") from error
    return standing


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSetting:
    """One setting; ``kind`` is its type as ``_kind`` has it, ``role`` a Role's name or baseline."""

    name: str
    kind: Json
    default: Json
    doc: str
    role: str
    baseline: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedMetric:
    """A metric but for its function; ``way`` is the field that has that."""

    title: str | Mapping[str, str]
    higher_is_better: bool
    unit: str
    decimals: int
    way: Literal["of_pass", "of_counts", "of_titles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A plugin as it was submitted: its kind, and its settings with a model's default space, or what a metric is."""

    kind: str
    settings: tuple[RecordedSetting, ...] = ()
    metric: RecordedMetric | None = None
    space: Mapping[str, Json] | None = None


def _describe(plugin: Plugin) -> Recorded:
    if plugin.room is plugins.METRICS:
        metric = plugin.module.METRIC
        (way,) = (way for way in get_args(get_type_hints(RecordedMetric)["way"]) if getattr(metric, way) is not None)
        facts = {name: getattr(metric, name) for name in ("title", "higher_is_better", "unit", "decimals")}
        return Recorded(kind=plugin.kind, metric=RecordedMetric(**facts, way=way))
    own = getattr(plugin.module, plugin.room.settings_name, None)
    # Those that every part of the kind has are ours, and known; unless a plugin gives one another default.
    shared = [_record(setting) for setting in describe(BASES[plugin.kind])] if plugin.kind in BASES else []
    recorded = [] if own is None else [_record(setting) for setting in describe(own)]
    space: Mapping[str, Json] | None = getattr(plugin.module, "SPACE", None) if plugin.room is plugins.MODELS else None
    return Recorded(kind=plugin.kind, settings=tuple(each for each in recorded if each not in shared), space=space)


def _record(setting: Setting) -> RecordedSetting:
    baseline = setting.role.value if isinstance(setting.role, Baseline) else None
    return RecordedSetting(
        name=setting.name,
        kind=_kind(setting),
        default=_plain(setting.default),
        doc=setting.doc,
        role=setting.role.name if isinstance(setting.role, Role) else "baseline",
        baseline=_plain(baseline),
    )


def _plain(value: Any) -> Json:
    """A setting's value as JSON."""
    return {name_of(type(value)): values(value)} if is_dataclass(value) else value


_NAMES = {bool: "bool", int: "int", float: "float", str: "str", NoneType: "null"}
_TYPES = {name: kind for kind, name in _NAMES.items()}


def _kind(setting: Setting) -> Json:
    """A setting's type as JSON: a name, or a mapping of one of ``room``, ``choices``, ``list``, ``items``, ``any``."""
    return {"room": setting.room.name} if setting.room is not None else _type(setting.kind)


def _type(kind: Any) -> Json:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _NAMES:
        return _NAMES[kind]
    if origin is Literal:
        return {"choices": list(arguments)}
    if origin is tuple and arguments[1:] == (...,):
        return {"list": _type(arguments[0])}
    if origin is tuple:
        return {"items": [_type(each) for each in arguments]}
    if origin in (Union, UnionType):
        return {"any": [_type(each) for each in arguments]}
    raise InputError(f"{kind}: a plugin's setting is a number, text, true or false, a choice, a list, or none")


def _stand_in(plugin: Plugin, recorded: Recorded) -> ModuleType:
    """A module with what was recorded of the plugin, and none of its code."""
    module = ModuleType(f"tanda_plugins.{plugin.room.name}.{plugin.name}")
    module.__dict__.update(KIND=recorded.kind, REVISION=plugin.revision, SPACE=recorded.space)
    if recorded.metric is not None:
        facts: dict[str, Any] = asdict(recorded.metric)
        facts[facts.pop("way")] = _not_run
        module.__dict__["METRIC"] = Metric(**facts)
        return module
    annotations = {each.name: _annotation(each) for each in recorded.settings}
    defaults = {each.name: decoder(annotations[each.name])(each.default) for each in recorded.settings}
    body = {"__module__": module.__name__, "__annotations__": annotations, **defaults}
    base = BASES.get(recorded.kind)
    made = new_class("Settings", (base,) if base is not None else (), exec_body=lambda names: names.update(body))
    setattr(module, plugin.room.settings_name, settings(made))
    return module


def _not_run(*_arguments: object) -> Any:
    raise InputError("another user's metric is not computed: its code is not run")


def _annotation(recorded: RecordedSetting) -> Any:
    kind = _read_type(recorded.kind)
    named = isinstance(recorded.kind, Mapping) and "room" in recorded.kind
    chosen = (Named(BY_NAME[str(recorded.kind["room"])]),) if named else ()  # type: ignore[index,call-overload]
    metadata = (*chosen, Doc(recorded.doc))
    plain = Annotated[kind, *metadata]  # type: ignore[valid-type]
    if recorded.role == "baseline":
        return Annotated[plain, Baseline(decoder(cast(Hashable, plain))(recorded.baseline))]
    return Annotated[plain, Role[recorded.role]]


def _read_type(recorded: Json) -> Any:
    """What ``_kind`` recorded; raises Undecodable."""
    match recorded:
        case str() if recorded in _TYPES:
            return _TYPES[recorded]
        case {"room": str(room)} if room in BY_NAME:
            return object
        case {"choices": list(choices)}:
            return Literal[tuple(choices)]
        case {"list": item}:
            return tuple[_read_type(item), ...]  # type: ignore[misc]
        case {"items": list(items)}:
            return tuple[tuple(map(_read_type, items))]  # type: ignore[misc]
        case {"any": list(members)}:
            return Union[tuple(map(_read_type, members))]  # noqa: UP007 - of as many as there are
    raise Undecodable(f"not a type of a setting: {recorded!r}")
