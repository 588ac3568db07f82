"""From a manifest's file to a manifest that can be planned; nothing is ever written."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.manifest.allotment import allot, said
from pipeline.manifest.assembly import assemble
from pipeline.manifest.document import Node
from pipeline.manifest.expansion import Expansion
from pipeline.manifest.groups import GroupExpansion
from pipeline.manifest.places import with_dollars_kept
from pipeline.manifest.profile import check_profile, make_cluster
from pipeline.manifest.searches import expand_search
from pipeline.manifest.sections import Cluster as ClusterSection
from pipeline.manifest.sections import Group, Root
from pipeline.manifest.shape import Findings, validate
from pipeline.manifest.types import Manifest, Run, Search


def load(path: Path, *, sets: Sequence[str] = (), cluster: Path | None = None) -> Manifest:
    """The manifest of a file with `--set` changes and, instead of its own, a cluster profile.

    Paths in it are relative to the file that names them. Raises ManifestError with every problem that was found.
    """
    with _collector_paused():
        return _load(path, sets, cluster)


@contextmanager
def _collector_paused() -> Iterator[None]:
    # A manifest of 10,000 named runs is a million small objects that all stay: looking for garbage among them
    # again and again takes three quarters of the time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _load(path: Path, sets: Sequence[str], cluster: Path | None) -> Manifest:
    document = assemble(path, sets, cluster)
    found = Findings(document)
    # A section whose lines are all commented out is as good as left out.
    root = validate(Root, {key: value for key, value in document.plain().items() if value is not None}, found)
    found.settle()
    assert root is not None
    expansion = Expansion(root, found)
    expansion.check_name(root.name, ("name",), key=False)
    check_profile(root.cluster or ClusterSection(), found)
    runs, searches = _expand(root, expansion)
    if not root.experiments and not root.searches:
        found.add((), "asks for nothing: give it experiments or searches")
    found.settle()
    return _manifest(path, document, root, runs, searches)


def _expand(root: Root, expansion: Expansion) -> tuple[list[Run], list[Search]]:
    runs: list[Run] = []
    for name, group in (root.experiments or {}).items():
        runs += GroupExpansion(name, group or Group(), expansion).runs()
    searches = []
    for name, section in (root.searches or {}).items():
        if name in (root.experiments or {}):
            expansion.found.add(("searches", name), "a group of experiments has this name already", key=True)
        search = expand_search(name, section, expansion)
        if search is not None:
            searches.append(search)
    return runs, searches


def _manifest(path: Path, document: Node, root: Root, runs: list[Run], searches: list[Search]) -> Manifest:
    cluster = root.cluster or ClusterSection()
    return Manifest(
        name=root.name,
        path=path.absolute(),
        document=with_dollars_kept(document).plain(),
        storage=Path(root.storage),
        cluster=make_cluster(cluster),
        runs=tuple(runs),
        searches=tuple(searches),
        resources=allot(said(cluster.resources), said(root.resources)),
        language=root.report.language,
        tracking_uri=root.tracking.uri,
        retries=root.retries,
        canary=root.canary,
        brake_after=root.brake_after,
        umask=None if root.umask is None else int(root.umask, 8),
    )
