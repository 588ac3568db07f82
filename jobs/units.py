"""The units of code that decide a result: their revisions, and digests of their source as a result was made.

A unit is what somebody may change on purpose: preprocessing, a model, training, an optimiser, a schedule, a search
algorithm, a stopping rule, evaluation. Whoever changes what one of them gives raises its ``REVISION``, a line of its
own in its module. Neither revision nor digest is part of an id: a result of earlier code stays a result, and
``plan``, ``status`` and ``report`` say that it is one. The digest shows an edit that nobody raised a revision for.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jobs import plugins
from jobs.plugins import Plugin

HOME = Path(__file__).resolve().parent
_REVISION = re.compile(r"^REVISION = (\d+)$", re.MULTILINE)
_DIGITS = 16
_NO_PART = ("sample.py", "sample_titles.py", "sample_words.toml")  # of `jobs/data`: they make data sets up
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# By kind of unit: the file that holds REVISION, then what else decides its results; ``{name}`` is the unit's own.
_FILES: Mapping[str, tuple[str, ...]] = {
    "preprocess": ("data/__init__.py", "data/*.py", "data/*.toml", "stages/preprocess.py"),
    "training": ("training/__init__.py", "training/*.py", "data/batches.py"),
    "evaluate": (
        "stages/evaluate.py", "training/metrics.py", "training/loop.py", "training/loss.py", "training/run.py",
        "metrics/*.py", "calibration.py",
    ),
    "model": (
        "models/{name}/__init__.py", "models/{name}/*.py", "models/layers.py", "models/subwords.py",
        "models/__init__.py",
    ),
    "estimator": (
        "models/{name}/__init__.py", "models/{name}/*.py", "models/__init__.py",
        "training/run.py", "training/metrics.py",
    ),
    # Its first points an algorithm may have from the random one.
    "algorithm": (
        "search/algorithms/{name}.py", "search/space.py", "search/study.py", "search/next_trial.py",
        "search/algorithms/random.py", "search/points.py", "search/earlier.py",
    ),
    "stopping": ("search/stopping/{name}.py",),
    "optimiser": ("training/optimisers/{name}.py", "training/optimisers/__init__.py"),
    "schedule": ("training/schedules/{name}.py", "training/schedules/__init__.py"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A unit as it was when a result was made.

    ``source`` is a digest of its syntax trees without docstrings, which no comment and no line break changes;
    ``content`` one of its files' bytes, to know without parsing that nothing changed.
    """

    revision: int
    source: str
    content: str

    def is_like(self, other: Made) -> bool:
        """Whether both did the same: one version of Python has another digest of the same source than the next."""
        same_code = self.content == other.content or self.source == other.source
        return self.revision == other.revision and same_code


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """A unit by its kind and, where there are several of a kind, its name."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else self.kind

    @property
    def plugin(self) -> Plugin | None:
        """The plugin that it is; None where it is ours."""
        room = plugins.BY_NAME.get(self.kind) or plugins.KINDS.get(self.kind)  # an estimator is a unit of its own
        return None if room is None else room.plugin(self.name)

    @property
    def files(self) -> tuple[Path, ...]:
        """Its source files, the one with REVISION first; none of a unit that is not there."""
        plugin = self.plugin
        if plugin is not None:
            return plugin.files
        return _files(self.kind, self.name)


@cache
def _files(kind: str, name: str) -> tuple[Path, ...]:
    patterns = [pattern.format(name=name) for pattern in _FILES.get(kind, ())]
    if not patterns or not (HOME / patterns[0]).exists():
        return ()
    found = {path: None for pattern in patterns for path in sorted(HOME.glob(pattern))}
    return tuple(path for path in found if path.name not in _NO_PART)


def made(of: Iterable[Unit]) -> dict[str, Made]:
    """Units as they are now, by name: what a record keeps."""
    return {str(unit): Made(revision=revision(unit), source=source(unit), content=content(unit)) for unit in of}


def revision(unit: Unit) -> int:
    """The revision of a unit, read and not imported: a model's network would bring torch. 0 of a plugin without one."""
    plugin = unit.plugin
    return _revision(unit.files[0]) if plugin is None else plugin.revision or 0


def content(unit: Unit) -> str:
    """A digest of the unit's files as they are."""
    plugin = unit.plugin
    return _content(unit.files) if plugin is None else plugin.digest


def source(unit: Unit) -> str:
    """A digest of what the unit's code does: its syntax trees, without docstrings, comments and layout."""
    return _source(unit.files, content(unit))


@cache
def _revision(file: Path) -> int:
    found = _REVISION.search(file.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{file}: a unit without a line `REVISION = n`")
    return int(found[1])


@cache
def _content(files: tuple[Path, ...]) -> str:
    whole = hashlib.sha256()
    for path in files:
        whole.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:_DIGITS]


@cache
def _source(files: tuple[Path, ...], _content: str) -> str:
    # By content too: a plugin's files may be edited while this process lives.
    whole = hashlib.sha256()
    for path in files:
        text = path.read_text(encoding="utf-8")
        whole.update(path.name.encode() + b"\0" + (source_digest(text) if path.suffix == ".py" else text).encode())
    return whole.hexdigest()[:_DIGITS]


def source_digest(text: str) -> str:
    """A digest of a module's syntax tree without docstrings; raises SyntaxError."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """In what a unit that made a result was not what it is now: its code, its revision, or it is no longer there."""

    unit: str
    was: int
    now: int | None

    def __str__(self) -> str:
        if self.now is None:
            return f"made by {self.unit}, which this version does not have"
        if self.now != self.was:
            return f"made by revision {self.was} of {self.unit}, now {self.now}"
        return f"made by other code of {self.unit}, whose revision is {self.was} as before"


def changes(made_by: Mapping[str, Made]) -> tuple[Change, ...]:
    """In what the units that made a result were not what they are now; empty where all are as they were."""
    return tuple(change for name, was in made_by.items() if (change := change_of(name, was)))


def differences(made_by: Mapping[str, Made]) -> tuple[str, ...]:
    """The same in words."""
    return tuple(map(str, changes(made_by)))


def change_of(name: str, was: Made) -> Change | None:
    """In what a unit that made a result was not what it is now; None where it is as it was."""
    unit = _unit(name)
    plugin = unit.plugin
    return _change(unit, was, plugin and plugin.digest)


@cache
def _unit(name: str) -> Unit:
    kind, _, own = name.partition(" ")
    return Unit(kind, own)


@cache
def _change(unit: Unit, was: Made, _plugin: str | None) -> Change | None:
    # By a plugin's digest too: another may have its name while this process lives.
    if not unit.files:
        return Change(str(unit), was.revision, None)
    if was.revision == revision(unit) and (was.content == content(unit) or was.source == source(unit)):
        return None
    return Change(str(unit), was.revision, revision(unit))
