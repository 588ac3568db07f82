"""Parts that can be added: a room of ours for each kind, one file or folder for each part, and plugins beside them.

A *room* is a package whose modules are parts of one kind, found by their names. A *plugin* is a part outside of this
program: a file or folder that says ``KIND = "..."`` and holds what a built-in part of that kind holds. It may import
what is installed and what is ours, nothing that lies beside it.

What a plugin is (kind, name, revision, digest) is read from its text; nothing of it runs before ``Room.load``. A
command sets the plugins of its manifest with ``use``; a task finds those of its submission in the snapshot that it
runs from. A plugin's digest is in the ids of what it decides, or its ``REVISION`` in the digest's place.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from sharedfs.errors import InputError, did_you_mean

HOME = Path(__file__).resolve().parents[1]
SNAPSHOT = HOME / "tanda_plugins"  # in a submission's code: <room>/<file or folder>
_NAMESPACE = "tanda_plugins"
_DIGITS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Room:
    """A kind of part: ``name`` is the unit's in records, ``kinds`` what a plugin's KIND may be, ``word`` is for people.

    Its package holds the built-in ones; in one of ``folders`` only folders are parts. ``unnamed`` are those that no
    manifest names: they are made of others.
    """

    name: str
    package: str
    kinds: tuple[str, ...]
    word: str
    folders: bool = False
    settings_name: str = "Settings"
    unnamed: tuple[str, ...] = ()

    def settings(self, name: str) -> type[Any]:
        """The class of a part's settings; raises InputError as ``load`` does."""
        settings: type[Any] = getattr(self.load(name), self.settings_name)
        return settings

    def names(self) -> tuple[str, ...]:
        """Every part that can be named, sorted, plugins among them; nothing is imported."""
        named = [name for name in _built_in(self.package, self.folders) if name not in self.unnamed]
        return tuple(sorted((*named, *_in_use.get(self.name, {}))))

    def load(self, name: str) -> ModuleType:
        """A part's module; raises InputError for a name that there is not, and for a plugin that cannot be imported."""
        plugin = self.plugin(name)
        if plugin is not None:
            return plugin.module
        if name not in _built_in(self.package, self.folders):
            raise InputError(f"unknown {self.word} {name!r}{did_you_mean(name, self.names())}")
        return import_module(f"{self.package}.{name}")

    def plugin(self, name: str) -> Plugin | None:
        """The plugin of this name, None for a built-in part."""
        return _in_use.get(self.name, {}).get(name)

    def modules(self) -> tuple[ModuleType, ...]:
        """All parts, for rooms of which every part is used: by ORDER, those without last, then by name."""
        parts = [(name, self.load(name)) for name in self.names()]
        return tuple(
            module for _, module in sorted(parts, key=lambda part: (getattr(part[1], "ORDER", math.inf), part[0]))
        )


