"""What to do next in this folder: what `tanda` alone says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from jobs.storage import Storage
from pipeline.manifest import load
from pipeline.plan import make_plan
from pipeline.status import done_on_storage
from sharedfs.errors import TandaError

PLACES = ("*.yaml", "*.yml", "configs/*.yaml", "configs/*.yml")
MOST = 5  # manifests that are looked at
KEYS = {"name", "storage", "data"}


def next_steps(folder: Path) -> Iterator[str]:
    """A line a manifest of this folder: how far it is, and the command that comes next. Asks no scheduler."""
    found = [path for place in PLACES for path in sorted(folder.glob(place)) if _is_manifest(path)]
    if not found:
        yield "no manifest here: `tanda init DATA titles.yaml` writes one from a data file of yours,"
        yield "`tanda data sample FOLDER` makes titles to try things with"
    for path in found[:MOST]:
        yield f"{path.relative_to(folder)}: {_next_step(path, str(path.relative_to(folder)))}"
    if len(found) > MOST:
        yield f"and {len(found) - MOST} more manifests"
    yield "`tanda --help` lists all commands, `tanda doctor STORAGE` looks at this machine and its Slurm"


def _is_manifest(path: Path) -> bool:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # another program's file
        return False
    return isinstance(document, dict) and document.keys() >= KEYS


def _next_step(path: Path, name: str) -> str:
    try:
        plan = make_plan(load(path))
        done = done_on_storage(plan)
    except (TandaError, OSError) as error:
        return f"`tanda plan {name}` says more of: {str(error).splitlines()[0]}"
    count, finished = len(plan.tasks), sum(planned.id in done for planned in plan.tasks)
    if finished == count:
        report = Storage(plan.manifest.storage).reports / plan.manifest.name / "index.html"
        shown = f"the report is {report}" if report.exists() else f"`tanda report {name}` makes the report"
        return f"all {count} tasks are done: {shown}"
    if finished:
        return (
            f"{finished} of {count} tasks are done: `tanda status {name}` says how the others stand, "
            f"`tanda submit {name}` queues what is missing"
        )
    return (
        f"{count} tasks to do: `tanda plan {name}` shows them, `tanda submit {name}` queues them, "
        f"`tanda run {name}` runs them on this machine"
    )
