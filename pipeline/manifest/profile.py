"""A cluster profile as the executors take it; nothing in it may become more than one line of a script."""

from __future__ import annotations

import re
from typing import Any

from pipeline.manifest.allotment import said
from pipeline.manifest.errors import Path
from pipeline.manifest.sections import Cluster as ClusterSection
from pipeline.manifest.shape import Findings
from pipeline.manifest.types import Cluster

_WORDS = ("partition", "account", "qos", "constraint", "gres_type", "exclude")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_OPTION = re.compile(r"[a-z][a-z0-9_-]*\Z")
_OTHER_CLUSTERS = ("clusters", "cluster")


def check_profile(section: ClusterSection, found: Findings) -> None:
    """Note what would break out of an sbatch line, or is no option or variable at all."""
    for name in _WORDS:
        value = getattr(section, name)
        if value is not None and (not value or any(character.isspace() for character in value)):
            found.add(("cluster", name), f"must be one word, not {value!r}")
    _check_line(("cluster", "activate"), section.activate, found)
    _check_line(("cluster", "python"), section.python, found)
    for position, module in enumerate(section.modules):
        if not re.fullmatch(r"[\w.+@:~-][\w.+@:~/-]*", module):
            found.add(("cluster", "modules", position), f"must be a module's name, not {module!r}")
    for name, value in section.environment.items():
        path = ("cluster", "environment", name)
        if not _VARIABLE.match(name):
            found.add(path, "must be a variable's name: letters, digits and _", key=True)
        _check_line(path, value, found)
    for name, value in section.extra.items():
        path = ("cluster", "extra", name)
        if not _OPTION.match(name):
            found.add(path, "must be an sbatch option's long name, without dashes in front", key=True)
        elif name.replace("_", "-") in _OTHER_CLUSTERS:
            found.add(path, "jobs of another cluster can't be followed: submit from a login node of that one", key=True)
        _check_line(path, value, found)


def _check_line(path: Path, value: object, found: Findings) -> None:
    if isinstance(value, str) and any(ord(character) < 32 for character in value):
        found.add(path, "must be one line")


def make_cluster(section: ClusterSection) -> Cluster:
    """The checked profile in the pipeline's own terms."""
    plain: dict[str, Any] = section.model_dump()
    plain["modules"] = tuple(section.modules)
    plain["environment"] = {name: _shell(value) for name, value in section.environment.items()}
    plain["resources"] = said(section.resources)
    return Cluster(**plain)


def _shell(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
