"""Hands what is missing of a plan to an executor: one array a group, a closing job after all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.storage import Storage, write_json
from pipeline import submission
from pipeline.done import to_do
from pipeline.executors import make_executor
from pipeline.plan import Plan, Planned, PlannedArray, make_arrays
from pipeline.retry import Retry
from pipeline.snapshot import commit, snapshot
from pipeline.states import TaskState
from pipeline.status import task_states
from pipeline.submission import Queued, Submission
from slurm.array import Array, Dependency, Resources, Submitted
from slurm.executors import Executor

SOURCE = "manifest.json"
CLOSE_RESOURCES = Resources(cpus=1, mem_gb=4.0, time_min=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a submission came to: arrays queued, how many tasks needed nothing, what could not be queued."""

    submission: Submission | None
    already_done: int
    already_queued: int
    held: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        return int(bool(self.held))

    def document(self) -> dict[str, Any]:
        arrays = self.submission.arrays if self.submission else ()
        return {
            "submission": self.submission.name if self.submission else None,
            "arrays": [
                {
                    "stage": array.stage,
                    "group": array.group,
                    "job_id": ",".join(array.job_ids),
                    "tasks": sum(map(len, array.elements.values())),
                }
                for array in arrays
            ],
            "already_done": self.already_done,
            "already_queued": self.already_queued,
            "not_queued": dict(self.held),
        }


def submit_plan(plan: Plan, *, executor: str | None = None, changes: Mapping[str, Retry] | None = None) -> Report:
    """Queue every task that is neither done nor queued; with ``changes`` only those tasks, changed so.

    One submitter at a time holds the storage's lock. Raises ValueError for an unknown executor, and
    ``slurm.array.SubmitError`` when the scheduler takes nothing at all; then no submission is left behind.
    """
    name = executor or plan.manifest.cluster.executor
    storage = Storage(plan.manifest.storage)
    if plan.manifest.umask is not None:
        os.umask(plan.manifest.umask)
    with submission.exclusively(storage):
        states = task_states(plan)
        tasks = _wanted(plan, states, changes)
        report = Report(
            submission=None,
            already_done=len(plan.tasks) - len(to_do(plan, _done(states))),
            already_queued=sum(_is_queued(state) for state in states.values()),
        )
        if not tasks:
            return report
        made = _Submitter(plan, storage, make_executor(name, plan.manifest), name, states, changes or {})
        made.submit(tasks)
    return replace(report, submission=made.submission, held=made.held)


def _done(states: Mapping[str, TaskState]) -> frozenset[str]:
    return frozenset(task for task, state in states.items() if state.state == "done")


def _wanted(plan: Plan, states: Mapping[str, TaskState], changes: Mapping[str, Retry] | None) -> tuple[Planned, ...]:
    if changes is not None:
        return tuple(planned for planned in plan.tasks if planned.id in changes)
    return tuple(planned for planned in to_do(plan, _done(states)) if not _is_queued(states[planned.id]))


def _is_queued(state: TaskState) -> bool:
    return state.state == "running" or (state.state == "waiting" and state.job is not None)


