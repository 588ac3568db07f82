"""From planned arrays to arrays as an executor takes them: paths, command, resources, dependencies."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.storage import Storage
from pipeline.decisions.retry import Retry
from pipeline.decisions.submission import pending
from pipeline.manifest.model import Manifest
from pipeline.plan import Plan, Planned, PlannedArray, make_arrays
from pipeline.rerun import choose
from pipeline.status import done_on_storage
from pipeline.submission import CLOSE, commit, snapshot, write_source
from sharedfs.files import UMASK
from slurm.array import Array, Dependency, Resources, array_id
from slurm.element import SIDECAR
from slurm.executors import check_name
from slurm.owned import owner_writes

if TYPE_CHECKING:
    from slurm.executors.slurm import SlurmArrays

Packs = tuple[tuple[Planned, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayRequest:
    """One array to submit: the tasks in each element, and how they are changed from the plan."""

    stage: str
    group: str
    packs: Packs
    change: Retry | None = None
    canaries: tuple[str, ...] = ()


def make_requests(tasks: Sequence[Planned], changes: Mapping[str, Retry], *, canary: bool) -> list[ArrayRequest]:
    """Arrays of packed elements in the order in which they go; with ``canary`` one of each architecture first."""
    found: list[ArrayRequest] = []
    for array in make_arrays(tasks):
        for change, members in _by_change(array.tasks, changes):
            first = _canaries(members) if canary and array.stage == "train" else ()
            rest = tuple(planned for planned in members if planned not in first)
            pack = 1 if change is not None and change.alone else array.resources.pack
            if first and rest:
                found.append(_request(array, tuple((planned,) for planned in first), change))
                found.append(_request(array, _packs(rest, pack), change, tuple(planned.id for planned in first)))
            else:
                found.append(_request(array, _packs(members, pack), change))
    return found


def _request(array: PlannedArray, packs: Packs, change: Retry | None, canaries: tuple[str, ...] = ()) -> ArrayRequest:
    return ArrayRequest(stage=array.stage, group=array.group, packs=packs, change=change, canaries=canaries)


def _canaries(tasks: Iterable[Planned]) -> tuple[Planned, ...]:
    first: dict[str | None, Planned] = {}
    for planned in tasks:
        first.setdefault(planned.architecture, planned)
    return tuple(first.values())


def _by_change(
    tasks: Sequence[Planned], changes: Mapping[str, Retry]
) -> list[tuple[Retry | None, tuple[Planned, ...]]]:
    """Tasks that are changed in the same way together: they ask the executor for the same."""
    kinds: dict[tuple[float, str | None, bool], tuple[Retry | None, list[Planned]]] = {}
    for planned in tasks:
        change = changes.get(planned.id)
        key = (change.memory_factor, change.exclude, change.alone) if change else (1.0, None, False)
        kinds.setdefault(key, (change, []))[1].append(planned)
    return [(change, tuple(members)) for change, members in kinds.values()]


def _packs(tasks: Sequence[Planned], size: int) -> Packs:
    return tuple(tuple(tasks[start : start + size]) for start in range(0, len(tasks), size))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayBuilder:
    """Makes the executor's arrays of one submission, whose folder need not exist yet."""

    manifest: Manifest
    storage: Storage
    folder: Path
    git_commit: str | None

    def array(self, request: ArrayRequest, element_ids: Mapping[str, str]) -> Array:
        """The array of a request; ``element_ids`` maps tasks that are queued to the ids of their elements."""
        given = request.packs[0][0].resources
        factor = request.change.memory_factor if request.change else 1.0
        return Array(
            name=f"{self.manifest.name}-{request.group}-{request.stage}",
            elements=tuple(tuple(self.storage.run(planned.id) for planned in pack) for pack in request.packs),
            command=(self._python, "-m", "jobs"),
            folder=self.folder,
            resources=Resources(
                cpus=given.cpus, gpus=given.gpus, mem_gb=given.mem_gb * factor, time_min=given.time_min
            ),
            after=_after(request, element_ids),
            throttle=given.throttle,
            environment={**self._environment(request.group, request.canaries), **self._sidecar(request.stage)},
            code=self.folder / "code",
            comment=f"tanda {self.folder.name} {request.stage} {request.group}",
            exclude=(request.change.exclude,) if request.change and request.change.exclude else (),
        )

    def closing(self, jobs: tuple[str, ...]) -> Array:
        """The closing job, after everything of its submission, however it ended."""
        given = self.manifest.resources[CLOSE]
        return Array(
            name=f"{self.manifest.name}-close",
            elements=((self.folder,),),
            command=(self._python, "-m", "pipeline", "close"),
            folder=self.folder,
            resources=Resources(cpus=given.cpus, mem_gb=given.mem_gb, time_min=given.time_min),
            after=(Dependency(way="afterany", jobs=jobs),),
            environment=self._environment(CLOSE, ()),
            code=self.folder / "code",
            comment=f"tanda {self.folder.name} close",
        )

    @property
    def _python(self) -> str:
        return self.manifest.cluster.python or sys.executable

    def _sidecar(self, stage: str) -> dict[str, str]:
        """The command of the process that sends epochs to a tracking server while tasks train."""
        uri = self.manifest.tracking_uri
        if uri is None or stage not in ("train", "trial"):
            return {}
        command = (self._python, "-m", "pipeline.mlflow.follower", uri, self.manifest.name)
        return {SIDECAR: json.dumps(command)}

    @property
    def _umask(self) -> int:
        """Of what tasks write: passed to each of them: what is queued is written under a stricter one."""
        if self.manifest.umask is not None:
            return self.manifest.umask
        now = os.umask(0o077)
        os.umask(now)
        return now

    def _environment(self, group: str, canaries: tuple[str, ...]) -> dict[str, str]:
        return {
            "TANDA_COMMIT": self.git_commit or "",
            "TANDA_SUBMISSION": str(self.folder),
            "TANDA_GROUP": group,
            "TANDA_BRAKE_AFTER": str(self.manifest.brake_after),
            **({"TANDA_CANARIES": ",".join(canaries)} if canaries else {}),
            UMASK: f"{self._umask:03o}",
        }


