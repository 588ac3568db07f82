"""One document from a manifest's file: merged over its includes, `--set` over it, its cluster profile in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.manifest import path_fields, yaml_nodes
from pipeline.manifest.path_fields import check_text, with_absolute_paths
from pipeline.manifest.yaml_nodes import Entry, ManifestError, Mark, Node, Problem
from sharedfs.errors import KeyPath, did_you_mean

SET = "--set"
STORAGE_VARIABLE = "TANDA_STORAGE"
CLUSTERS_VARIABLES = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")  # as sbatch looks for them
_CLUSTER_NAME = re.compile(r"(?!all\Z)[\w.-]+\Z")


def compose(
    file: Path,
    sets: Sequence[str] = (),
    cluster: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Node:
    """The whole document, paths absolute; raises ManifestError for what can't be merged, InputError for a bad path."""
    check_text(file.absolute())
    root = _read(file, ())
    changes = [_parse_set(text, file) for text in sets]
    for path, node in changes:
        if path == ("cluster",):
            root = _set(root, path, node, ())
    root = _with_storage(_with_clusters(_with_cluster(root, cluster), environment), environment)
    for path, node in changes:
        if path != ("cluster",):
            root = _set(root, path, node, ())
    return _with_composed_name(root)


def _with_composed_name(root: Node) -> Node:
    entry = root.value.get("name") if isinstance(root.value, dict) else None
    if entry is None or not isinstance(entry.node.value, str):
        return root
    return root.replaced("name", Entry(entry.key, Node(yaml_nodes.composed(entry.node.value), entry.node.mark)))


def compose_profile(file: Path, environment: Mapping[str, str] = os.environ) -> Node:
    """A document that holds a cluster profile alone; raises ManifestError for one that can't be read."""
    return _with_clusters(_with_cluster(Node({}, Mark("--cluster")), file), environment)


def _error(mark: Mark, path: KeyPath, message: str) -> ManifestError:
    return ManifestError([Problem(mark, path, message)])


def _read(file: Path, chain: tuple[Path, ...]) -> Node:
    """A file's document merged over those it includes, each relative to its own folder."""
    root = yaml_nodes.read(file)
    base: Node | None = None
    included = root.value.get("include")
    for path, node in _included(included):
        target = _target(node, file.parent, path)
        if target.resolve() in (*chain, file.resolve()):
            raise _error(node.mark, path, f"{target} is included by itself")
        below = _read(target, (*chain, file.resolve()))
        base = below if base is None else yaml_nodes.merged(base, below)
    problems: list[Problem] = []
    own = _with_resolved_paths(root.replaced("include", None), file.parent, problems)
    if problems:
        raise ManifestError(problems)
    return own if base is None else yaml_nodes.merged(base, own)


def _included(entry: Entry | None) -> list[tuple[KeyPath, Node]]:
    if entry is None or entry.node.value is None:
        return []
    if isinstance(entry.node.value, list):
        return [(("include", position), item) for position, item in enumerate(entry.node.value)]
    return [(("include",), entry.node)]


def _target(node: Node, folder: Path, path: KeyPath) -> Path:
    """The file that an include or a cluster key names, as people would type it: messages show it."""
    if not isinstance(node.value, str):
        raise _error(node.mark, path, "must be a path")
    try:
        target = Path(os.path.normpath(folder / os.path.expanduser(path_fields.expand(node.value))))  # noqa: PTH111
    except ValueError as error:
        raise _error(node.mark, path, str(error)) from error
    if not target.is_file():
        raise _error(node.mark, path, f"no such file: {target}")
    return target


def _with_resolved_paths(root: Node, folder: Path, problems: list[Problem]) -> Node:
    """Paths made absolute; a cluster profile's path too, so that an including file elsewhere finds it."""
    root = with_absolute_paths(root, folder, problems)
    entry = root.value.get("cluster")
    if entry is None or not isinstance(entry.node.value, str):
        return root
    target = _target(entry.node, folder, ("cluster",))
    return root.replaced("cluster", Entry(entry.key, Node(str(target), entry.node.mark)))


def _with_cluster(root: Node, cluster: Path | None) -> Node:
    """The document with its cluster profile read in, instead of the profile's path."""
    if cluster is not None:
        if not cluster.is_file():
            raise _error(Mark("--cluster"), (), f"no such file: {cluster}")
        profile = _read(cluster, ())
        return root.replaced("cluster", Entry(profile.mark, profile))
    entry = root.value.get("cluster")
    if entry is None or not isinstance(entry.node.value, str):
        return root
    return root.replaced("cluster", Entry(entry.key, _read(Path(entry.node.value), ())))