class _Submitter:
    """One submission in the making: its folder, and where each task was queued."""

    def __init__(
        self,
        plan: Plan,
        storage: Storage,
        executor: Executor,
        name: str,
        states: Mapping[str, TaskState],
        changes: Mapping[str, Retry],
    ) -> None:
        self.plan = plan
        self.storage = storage
        self.executor = executor
        self.changes = changes
        self.held: dict[str, str] = {}
        self.places = {task: state.job for task, state in states.items() if _is_queued(state) and state.job}
        self.git_commit = commit()
        self.submission = submission.begin(
            storage, manifest=plan.manifest.name, executor=name, git_commit=self.git_commit
        )

    @property
    def folder(self) -> Path:
        return self.storage.submissions / self.submission.name

    def submit(self, tasks: Sequence[Planned]) -> None:
        snapshot(self.folder / "code")
        write_json(self.folder / SOURCE, self.plan.manifest.document)
        for planned in tasks:
            planned.task.write(self.storage)
            _set_aside(self.storage.run(planned.id))
        for planned_array in make_arrays(tasks):
            self._queue(planned_array)
        self._queue_closing_job()
        self.submission.write(self.storage)

    def _queue(self, planned_array: PlannedArray) -> None:
        for changed, members in _by_change(planned_array.tasks, self.changes):
            packs = _packs(members, planned_array.resources.pack)
            array = self._array(planned_array, packs, changed)
            submitted = self.executor.submit(array)
            self._note(planned_array, packs, array, submitted)

    def _array(self, planned_array: PlannedArray, packs: Sequence[tuple[Planned, ...]], change: Retry | None) -> Array:
        given = planned_array.resources
        factor = change.memory_factor if change else 1.0
        python = self.plan.manifest.cluster.python or sys.executable
        return Array(
            name=f"{self.plan.manifest.name}-{planned_array.group}-{planned_array.stage}",
            elements=tuple(tuple(self.storage.run(planned.id) for planned in pack) for pack in packs),
            command=(python, "-m", "jobs"),
            folder=self.folder,
            resources=Resources(
                cpus=given.cpus, gpus=given.gpus, mem_gb=given.mem_gb * factor, time_min=given.time_min
            ),
            after=self._after(packs),
            throttle=given.throttle,
            environment=self._environment(planned_array.group),
            code=self.folder / "code",
            comment=f"tanda {self.submission.name} {planned_array.stage} {planned_array.group}",
            exclude=(change.exclude,) if change and change.exclude else (),
        )

    def _environment(self, group: str) -> dict[str, str]:
        manifest = self.plan.manifest
        return {
            "TANDA_COMMIT": self.git_commit or "",
            "TANDA_SUBMISSION": str(self.folder),
            "TANDA_GROUP": group,
            "TANDA_BRAKE_AFTER": str(manifest.brake_after),
        }

    def _after(self, packs: Sequence[tuple[Planned, ...]]) -> tuple[Dependency, ...]:
        """What an array waits for: each element for its own training where they match, else all, whatever their fate.

        A task asks the storage itself whether its needs are done, so a dependency only has to say when to look.
        """
        waits = [[self.places[need] for need in _needs(pack) if need in self.places] for pack in packs]
        every = tuple(dict.fromkeys(job for jobs in waits for job in jobs))
        if not every:
            return ()
        if len(packs) > 1 and all(len(jobs) == 1 for jobs in waits) and len(every) == len(packs):
            return (Dependency(way="aftercorr", jobs=every),)
        return (Dependency(way="afterany", jobs=every),)

    def _note(
        self,
        planned_array: PlannedArray,
        packs: Sequence[tuple[Planned, ...]],
        array: Array,
        submitted: Submitted,
    ) -> None:
        elements: dict[str, tuple[str, ...]] = {}
        for pack, job in zip(packs, submitted.ids, strict=True):
            for planned in pack:
                if job is None:
                    self.held[planned.id] = submitted.refused or "refused"
                else:
                    self.places[planned.id] = job
            if job is not None:
                elements[job] = tuple(planned.id for planned in pack)
        queued = Queued(
            stage=planned_array.stage,
            group=planned_array.group,
            job_ids=submitted.jobs,
            elements=elements,
            mem_gb=array.resources.mem_gb,
        )
        self.submission = replace(self.submission.with_array(queued), held=dict(self.held))
        # After each array: a submitter killed here leaves nothing queued that nobody knows of.
        self.submission.write(self.storage)

    def _queue_closing_job(self) -> None:
        jobs = tuple(job for array in self.submission.arrays for job in array.elements)
        if not jobs or self.submission.executor == "inline":
            return
        python = self.plan.manifest.cluster.python or sys.executable
        array = Array(
            name=f"{self.plan.manifest.name}-close",
            elements=((self.folder,),),
            command=(python, "-m", "pipeline", "close"),
            folder=self.folder,
            resources=CLOSE_RESOURCES,
            after=(Dependency(way="afterany", jobs=jobs),),
            environment=self._environment("close"),
            code=self.folder / "code",
            comment=f"tanda {self.submission.name} close",
        )
        submitted = self.executor.submit(array)
        queued = Queued(
            stage="close",
            group="close",
            job_ids=submitted.jobs,
            elements=dict.fromkeys(submitted.queued, ()),
            mem_gb=CLOSE_RESOURCES.mem_gb,
        )
        self.submission = self.submission.with_array(queued)


def _set_aside(folder: Path) -> None:
    """A record that is to be made again must not be taken for the new one; the old one is kept beside it."""
    record = folder / "record.json"
    if record.exists():
        record.replace(folder / "record.superseded.json")
    (folder / "held.json").unlink(missing_ok=True)


def _needs(pack: Iterable[Planned]) -> list[str]:
    return list(dict.fromkeys(need for planned in pack for need in (*planned.task.needs, *planned.after)))


def _by_change(
    tasks: Sequence[Planned], changes: Mapping[str, Retry]
) -> list[tuple[Retry | None, tuple[Planned, ...]]]:
    """Tasks that are changed in the same way together: they ask Slurm for the same."""
    kinds: dict[tuple[float, str | None], tuple[Retry | None, list[Planned]]] = {}
    for planned in tasks:
        change = changes.get(planned.id)
        key = (change.memory_factor, change.exclude) if change else (1.0, None)
        kinds.setdefault(key, (change, []))[1].append(planned)
    return [(change, tuple(members)) for change, members in kinds.values()]


def _packs(tasks: Sequence[Planned], size: int) -> list[tuple[Planned, ...]]:
    return [tuple(tasks[start : start + size]) for start in range(0, len(tasks), size)]


def print_submitted(report: Report, console: Console) -> None:
    """Job ids for people; what could not be queued, and that submitting again queues the rest."""
    if report.submission is None:
        console.print(f"nothing to submit: {report.already_done} done, {report.already_queued} queued or running")
        return
    for array in report.submission.arrays:
        tasks = sum(map(len, array.elements.values()))
        what = f"{tasks} task{'s' * (tasks != 1)}" if tasks else "retries and report"
        console.print(f"{','.join(array.job_ids)}  {array.stage:<10} {array.group:<16} {what}")
    if report.already_done or report.already_queued:
        console.print(f"{report.already_done} done already, {report.already_queued} queued already")
    for reason, count in _counted(report.held).items():
        console.print(f"[yellow]{count} not queued: {reason}; submit again later to queue the rest[/]")


def _counted(held: Mapping[str, str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in held.values():
        counts[reason] = counts.get(reason, 0) + 1
    return counts