def _after(request: ArrayRequest, element_ids: Mapping[str, str]) -> tuple[Dependency, ...]:
    """What an array waits for: each element for its own training where they match, else all, however they end.

    A task asks the storage itself whether its needs are done, so a dependency only decides when to look. What must
    have ended, done or not, is never waited for as done: a search has a winner without the trial that failed.
    """
    waits = [[element_ids[need] for need in _needs(pack) if need in element_ids] for pack in request.packs]
    ended = {earlier for pack in request.packs for planned in pack for earlier in planned.after}
    every = tuple(dict.fromkeys([job for jobs in waits for job in jobs]))
    canaries = tuple(element_ids[canary] for canary in request.canaries if canary in element_ids)
    after = [Dependency(way="afterany", jobs=canaries)] if canaries else []
    if every:
        matched = all(len(jobs) == 1 for jobs in waits) and len(every) == len(request.packs)
        matched = matched and ended.isdisjoint(element_ids)
        after.append(Dependency(way="aftercorr" if matched else "afterany", jobs=every))
    return tuple(after)


def _needs(pack: Iterable[Planned]) -> list[str]:
    return list(dict.fromkeys(need for planned in pack for need in (*planned.task.needs, *planned.after)))


# The sbatch scripts of a plan: to look at, or to change and submit by hand.


def dry_run(plan: Plan, *, executor: str | None = None, rerun: str | None = None) -> str:
    """What ``submit`` would do, as text: a line for each task that is made again, then every script.

    Raises UnknownExecutorError, and InputError for what can't be made again.
    """
    check_name(executor or plan.manifest.cluster.executor)
    again = choose(plan, rerun, done_on_storage(plan))
    tasks = [planned for planned in plan.tasks if planned.id in again.remade]
    names = [f"# made again: {planned.group}/{planned.run}/{planned.stage} {planned.id}\n" for planned in tasks]
    return "".join([*names, *(f"# --- {name}\n{text}\n" for name, text in scripts(plan, again.remade).items())])


def scripts(plan: Plan, remade: Collection[str] = ()) -> dict[str, str]:
    """The scripts that ``submit`` would send, by name; nothing is written. ``remade`` tasks count as not done.

    Slurm has given no job ids yet: 1, 2, ... stand for those of the first array, the second, and so on.
    """
    slurm = _slurm(plan)
    folder = Storage(plan.manifest.storage).submissions / f"TIME-{plan.manifest.name}"
    texts: dict[str, str] = {}
    for array in _arrays(plan, folder, remade):
        pieces = slurm.scripts(array)
        for number, text in enumerate(pieces):
            texts[array.name if len(pieces) == 1 else f"{array.name}.{number}"] = text
    return texts


def _slurm(plan: Plan) -> SlurmArrays:
    from slurm.executors.slurm import SlurmArrays  # here: it imports submitit, which a submission elsewhere never needs

    return SlurmArrays(site=plan.manifest.cluster)


def _arrays(plan: Plan, folder: Path, remade: Collection[str] = ()) -> Iterator[Array]:
    builder = ArrayBuilder(
        manifest=plan.manifest, storage=Storage(plan.manifest.storage), folder=folder, git_commit=commit()
    )
    element_ids: dict[str, str] = {}
    for number, request in enumerate(_requests(plan, remade), start=1):
        yield builder.array(request, element_ids)
        for index, pack in enumerate(request.packs):
            job = str(number) if len(request.packs) == 1 else f"{number}_{index}"
            element_ids.update(dict.fromkeys((planned.id for planned in pack), job))
    if element_ids:
        yield builder.closing(tuple(dict.fromkeys(element_ids.values())))


def _requests(plan: Plan, remade: Collection[str]) -> list[ArrayRequest]:
    done = done_on_storage(plan).keys() - set(remade)
    return make_requests(pending(plan.tasks, done), {}, canary=plan.manifest.canary)


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
    for planned in pending(plan.tasks, done_on_storage(plan)):
        planned.task.write(storage)
    slurm = _slurm(plan)
    lines = ["#!/bin/bash", "# Submits every script here, each after what it waits for.", "set -euo pipefail"]
    paths: list[Path] = []
    for number, array in enumerate(_arrays(plan, folder), start=1):
        written = slurm.write_scripts(_without_dependencies(array), folder)
        after = sorted({int(array_id(job)) for way in array.after for job in way.jobs if job})
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
