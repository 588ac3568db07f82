"""Ensembles: that their members are runs and trials of this manifest, and of one data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jobs.metrics import searchable
from jobs.models.ensemble import Settings
from jobs.plugins import MODELS
from jobs.search.study import METRIC
from pipeline.manifest.expansion import Expansion
from pipeline.manifest.model import ENSEMBLES, Run, Search
from pipeline.manifest.schema import Ensemble, Root
from sharedfs.errors import KeyPath, did_you_mean


def expand_ensembles(root: Root, runs: Sequence[Run], searches: Sequence[Search], expansion: Expansion) -> list[Run]:
    """Runs of the architecture `ensemble`, whose setting ``members`` has the names that the manifest gives.

    Problems go to the expansion's findings.
    """
    if root.ensembles and ENSEMBLES in {**(root.experiments or {}), **(root.searches or {})}:
        expansion.findings.add((ENSEMBLES,), "a group or search has this name already: rename it", key=True)
    found = []
    for name, section in (root.ensembles or {}).items():
        path: KeyPath = (ENSEMBLES, name)
        expansion.check_name(name, path)
        if section.select_by is not None and section.select_by not in searchable():
            message = f"must be one of {', '.join(searchable())}, not {section.select_by!r}"
            expansion.findings.add((*path, "select_by"), message)
        members = _members(section, runs, searches, expansion, path)
        if members:
            found.append(_ensemble(name, section, members, expansion))
    return found


def _members(
    section: Ensemble, runs: Sequence[Run], searches: Sequence[Search], expansion: Expansion, path: KeyPath
) -> list[Run | Search]:
    """The runs and searches that an ensemble names; none with the problem noted."""
    before = len(expansion.findings)
    by_name: dict[str, list[Run | Search]] = {search.name: [search] for search in searches}
    for run in runs:
        by_name.setdefault(run.group, []).append(run)
        by_name.setdefault(f"{run.group}/{run.name}", []).append(run)
    members: list[Run | Search] = []
    for position, name in enumerate(section.members):
        where = (*path, "members", position)
        if name not in by_name:
            expansion.findings.add(where, f"no group, search or group/run {name!r}{did_you_mean(name, by_name)}")
        elif any(member in members for member in by_name[name]):
            expansion.findings.add(where, f"{name} is among the members already")
        members += by_name.get(name, [])
    if len(expansion.findings) > before:
        return []
    if not members:
        expansion.findings.add((*path, "members"), "must name at least one group, search or run")
    elif any(member.data != members[0].data for member in members):
        other = next(member for member in members if member.data != members[0].data)
        message = f"{_label(members[0])} and {_label(other)} have different data: members are of one data set"
        expansion.findings.add((*path, "members"), message)
        return []
    return members


def _ensemble(name: str, section: Ensemble, members: Sequence[Run | Search], expansion: Expansion) -> Run:
    made = Settings(
        members=tuple(section.members),
        top=section.top,
        greedy=section.greedy,
        select_by=section.select_by or _selected_by(members),
    )
    return Run(
        group=ENSEMBLES,
        name=name,
        architecture="ensemble",
        settings=made,
        data=members[0].data,
        resources=expansion.resources_of_kind(_kind(members), section.resources),
    )


def _selected_by(members: Iterable[Run | Search]) -> str:
    """What decides between the members themselves, where they agree; estimators have nothing to decide."""
    own = {value for member in members if (value := getattr(member.settings, "select_by", None)) is not None}
    return str(own.pop()) if len(own) == 1 else METRIC


def _kind(members: Iterable[Run | Search]) -> str:
    """An ensemble computes as its members do."""
    names = {
        name for member in members for name in ([member.architecture] if isinstance(member, Run) else member.fixed)
    }
    return "network" if any(MODELS.load(name).KIND == "network" for name in names) else "estimator"


def _label(member: Run | Search) -> str:
    return f"{member.group}/{member.name}" if isinstance(member, Run) else member.name
