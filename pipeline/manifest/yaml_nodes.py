"""YAML read with the position of every key and value, and errors that name it; no duplicate keys.

Scalars are those of YAML 1.2's core schema, so that `1e-5` is a number while `no`, `on` and `1:30` are text. One
thing differs: a whole number with a leading zero, such as `007` or a umask of `027`, stays text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sharedfs.errors import InputError, KeyPath

NODES_MAX = 2_000_000  # after aliases are followed: a few lines of nested aliases can ask for billions
DEPTH_MAX = 60
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_TOO_DEEP = f"is nested more than {DEPTH_MAX} levels deep"

try:
    _Base: Any = yaml.CSafeLoader
except AttributeError:  # PyYAML built without libyaml: the same, slower
    _Base = yaml.SafeLoader


def composed(name: str) -> str:
    """A name as it is spelt everywhere: a letter and its accent, two characters on a Mac, are one (NFC)."""
    return unicodedata.normalize("NFC", name)


class _Loader(_Base):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  # PyYAML's own class-level table


def _scalars(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})\\Z"), list(first))


_scalars("null", r"~|null|Null|NULL|", "~nN")
_Loader.yaml_implicit_resolvers[""] = [_Loader.yaml_implicit_resolvers["~"][0]]
_scalars("bool", r"true|True|TRUE|false|False|FALSE", "tTfF")
_scalars("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789")
_scalars(
    "float",
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+.0123456789",
)
_scalars("merge", "<<", "<")
_WORDS: Mapping[str, Mapping[str, bool | None]] = {
    "bool": {"true": True, "false": False},
    "null": {"": None, "~": None, "null": None},
}
_KINDS = {"bool": "true or false", "null": "null"}
_OF_KEYS = ("str", "int", "float", "bool", "null")


@dataclass(frozen=True, slots=True)
class Mark:
    """A position: a file with a line and a column counted from 1, or a source without lines such as `--set`."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct; ``path`` is the key's, outermost first."""

    mark: Mark
    path: KeyPath
    message: str

    def __str__(self) -> str:
        parts = [str(self.mark), ".".join(map(str, self.path)), self.message]
        text = ": ".join(part for part in parts if part)
        # Keys are quoted unchanged: a line break or a terminal's escape in one must not act.
        return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


class ManifestError(InputError):
    """A manifest that can't be used; its text is one line per problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Entry(NamedTuple):
    """A mapping's value with its key's position."""

    key: Mark
    node: Node


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its position: ``value`` is a scalar, a list of nodes, or a mapping from key to entry."""

    value: Any
    mark: Mark

    def plain(self) -> Any:
        """The value without positions."""
        if isinstance(self.value, dict):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def child(self, key: str | int) -> Node | None:
        if isinstance(self.value, dict):
            entry = self.value.get(key)
            return None if entry is None else entry.node
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            item: Node = self.value[key]
            return item
        return None

    def find(self, path: KeyPath) -> Node | None:
        """The node at a path, or None where it ends early."""
        node: Node | None = self
        for key in path:
            node = None if node is None else node.child(key)
        return node

    def locate(self, path: KeyPath, *, key: bool = False) -> Mark:
        """The position of a path's value, or of its last key; of the nearest one above where it does not exist."""
        node, mark = self, self.mark
        for position, part in enumerate(path):
            below = node.child(part)
            if below is None:
                return mark
            last = position == len(path) - 1
            # A block mapping starts at its first key, a line below: its own key is the better position.
            named = isinstance(node.value, dict) and ((key and last) or isinstance(below.value, dict))
            mark = node.value[part].key if named else below.mark
            node = below
        return mark

    def replaced(self, key: str, entry: Entry | None) -> Node:
        """This mapping with one entry replaced, added, or taken away."""
        entries = {name: kept for name, kept in self.value.items() if name != key or entry is not None}
        if entry is not None:
            entries[key] = entry
        return Node(entries, self.mark)


