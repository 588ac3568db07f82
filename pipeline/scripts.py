"""The sbatch scripts of a plan: to look at, or to change and submit by hand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jobs.storage import Storage
from pipeline.arrays import ArrayBuilder, ArrayRequest, make_requests
from pipeline.decisions.submission import pending
from pipeline.done import done_ids
from pipeline.plan import Plan
from pipeline.submission import commit, snapshot
from pipeline.submit import write_source
from slurm.array import Array
from slurm.executors.slurm import SlurmArrays
from slurm.job_ids import base
from slurm.owned import owner_writes


def scripts(plan: Plan) -> dict[str, str]:
    """The scripts that ``submit`` would send, by name; nothing is written.

    Slurm has given no job ids yet: 1, 2, ... stand for those of the first array, the second, and so on.
    """
    slurm = SlurmArrays(site=plan.manifest.cluster)
    folder = Storage(plan.manifest.storage).submissions / f"TIME-{plan.manifest.name}"
    texts: dict[str, str] = {}
    for array in _arrays(plan, folder):
        pieces = slurm.scripts(array)
        for number, text in enumerate(pieces):
            texts[array.name if len(pieces) == 1 else f"{array.name}.{number}"] = text
    return texts


def _arrays(plan: Plan, folder: Path) -> Iterator[Array]:
    builder = ArrayBuilder(
        manifest=plan.manifest, storage=Storage(plan.manifest.storage), folder=folder, git_commit=commit()
    )
    element_ids: dict[str, str] = {}
    for number, request in enumerate(_requests(plan), start=1):
        yield builder.array(request, element_ids)
        for index, pack in enumerate(request.packs):
            job = str(number) if len(request.packs) == 1 else f"{number}_{index}"
            element_ids.update(dict.fromkeys((planned.id for planned in pack), job))
    if element_ids:
        yield builder.closing(tuple(dict.fromkeys(element_ids.values())))


def _requests(plan: Plan) -> list[ArrayRequest]:
    return make_requests(pending(plan.tasks, done_ids(plan)), {}, canary=plan.manifest.canary)


def write_scripts(plan: Plan, folder: Path) -> list[Path]:
    """Write the scripts, the code and the tasks, and ``submit.sh``, which submits all in the right order.

    The folder must be on shared storage: the jobs import the code and read their elements from it.
    Raises FileExistsError when it is there already.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o755)
    storage = Storage(plan.manifest.storage)
    snapshot(folder / "code")
    write_source(folder, plan)
    for planned in pending(plan.tasks, done_ids(plan)):
        planned.task.write(storage)
    slurm = SlurmArrays(site=plan.manifest.cluster)
    lines = ["#!/bin/bash", "# Submits every script here, each after what it waits for.", "set -euo pipefail"]
    paths: list[Path] = []
    for number, array in enumerate(_arrays(plan, folder), start=1):
        written = slurm.write_scripts(_without_dependencies(array), folder)
        after = sorted({int(base(job)) for way in array.after for job in way.jobs if job})
        option = f"--dependency=afterany:{':'.join(f'$job{job}' for job in after)} " if after else ""
        calls = [f"$(sbatch --parsable {option}{shlex.quote(str(path))})" for path in written]
        lines.append(f"job{number}={':'.join(calls)}")
        paths += written
    start = folder / "submit.sh"
    with owner_writes():
        start.write_text("\n".join([*lines, "echo submitted", ""]))
    start.chmod(0o755)
    return [*paths, start]


def _without_dependencies(array: Array) -> Array:
    return replace(array, after=())