MODELS = Room("model", "jobs.models", ("network", "estimator"), "architecture", folders=True, unnamed=("ensemble",))
ALGORITHMS = Room("algorithm", "jobs.search.algorithms", ("search algorithm",), "algorithm")
STOPPING = Room("stopping", "jobs.search.stopping", ("stopping rule",), "stopping rule", settings_name="Rule")
TABLES = Room("table", "pipeline.report.tables", ("table",), "table")
PLOTS = Room("plot", "pipeline.report.plots", ("plot",), "plot")
METRICS = Room("metric", "jobs.metrics", ("metric",), "metric")
OPTIMISERS = Room("optimiser", "jobs.training.optimisers", ("optimiser",), "optimiser")
SCHEDULES = Room("schedule", "jobs.training.schedules", ("schedule",), "schedule")
ROOMS = (MODELS, OPTIMISERS, SCHEDULES, ALGORITHMS, STOPPING, METRICS, TABLES, PLOTS)
BY_NAME: Mapping[str, Room] = {room.name: room for room in ROOMS}
KINDS: Mapping[str, Room] = {kind: room for room in ROOMS for kind in room.kinds}


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """A part by its room's name and its own; in text ``model gru``, as in records and ids."""

    room: str
    name: str

    def __str__(self) -> str:
        return f"{self.room} {self.name}"

    @property
    def plugin(self) -> Plugin | None:
        """The plugin that it is; None for a built-in part."""
        return BY_NAME[self.room].plugin(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A part outside of this program, as its text describes it.

    ``digest`` is of the bytes of its files: of a folder, of all Python files in it. ``revision`` is None where it has
    no REVISION. ``stand_in`` is used in place of the plugin's own module where its code is not to run.
    """

    room: Room
    kind: str
    name: str
    path: Path
    digest: str
    revision: int | None
    stand_in: ModuleType | None = None

    @property
    def identity(self) -> str | int:
        """What stands for it in ids."""
        return self.digest if self.revision is None else self.revision

    @property
    def files(self) -> tuple[Path, ...]:
        """Its source files, the one that says KIND first."""
        return _files(self.path)

    @property
    def module(self) -> ModuleType:
        """The plugin, imported: from here on its code runs. Raises InputError where that fails."""
        return self.stand_in or _import(self)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def find(path: Path) -> tuple[Plugin, ...]:
    """The plugins of a file or folder, by their text alone; raises InputError where there are none.

    A folder is one plugin where its ``__init__.py`` says KIND, else every file and folder in it that does is one.
    """
    if not path.exists():
        raise InputError(f"{path}: no such plugin")
    if path.is_dir() and not _says_kind(path / "__init__.py"):
        inside = sorted(each for each in path.iterdir() if not each.name.startswith(("_", ".")))
        found = tuple(_read(each) for each in inside if _says_kind(_main(each)))
    else:
        found = (_read(path),) if _says_kind(_main(path)) else ()
    if not found:
        raise InputError(f'{path}: no plugin: no file in it says KIND = "...", one of {", ".join(KINDS)}')
    return found


def find_installed(name: str) -> tuple[Plugin, ...]:
    """The plugins of an installed module; its parent packages are looked up, not imported. Raises InputError."""
    top, *below = name.split(".")
    spec = importlib.util.find_spec(top) if all(part.isidentifier() for part in (top, *below)) else None
    if spec is None or spec.origin is None or not spec.has_location:
        raise InputError(f"{name}: neither a path (with a / or .py) nor an installed module")
    place = Path(spec.origin)
    place = (place.parent if spec.submodule_search_locations else place).joinpath(*below)
    return find(place if place.is_dir() else place.with_suffix(".py"))


def use(plugins: Iterable[Plugin]) -> None:
    """Set the plugins that there are, in place of those before; raises InputError where two parts have one name."""
    _in_use.clear()
    for plugin in plugins:
        room = _in_use.setdefault(plugin.room.name, {})
        if plugin.name in _built_in(plugin.room.package, plugin.room.folders):
            raise InputError(f"{plugin.path}: there is a built-in {plugin.room.word} {plugin.name!r}: rename the file")
        other = room.get(plugin.name)
        if other is not None and other.digest != plugin.digest:
            raise InputError(f"{plugin.path}: another {plugin.room.word} has this name too: {other.path}")
        room[plugin.name] = plugin


def in_use() -> tuple[Plugin, ...]:
    """The plugins that there are."""
    return tuple(plugin for room in _in_use.values() for plugin in room.values()) if _in_use else ()


def identities(parts: Iterable[Part]) -> dict[str, str | int]:
    """What stands in an id for those of some parts that are plugins: ``{"model gru": digest or revision}``."""
    found = ((part, part.plugin) for part in parts)
    return {str(part): plugin.identity for part, plugin in sorted(found, key=str) if plugin is not None}


def check_same(identities: Mapping[str, str | int], where: object) -> None:
    """Raise PluginNeededError unless the plugins are there that ``where`` was made with, and are the same."""
    for name, identity in identities.items():
        room, _, part = name.partition(" ")
        plugin = BY_NAME[room].plugin(part) if room in BY_NAME else None
        if plugin is None or plugin.identity != identity:
            raise PluginNeededError(where, name, identity, plugin)


class PluginNeededError(InputError):
    """Something was made with a plugin that is not in use here, or with another version of it."""

    def __init__(self, where: object, name: str, identity: str | int, other: Plugin | None = None) -> None:
        instead = "" if other is None else f", not {other.path} ({_version(other.identity)})"
        made = f"made with the plugin {name} ({_version(identity)})"
        super().__init__(f"{where}: {made}: give that with --plugin FILE{instead}")
        self.name, self.identity = name, identity


def _version(identity: str | int) -> str:
    return f"revision {identity}" if isinstance(identity, int) else f"digest {identity}"


@contextmanager
def left_out_where_it_fails(part: ModuleType) -> Iterator[None]:
    """Where a plugin's code fails inside, print a line and go on without it; a built-in part's error rises."""
    try:
        yield
    except Exception as error:  # whatever a person's code may raise: a table of theirs is not to cost the whole report
        if not part.__name__.startswith(f"{_NAMESPACE}."):
            raise
        line = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{type(error).__name__}: {error} ({line.filename}:{line.lineno})"
        print(f"tanda: {part.__file__}: fails, left out: {problem}", file=sys.stderr)


def torch_side(module: ModuleType, file: str) -> ModuleType:
    """Where a part's torch half is: ``file`` in its folder where it has that, else the module itself."""
    inside = f"{module.__name__}.{file}"
    in_folder = hasattr(module, "__path__") and importlib.util.find_spec(inside) is not None
    return import_module(inside) if in_folder else module


def name_of(part: type) -> str:
    """What a part is called whose module this class is from."""
    return part.__module__.rpartition(".")[2]


# Reading a plugin's text.


def _main(path: Path) -> Path:
    return path / "__init__.py" if path.is_dir() else path


def _says_kind(file: Path) -> bool:
    return file.suffix == ".py" and file.is_file() and "KIND" in _constants(file)


@dataclass(frozen=True, slots=True)
class _Constant:
    value: object
    line: int


def _constants(file: Path) -> dict[str, _Constant]:
    """The constants that a module sets at its top level, by name; raises InputError for what is no Python."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), file.name)
    except (SyntaxError, ValueError) as error:  # ValueError: no UTF-8, or a null character
        raise InputError(f"{file}: no Python that this version reads: {error}") from error
    return {
        target.id: _Constant(node.value.value, node.lineno)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _read(path: Path) -> Plugin:
    main = _main(path)
    constants = _constants(main)
    kind = constants["KIND"]
    room = KINDS.get(str(kind.value))
    if room is None:
        raise InputError(f"{main}:{kind.line}: KIND {kind.value!r}{did_you_mean(kind.value, KINDS)}")
    name = path.name if path.is_dir() else path.stem
    if not name.isidentifier():
        raise InputError(f"{path}: a plugin is called like its file: {name!r} must be letters, digits and _")
    revision = constants["REVISION"].value if "REVISION" in constants else None
    if revision is not None and (type(revision) is not int or revision < 1):
        raise InputError(f"{main}:{constants['REVISION'].line}: REVISION must be a whole number from 1")
    return Plugin(room=room, kind=str(kind.value), name=name, path=path, digest=_digest(path), revision=revision)


def _files(path: Path) -> tuple[Path, ...]:
    if not path.is_dir():
        return (path,)
    main = _main(path)
    others = (each for each in sorted(path.rglob("*.py")) if not _is_hidden(each.relative_to(path)) and each != main)
    return (main, *others)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _digest(path: Path) -> str:
    # Of bytes and not of syntax trees: one version of Python has another tree of a source than the next, and ids must
    # not depend on that.
    whole = hashlib.sha256()
    for file in _files(path):
        name = file.relative_to(path) if path.is_dir() else Path(file.name)
        whole.update(str(name).encode() + b"\0" + file.read_bytes() + b"\0")
    return whole.hexdigest()[:_DIGITS]


# Importing.


def _import(plugin: Plugin) -> ModuleType:
    name = f"{_NAMESPACE}.{plugin.room.name}.{plugin.name}"
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__digest__", None) == plugin.digest:
        return loaded
    if _digest(plugin.path) != plugin.digest:
        raise InputError(f"{plugin.path}: was edited this moment: try again")
    for stale in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
        del sys.modules[stale]
    inside = [str(plugin.path)] if plugin.path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, plugin.files[0], submodule_search_locations=inside)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__digest__"] = plugin.digest
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a person's file does at its top level: it is theirs to mend
        del sys.modules[name]
        raise InputError(f"{plugin.path}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


@cache
def _built_in(package: str, folders: bool) -> tuple[str, ...]:
    import pkgutil  # here: `tanda --help` needs none of it

    modules = pkgutil.iter_modules([str(HOME.joinpath(*package.split(".")))])
    return tuple(sorted(module.name for module in modules if module.ispkg or not folders))


def copy_into(folder: Path) -> None:
    """Copy the plugins that there are into a submission's code, where its jobs find them."""
    target = folder / SNAPSHOT.name
    target.mkdir()
    for plugin in in_use():
        room = target / plugin.room.name
        for file in plugin.files:
            copy = room / file.relative_to(plugin.path.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())


def _of_snapshot() -> Iterator[Plugin]:
    if SNAPSHOT.is_dir():
        for room in sorted(SNAPSHOT.iterdir()):
            yield from find(room)


_in_use: dict[str, dict[str, Plugin]] = {}
use(_of_snapshot())