def merged(base: Node, above: Node) -> Node:
    """Mappings merged key by key, ``above`` winning; lists of ``plugins`` joined; anything else is replaced."""
    if not (isinstance(base.value, dict) and isinstance(above.value, dict)):
        return above
    entries = dict(base.value)
    for key, entry in above.value.items():
        below = entries.get(key)
        lists = () if below is None else (below.node.value, entry.node.value)
        if key == "plugins" and lists and all(isinstance(each, list) for each in lists):
            entries[key] = Entry(entry.key, Node([*chain(*lists)], entry.node.mark))
        else:
            entries[key] = entry if below is None else Entry(entry.key, merged(below.node, entry.node))
    return Node(entries, above.mark)


def read(file: Path) -> Node:
    """The document of a file, a mapping; raises ManifestError for anything wrong with it as YAML."""
    source = str(file)
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise ManifestError([Problem(Mark(source), (), "no such file")]) from error
    except (OSError, ValueError) as error:
        raise ManifestError([Problem(Mark(source), (), f"can't be read: {error}")]) from error
    root = parse(content, source)
    if not isinstance(root.value, dict):
        what = "is empty" if root.value is None else "must be a mapping of keys to values"
        raise ManifestError([Problem(root.mark, (), what)])
    return root


def parse(content: bytes | str, source: str, *, lines: bool = True) -> Node:
    """The nodes of one YAML document; ``lines`` false gives every node a position without a line."""
    reader = _Reader(source, lines)
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        aliases = _refuse_depth(text, reader)
        loader = _Loader(text)
        try:
            top = loader.get_single_node()
        finally:
            loader.dispose()
        root = Node(None, Mark(source, 1, 1) if lines else Mark(source)) if top is None else reader.node(top, ())
        size, depth = _measure(root, {}) if aliases else (0, 0)
    except UnicodeDecodeError as error:
        raise ManifestError([Problem(Mark(source), (), f"is not UTF-8 text: byte {error.start}")]) from error
    except yaml.MarkedYAMLError as error:
        mark = reader.mark(error.problem_mark or error.context_mark)
        message = ", ".join(part for part in (error.problem, error.context) if part)
        if error.problem_mark is not None and text[error.problem_mark.index :].startswith("\t"):
            message = "a tab can't indent: use spaces"
        raise ManifestError([Problem(mark, (), f"is not YAML: {message}")]) from error
    except yaml.YAMLError as error:
        raise ManifestError([Problem(Mark(source), (), f"is not YAML: {str(error).splitlines()[0]}")]) from error
    except RecursionError as error:
        raise ManifestError([Problem(Mark(source), (), _TOO_DEEP)]) from error
    if not reader.problems and depth > DEPTH_MAX:
        raise ManifestError([Problem(root.mark, (), _TOO_DEEP)])
    if not reader.problems and size > NODES_MAX:
        reader.problems.append(Problem(root.mark, (), f"is larger than {NODES_MAX:,} values, aliases followed"))
    if reader.problems:
        raise ManifestError(reader.problems)
    return root


def _refuse_depth(text: str, reader: _Reader) -> bool:
    """Whether there are aliases; raises ManifestError for deep nesting before it is composed.

    libyaml's composer would overrun the C stack.
    """
    depth, aliases = 0, False
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                raise ManifestError([Problem(reader.mark(event.start_mark), (), _TOO_DEEP)])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases = True
    return aliases


