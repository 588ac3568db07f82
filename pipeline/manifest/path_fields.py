"""Which values of a manifest are paths, and the absolute path that each stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.manifest.yaml_nodes import Entry, Node, Problem
from sharedfs.errors import InputError, KeyPath

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?P<rest>:-[^}]*)?\}|)")
SOURCES = ("train", "validation", "test", "source", "encoder")
_EXPERIMENT = ("experiments", "*")
_DATA = (
    ("data",),
    _EXPERIMENT,
    (*_EXPERIMENT, "runs", "*"),
    ("searches", "*"),
)
_AXES = ((*_EXPERIMENT, "grid"), (*_EXPERIMENT, "zip"))
_VECTORS: tuple[KeyPath, ...] = (("file",), ("train", "unlabelled"))
PATTERNS: tuple[KeyPath, ...] = (
    ("storage",),
    *((*section, source) for section in _DATA for source in SOURCES),
    *((*section, "embeddings", *below) for section in _DATA for below in _VECTORS),
    *((*axes, source, "*") for axes in _AXES for source in SOURCES),
    *((*axes, "embeddings", "*", *below) for axes in _AXES for below in _VECTORS),
    ("plugins", "*"),
)


# Paths in manifests: environment variables, the home, and what a relative one is relative to.


def expand(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A path's text with `$NAME`, `${NAME}` and `${NAME:-default}` filled in; `$$` is a dollar.

    Raises ValueError for a variable that is not set and for a dollar that belongs to none.
    """

    def value(match: re.Match[str]) -> str:
        name, rest = match["bare"] or match["name"], match["rest"]
        if match["dollar"]:
            return "$"
        if name is None:
            raise InputError("a '$' with no variable's name after it; write '$$' for a dollar")
        if rest is not None:
            return environment.get(name) or rest[2:]
        if name not in environment:
            raise InputError(f"unknown environment variable {name!r}")
        return environment[name]

    return _VARIABLE.sub(value, text)


def is_plugin_path(text: str) -> bool:
    """Whether an entry of ``plugins`` is a path by its look; a bare name is one too where it is there."""
    return "/" in text or text.endswith(".py")


def absolute_path(text: str, folder: Path) -> str:
    """The absolute path that a manifest in ``folder`` means; raises ValueError as `expand` does.

    Links are left as they are: a site's `/home/me/data` stays what people call it.
    """
    if not text.strip():
        raise InputError("must be a path, not an empty text")
    if any(ord(character) < 32 for character in text):
        raise InputError("a path must not hold line breaks or other control characters")
    path = os.path.abspath(folder / Path(os.path.expanduser(expand(text))))  # noqa: PTH100, PTH111
    check_text(path)
    return path


def check_text(path: str | Path) -> None:
    """Raise InputError for a path that no manifest, record or job script could hold: its bytes are no text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        name = os.fsencode(path).decode(errors="backslashreplace")
        raise InputError(
            f"{name}: a path that is not UTF-8 text: rename it, or set LC_ALL=C.UTF-8 if the locale is to blame"
        ) from None


# Which values of a manifest are paths, and what they are relative to: the file that names them.


def with_absolute_paths(root: Node, folder: Path, problems: list[Problem]) -> Node:
    """A document whose paths are absolute and whose environment variables are filled in.

    One that expands to nothing, as `${VECTORS:-}` does where that is not set, counts as left out.
    """

    def absolute(text: str, node: Node, path: KeyPath) -> str | None:
        if path[0] == "plugins" and not is_plugin_path(text) and not (folder / text).exists():
            return text
        try:
            return absolute_path(text, folder) if expand(text).strip() or not text.strip() else None
        except ValueError as error:
            problems.append(Problem(node.mark, path, str(error)))
            return text

    return _with_paths(root, absolute)


def with_dollars_kept(root: Node) -> Node:
    """A document whose paths mean the same when they are read, and expanded, again."""
    return _with_paths(root, lambda text, _node, _path: text.replace("$", "$$"))


def _with_paths(root: Node, change: Callable[[str, Node, KeyPath], str | None]) -> Node:
    def changed(node: Node, path: KeyPath) -> Node:
        if isinstance(node.value, list):
            return Node([changed(item, (*path, position)) for position, item in enumerate(node.value)], node.mark)
        return Node(change(node.value, node, path), node.mark) if isinstance(node.value, str) else node

    for pattern in PATTERNS:
        root = _rewritten(root, pattern, (), changed)
    return root


def _rewritten(node: Node, pattern: KeyPath, path: KeyPath, change: Callable[[Node, KeyPath], Node]) -> Node:
    """A tree with the nodes of a pattern changed; what has none of them is shared, not copied."""
    if not pattern:
        return change(node, path)
    wanted, rest = pattern[0], pattern[1:]
    if isinstance(node.value, list) and wanted == "*":
        below = [_rewritten(item, rest, (*path, key), change) for key, item in enumerate(node.value)]
        return Node(below, node.mark)
    if not isinstance(node.value, dict):
        return node
    keys = list(node.value) if wanted == "*" else [key for key in (wanted,) if key in node.value]
    changed = {}
    for key in keys:
        entry = node.value[key]
        new = _rewritten(entry.node, rest, (*path, key), change)
        if new is not entry.node:
            changed[key] = Entry(entry.key, new)
    return Node({**node.value, **changed}, node.mark) if changed else node
