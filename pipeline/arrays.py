"""From planned arrays to arrays as an executor takes them: paths, command, resources, dependencies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.notice import COMMAND
from jobs.storage import Storage
from pipeline.decisions.closing import CLOSE
from pipeline.decisions.retry import Retry
from pipeline.manifest.model import Manifest
from pipeline.manifest.model import Resources as Given
from pipeline.plan import Planned, PlannedArray, make_arrays
from sharedfs.files import UMASK
from slurm.array import Array, Dependency, Resources
from slurm.sidecar import SIDECARS

if TYPE_CHECKING:
    pass

ARRAY_NAME_BYTES = 230  # of a file system's 255, with a number and an ending behind it
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
        site = self.manifest.cluster.site(request.stage)
        factor = request.change.memory_factor if request.change else 1.0
        return Array(
            name=_array_name(self.manifest.name, request),
            elements=tuple(tuple(self.storage.run(planned.id) for planned in pack) for pack in request.packs),
            command=(site.python_command, "-m", "jobs"),
            folder=self.folder,
            resources=Resources(
                cpus=given.cpus, gpus=given.gpus, mem_gb=given.mem_gb * factor, time_min=given.time_min
            ),
            after=_after(request, element_ids),
            throttle=given.throttle,
            environment={**self._environment(request.group, request.canaries), **self._sidecars(request.stage, given)},
            code=self.folder / "code",
            comment=f"tanda {self.folder.name} {request.stage} {request.group}",
            exclude=(request.change.exclude,) if request.change and request.change.exclude else (),
            site=site,
            storage=(self.storage.root,),
        )

    def closing(self, jobs: tuple[str, ...]) -> Array:
        """The closing job, after everything of its submission, however it ended; at once where that is nothing."""
        given, site = self.manifest.resources[CLOSE], self.manifest.cluster.site(CLOSE)
        if self.manifest.mail is not None:
            mail = {"mail-user": self.manifest.mail, "mail-type": "END,FAIL"}
            site = replace(site, extra={**mail, **site.extra})
        return Array(
            name=f"{self.manifest.name}-close",
            elements=((self.folder,),),
            command=(site.python_command, "-m", "pipeline", "close"),
            folder=self.folder,
            resources=Resources(cpus=given.cpus, gpus=given.gpus, mem_gb=given.mem_gb, time_min=given.time_min),
            after=(Dependency(way="afterany", jobs=jobs),) if jobs else (),
            environment=self._environment(CLOSE, ()),
            code=self.folder / "code",
            comment=f"tanda {self.folder.name} close",
            site=site,
            storage=(self.storage.root,),
        )

    def _sidecars(self, stage: str, given: Given) -> dict[str, str]:
        """The commands of the processes that run beside tasks: one sends epochs to a tracking server while they
        train, one measures their GPUs."""
        python, uri = self.manifest.cluster.site(stage).python_command, self.manifest.tracking_uri
        commands: list[tuple[str, ...]] = []
        if uri is not None and stage in ("train", "trial"):
            commands.append((python, "-m", "pipeline.mlflow.follower", uri, self.manifest.name))
        if given.gpus:
            commands.append((python, "-m", "jobs.gpu_watch", str(given.idle_min), f"{given.idle_below:g}"))
        return {SIDECARS: json.dumps(commands)} if commands else {}

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
            **({COMMAND: self.manifest.notify} if self.manifest.notify else {}),
            UMASK: f"{self._umask:03o}",
        }


def _array_name(manifest: str, request: ArrayRequest) -> str:
    """What its jobs and their folders are called: of two long names, in letters of several bytes, one is cut."""
    tail = f"-{request.group}-{request.stage}"
    return manifest.encode()[: ARRAY_NAME_BYTES - len(tail.encode())].decode(errors="ignore") + tail


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


def needs_of(request: ArrayRequest) -> list[str]:
    """The tasks whose results those of a request read, or that have to be over before."""
    return [need for pack in request.packs for need in _needs(pack)]


def _needs(pack: Iterable[Planned]) -> list[str]:
    return list(dict.fromkeys(need for planned in pack for need in (*planned.task.needs, *planned.after)))