def _measure(node: Node, measured: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node holds and how deep they go, aliases followed."""
    if id(node) not in measured:
        value = node.value
        below = [entry.node for entry in value.values()] if isinstance(value, dict) else value
        measures = [_measure(item, measured) for item in below] if isinstance(below, list) else []
        measured[id(node)] = (1 + sum(size for size, _ in measures), 1 + max((deep for _, deep in measures), default=0))
    return measured[id(node)]


class _Reader:
    """One document on its way from PyYAML's nodes to ours."""

    def __init__(self, source: str, lines: bool) -> None:
        self.source, self.lines = source, lines
        self.problems: list[Problem] = []
        self._done: dict[int, Node] = {}
        self._open: set[int] = set()

    def mark(self, mark: Any) -> Mark:
        if mark is None or not self.lines:
            return Mark(self.source)
        return Mark(self.source, mark.line + 1, mark.column + 1)

    def problem(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(self.mark(node.start_mark), path, message))

    def node(self, node: yaml.Node, path: KeyPath) -> Node:
        """Our node for PyYAML's: an anchor's is made once and shared by its aliases."""
        if id(node) in self._done:
            return self._done[id(node)]
        if id(node) in self._open:
            self.problem(node, path, "an alias that contains itself")
            return Node(None, self.mark(node.start_mark))
        self._open.add(id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            value = [self.node(item, (*path, position)) for position, item in enumerate(node.value)]
        else:
            value = self._scalar(node, path)
        if not isinstance(node, yaml.ScalarNode) and node.tag.rsplit(":", 1)[-1] not in ("map", "seq"):
            self.problem(node, path, f"the tag {node.tag!r} is not supported")
        self._open.discard(id(node))
        return self._done.setdefault(id(node), Node(value, self.mark(node.start_mark)))

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        text, kind = node.value, node.tag.removeprefix("tag:yaml.org,2002:")
        try:
            if kind == "int":
                return self._integer(node, int(text, 0), path)
            if kind == "float":
                return float(re.sub(r"\.(inf|nan)\Z", r"\1", text.lower()))
        except ValueError:
            self.problem(node, path, f"is not a number: {text[:40]!r}")
            return None
        if kind in _WORDS and text.lower() in _WORDS[kind]:
            return _WORDS[kind][text.lower()]
        if kind in _WORDS:
            self.problem(node, path, f"is not {_KINDS[kind]}: {text[:40]!r}")
        elif kind not in ("str", "merge"):
            self.problem(node, path, f"the tag {node.tag!r} is not supported")
        if _UNSTORABLE.search(text):
            self.problem(node, path, "has a character that no file can hold")
            return ""
        return text

    def _integer(self, node: yaml.Node, number: int, path: KeyPath) -> int:
        if not -(2**63) <= number < 2**64:  # JSON as it is read back knows no others
            self.problem(node, path, "a number too large to keep")
        return number

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Entry]:
        own: dict[str, Entry] = {}
        bases: list[Node] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problem(key, path, "a key must be text, not a list or mapping")
            elif key.tag == "tag:yaml.org,2002:merge":
                bases += self._bases(value, path)
            elif composed(key.value) in own:
                first = own[composed(key.value)].key
                where = f" (first in line {first.line})" if first.line else ""
                self.problem(key, (*path, key.value), f"duplicate key{where}")
            else:
                name = self._name(key, path)
                own[name] = Entry(self.mark(key.start_mark), self.node(value, (*path, name)))
        if not bases:
            return own
        below: dict[str, Entry] = {}
        for base in reversed(bases):  # the first of several wins
            below.update(base.value)
        return {**below, **own}

    def _name(self, key: yaml.ScalarNode, path: KeyPath) -> str:
        """A key is its text as written: `1:` and `no:` are names like any other."""
        name = composed(key.value)
        if key.tag.removeprefix("tag:yaml.org,2002:") not in _OF_KEYS:
            self.problem(key, path, f"the tag {key.tag!r} is not supported")
        if _UNSTORABLE.search(name):
            self.problem(key, path, "a key has a character that no file can hold")
            return ""
        return name

    def _bases(self, value: yaml.Node, path: KeyPath) -> list[Node]:
        members = value.value if isinstance(value, yaml.SequenceNode) else [value]
        nodes = [self.node(member, path) for member in members]
        for member, node in zip(members, nodes, strict=True):
            if not isinstance(node.value, dict):
                self.problem(member, (*path, "<<"), "must be a mapping, or a list of mappings, to merge")
        return [node for node in nodes if isinstance(node.value, dict)]
