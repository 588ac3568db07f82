"""A manifest and its cluster profile, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.manifest.compose import compose, compose_profile, is_cluster_name
from pipeline.manifest.expand_ensembles import expand_ensembles
from pipeline.manifest.expand_groups import expand_group
from pipeline.manifest.expand_searches import check_continued, expand_search
from pipeline.manifest.expansion import Expansion
from pipeline.manifest.model import Cluster, Manifest, Resources, Run, Search
from pipeline.manifest.path_fields import with_dollars_kept
from pipeline.manifest.plugins import is_trusted, use_plugins
from pipeline.manifest.resources import DEFAULTS, resolve_resources
from pipeline.manifest.schema import Cluster as ClusterSection
from pipeline.manifest.schema import Container as ContainerSection
from pipeline.manifest.schema import Group, Placement, Places, Root
from pipeline.manifest.validation import Findings, validate
from pipeline.manifest.yaml_nodes import Node
from pipeline.memory import collection_paused
from sharedfs.errors import KeyPath
from sharedfs.typed_json import Json
from slurm.array import Container
from slurm.commands import warn_once

_SINGLE_WORDS = ("partition", "account", "qos", "constraint", "gres_type", "exclude")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_OPTION = re.compile(r"[a-z][a-z0-9_-]*\Z")
_SERVER = re.compile(r"https?://[^\s/]+", re.IGNORECASE)
_OTHER_CLUSTERS = ("clusters", "cluster")


# A cluster profile as the executors take it: no value may become more than one line of a script.


def check_profile(section: ClusterSection, findings: Findings) -> None:
    """Note what would break out of an sbatch line, or can't be an option or a variable."""
    if section.clusters is not None and not is_cluster_name(section.clusters):
        findings.add(("cluster", "clusters"), f"must be the name of one cluster, not {section.clusters!r}")
    _check_placement(section, ("cluster",), findings)
    for stage in Places.model_fields:
        _check_placement(getattr(section.stages, stage), ("cluster", "stages", stage), findings)
    _check_line(("cluster", "activate"), section.activate, findings)
    _check_line(("cluster", "python"), section.python, findings)
    _check_notice(section, ("cluster",), findings)
    if section.container is not None:
        _check_container(section.container, ("cluster", "container"), findings)
    for position, module in enumerate(section.modules):
        if not re.fullmatch(r"[\w.+@:~-][\w.+@:~/-]*", module):
            findings.add(("cluster", "modules", position), f"must be a module's name, not {module!r}")
    for name, value in section.environment.items():
        path = ("cluster", "environment", name)
        if not _VARIABLE.match(name):
            findings.add(path, "must be a variable's name: letters, digits and _", key=True)
        _check_line(path, value, findings)


def _check_placement(section: Placement, at: KeyPath, findings: Findings) -> None:
    for name in _SINGLE_WORDS:
        value = getattr(section, name)
        if value is not None and not _is_word(value):
            findings.add((*at, name), f"must be one word, not {value!r}")
    for name, value in section.extra.items():
        path = (*at, "extra", name)
        if not _OPTION.match(name):
            findings.add(path, "must be an sbatch option's long name, without dashes in front", key=True)
        elif name.replace("_", "-") in _OTHER_CLUSTERS:
            findings.add(path, "belongs in the profile's key `clusters`, by which jobs are followed", key=True)
        _check_line(path, value, findings)


def _check_notice(section: ClusterSection | Root, at: KeyPath, findings: Findings) -> None:
    if section.notify is not None and not section.notify.strip():
        findings.add((*at, "notify"), "must be a shell command, not an empty text")
    _check_line((*at, "notify"), section.notify, findings)
    if section.mail is not None and not _is_word(section.mail):
        findings.add((*at, "mail"), f"must be one address, not {section.mail!r}")


def _check_container(section: ContainerSection, at: KeyPath, findings: Findings) -> None:
    if (section.pyxis is None) == (section.apptainer is None):
        findings.add(at, "must have one of pyxis and apptainer, with an image", key=True)
    for name in ("pyxis", "apptainer"):
        value = getattr(section, name)
        if value is not None and not _is_word(value):
            findings.add((*at, name), f"must be one word, not {value!r}")
    for position, mount in enumerate(section.mounts):
        if not mount.startswith("/") or "," in mount or not mount.isprintable():
            findings.add((*at, "mounts", position), f"must be an absolute path, or two with a colon, not {mount!r}")


def _is_word(text: str) -> bool:
    return bool(text) and not any(character.isspace() for character in text)


def _check_line(path: KeyPath, value: object, findings: Findings) -> None:
    if isinstance(value, str) and any(ord(character) < 32 for character in value):
        findings.add(path, "must be one line")