def _with_storage(root: Node, environment: Mapping[str, str]) -> Node:
    storage = environment.get(STORAGE_VARIABLE)
    if not storage:
        return root
    check_text(storage)
    mark = Mark(STORAGE_VARIABLE)
    return root.replaced("storage", Entry(mark, Node(str(Path(storage).absolute()), mark)))


def is_cluster_name(text: str) -> bool:
    """Whether a text names one cluster of Slurm's."""
    return bool(_CLUSTER_NAME.match(text))


def shell_clusters(environment: Mapping[str, str]) -> tuple[str, str]:
    """The variable by which a login shell names clusters for sbatch, and what it names; empty where there is none."""
    found = ((variable, environment[variable]) for variable in CLUSTERS_VARIABLES if environment.get(variable))
    return next(found, ("", ""))


def _with_clusters(root: Node, environment: Mapping[str, str]) -> Node:
    """The document with the cluster that the login shell names for all of Slurm's commands, where it names none itself.

    Kept in the document, for jobs go to the same one that are submitted later, from a node of it.
    """
    variable, name = shell_clusters(environment)
    entry = root.value.get("cluster")
    profile = {} if entry is None or entry.node.value is None else entry.node.value
    if not is_cluster_name(name) or not isinstance(profile, dict) or "clusters" in profile:
        return root
    mark = Mark(variable)
    section = Node({**profile, "clusters": Entry(mark, Node(name, mark))}, mark if entry is None else entry.node.mark)
    return root.replaced("cluster", Entry(mark if entry is None else entry.key, section))


def _parse_set(text: str, file: Path) -> tuple[KeyPath, Node]:
    """A `--set PATH=VALUE` read: the path's keys and the value, which is YAML."""
    path, equals, value = text.partition("=")
    keys = tuple(yaml_nodes.composed(path).strip().split("."))
    if not equals or not all(keys):
        raise _error(Mark(SET), (), f"must look like experiments.baseline.runs.MLP.epochs=1, not {text!r}")
    node = yaml_nodes.parse(value, SET, lines=False)
    problems: list[Problem] = []
    tree = node
    for key in reversed(keys):
        tree = Node({key: Entry(Mark(SET), tree)}, Mark(SET))
    resolved = _with_resolved_paths(tree, file.parent, problems).find(keys)
    if problems:
        raise ManifestError(problems)
    return keys, node if resolved is None else resolved


def _set(root: Node, keys: KeyPath, value: Node, above: KeyPath) -> Node:
    """The document with one value set; raises ManifestError for a path that does not exist."""
    if not keys:
        return value
    if isinstance(root.value, list):
        return _set_item(root, keys, value, above)
    if not isinstance(root.value, dict | None):
        raise _error(Mark(SET), (*above, keys[0]), f"{'.'.join(map(str, above))} is a value, it has no keys")
    entries = root.value or {}
    key, rest = _longest_name(entries, keys)
    if key not in entries and rest and _is_user_named((*above, key)):
        raise _error(Mark(SET), (*above, key), f"there is none of this name{did_you_mean(key, entries)}")
    old = entries.get(key)
    new = _set(Node(None, Mark(SET)) if old is None else old.node, rest, value, (*above, key))
    mark = Mark(SET) if old is None or not rest else old.key
    return Node({**entries, key: Entry(mark, new)}, root.mark)


def _set_item(root: Node, keys: KeyPath, value: Node, above: KeyPath) -> Node:
    text = str(keys[0])
    if not text.isdecimal() or int(text) >= len(root.value):
        raise _error(Mark(SET), (*above, text), f"must be a position in the list, 0 to {len(root.value) - 1}")
    items = list(root.value)
    items[int(text)] = _set(items[int(text)], keys[1:], value, (*above, int(text)))
    return Node(items, root.mark)


def _longest_name(entries: Mapping[str, Entry], keys: KeyPath) -> tuple[str, KeyPath]:
    """The next key and the rest: names may hold dots, so the longest name that exists is meant."""
    for length in range(len(keys), 0, -1):
        name = ".".join(map(str, keys[:length]))
        if name in entries:
            return name, keys[length:]
    return str(keys[0]), keys[1:]


def _is_user_named(path: KeyPath) -> bool:
    """Whether a key is a group's, a run's or a search's own name: an unknown one is a typing error."""
    if len(path) == 2:
        return path[0] in ("experiments", "searches")
    return len(path) == 4 and path[0] == "experiments" and path[2] == "runs"