def make_cluster(section: ClusterSection) -> Cluster:
    """The checked profile as executors take it."""
    plain = section.model_dump(exclude={"resources", "plugins", "stages", "container", "notify", "mail"})
    stages = section.stages.model_dump(exclude_unset=True)
    container = section.container
    if container is not None:
        plain["container"] = Container(
            pyxis=container.pyxis, apptainer=container.apptainer, mounts=tuple(container.mounts)
        )
    plain["stages"] = {stage: options for stage, options in stages.items() if options}
    plain["modules"] = tuple(section.modules)
    plain["environment"] = {name: _shell(value) for name, value in section.environment.items()}
    return Cluster(**plain)


def _shell(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def load_profile(path: Path) -> tuple[Cluster, Mapping[str, Resources]]:
    """A cluster profile without a manifest, and what it gives to each stage.

    Raises ManifestError with every problem in it.
    """
    document = compose_profile(path)
    findings = Findings(document)
    section = validate(ClusterSection, document.plain()["cluster"], findings, ("cluster",))
    findings.flush()
    assert section is not None
    check_profile(section, findings)
    findings.flush()
    return make_cluster(section), resolve_resources(DEFAULTS, section.resources)


# From a manifest's file to a manifest that can be planned; nothing is ever written.


@collection_paused()
def load(path: Path, *, sets: Sequence[str] = (), cluster: Path | None = None, run_plugins: bool = False) -> Manifest:
    """The manifest of a file with `--set` changes and, instead of its own, a cluster profile.

    Paths in it are relative to the file that names them. Its plugins are in use from here on; the code of those that
    another user's file names runs only where ``run_plugins``. Raises ManifestError with every problem in it.
    """
    document = compose(path, sets, cluster)
    findings = Findings(document)
    # A section whose lines are all commented out counts as left out.
    root = validate(Root, {key: value for key, value in document.plain().items() if value is not None}, findings)
    findings.flush()
    assert root is not None
    use_plugins(document, Path(root.storage), findings, run=run_plugins)
    findings.flush()
    expansion = Expansion(root, findings)
    expansion.check_name(root.name, ("name",), key=False)
    check_profile(root.cluster or ClusterSection(), findings)
    _check_notice(root, (), findings)
    runs, searches = _expand(root, expansion)
    ensembles = expand_ensembles(root, runs, searches, expansion)
    if root.tracking.uri is not None and not _SERVER.match(root.tracking.uri):
        findings.add(("tracking", "uri"), f"must be http://host or https://host, not {root.tracking.uri!r}")
    if not root.experiments and not root.searches:
        findings.add((), "asks for nothing: give it experiments or searches")
    findings.flush()
    notify = _own_notify(document, is_said=run_plugins)
    return _manifest(path, document, root, runs, searches, ensembles=ensembles, notify=notify)


def _expand(root: Root, expansion: Expansion) -> tuple[list[Run], list[Search]]:
    runs: list[Run] = []
    for name, group in (root.experiments or {}).items():
        runs += expand_group(name, group or Group(), expansion)
    searches = []
    for name, section in (root.searches or {}).items():
        if name in (root.experiments or {}):
            expansion.findings.add(("searches", name), "a group of experiments has this name already", key=True)
        search = expand_search(name, section, expansion)
        if search is not None:
            searches.append(search)
    if len(searches) == len(root.searches or {}):  # one that is wrong itself is not missed
        check_continued(searches, expansion.findings)
    return runs, searches


def _own_notify(document: Node, *, is_said: bool) -> str | None:
    """The manifest's command, else the profile's; one that another user's file names never runs as this user."""
    for place in (("notify",), ("cluster", "notify")):
        node = document.find(place)
        if node is None or node.value is None:
            continue
        if is_trusted(node.mark.source):
            return str(node.value)
        if is_said:
            warn_once(f"{node.mark}: another user's `notify`: not run; put a command into a file of your own")
    return None


def _with_notify(document: dict[str, Json], notify: str | None) -> dict[str, Json]:
    """The document for jobs, which take every command in it for their user's own."""
    cluster = document.get("cluster")
    if isinstance(cluster, dict):
        document = {**document, "cluster": {name: value for name, value in cluster.items() if name != "notify"}}
    rest = {name: value for name, value in document.items() if name != "notify"}
    return rest if notify is None else {**rest, "notify": notify}


def _manifest(
    path: Path,
    document: Node,
    root: Root,
    runs: list[Run],
    searches: list[Search],
    *,
    ensembles: list[Run],
    notify: str | None,
) -> Manifest:
    cluster = root.cluster or ClusterSection()
    return Manifest(
        name=root.name,
        path=path.absolute(),
        document=_with_notify(with_dollars_kept(document).plain(), notify),
        storage=Path(root.storage),
        cluster=make_cluster(cluster),
        runs=tuple(runs),
        searches=tuple(searches),
        ensembles=tuple(ensembles),
        resources=resolve_resources(DEFAULTS, cluster.resources, root.resources),
        language=root.report.language,
        tracking_uri=root.tracking.uri,
        retries=root.retries,
        canary=root.canary,
        brake_after=root.brake_after,
        notify=notify,
        mail=root.mail or cluster.mail,
        umask=None if root.umask is None else int(root.umask, 8),
    )
