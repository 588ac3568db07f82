"""Hands what is missing of a plan to an executor: one array a group, a closing job after all of them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.search.study import is_continued
from jobs.storage import Storage
from pipeline import submission
from pipeline.arrays import ArrayBuilder, ArrayRequest, make_requests
from pipeline.decisions.retry import Retry
from pipeline.decisions.submission import (
    cancellable,
    done_tasks,
    is_queued,
    launch_held,
    out_of_reach,
    pending,
    queued_elements,
    stale_dependents,
    to_submit,
)
from pipeline.plan import Plan, Planned
from pipeline.queue import make_executor
from pipeline.status import task_states
from pipeline.submission import Queued, Submission, commit, snapshot, write_source
from slurm.array import Array, SubmitError, Submitted
from slurm.executors import Executor

CLOSE = "close"
RETRY_DELAYS_S = (0.0, 0.5, 2.0)  # a cancelled element is counted until the scheduler has let it go


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitResult:
    """What a submission came to: arrays queued, how many tasks needed nothing, what could not be queued and why."""

    submission: Submission | None
    already_done: int
    already_queued: int
    held: Mapping[str, str] = field(default_factory=dict)
    released: int = 0  # elements that the scheduler held after a start that failed, now released

    @property
    def exit_status(self) -> int:
        return int(bool(self.held))

    def document(self) -> dict[str, Any]:
        """The report as one JSON document, for ``submit --json``."""
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


def submit_plan(plan: Plan, *, executor: str | None = None, changes: Mapping[str, Retry] | None = None) -> SubmitResult:
    """Queue every task that is neither done nor queued; with ``changes`` only those tasks, changed so.

    One submitter at a time holds the storage's lock. Raises ValueError for an unknown executor, and
    ``slurm.array.SubmitError`` when the executor takes nothing at all.
    """
    name = executor or plan.manifest.cluster.executor
    runner = make_executor(name, plan.manifest)
    storage = Storage(plan.manifest.storage)
    if plan.manifest.umask is not None:
        os.umask(plan.manifest.umask)
    with submission.exclusively(storage):
        states = task_states(plan)
        released = _release_held(runner, launch_held(states, name))
        tasks = to_submit(plan.tasks, states, changes)
        stale = stale_dependents(plan.tasks, states, name, tasks) if changes is None else frozenset()
        if stale:
            runner.cancel(sorted({str(states[task].job) for task in stale}))
            tasks = tuple(planned for planned in plan.tasks if planned in tasks or planned.id in stale)
        report = SubmitResult(
            submission=None,
            already_done=len(plan.tasks) - len(pending(plan.tasks, done_tasks(states))),
            already_queued=sum(is_queued(state) for state in states.values()),
            released=released,
        )
        unreachable = out_of_reach(plan.tasks, states, tasks)
        tasks = tuple(planned for planned in tasks if planned.id not in unreachable)
        if not tasks:
            return replace(report, held=unreachable)
        for folder in submission.guard(storage):
            print(f"tanda: {folder}: {submission.UNGUARDED.format(folder)}", file=sys.stderr)
        started = submission.begin(storage, manifest=plan.manifest.name, executor=name, git_commit=commit())
        submitter = _Submitter(plan, storage, runner, started, queued_elements(states, name, stale), unreachable)
        submitter.prepare(tasks)
        submitter.queue(make_requests(tasks, changes or {}, canary=plan.manifest.canary))
    return replace(report, submission=submitter.submission, held=submitter.held)


def _release_held(executor: Executor, elements: Sequence[str]) -> int:
    """Let elements start that the scheduler holds since a start failed on their node; how many."""
    if elements:
        executor.release(elements)
    return len(elements)


class _Submitter:
    """One submission as it is made: its folder, and where each task was queued."""

    def __init__(
        self,
        plan: Plan,
        storage: Storage,
        executor: Executor,
        started: Submission,
        element_ids: dict[str, str],
        held: Mapping[str, str],
    ) -> None:
        self.plan = plan
        self.storage = storage
        self.executor = executor
        self.submission = started
        self.element_ids = element_ids
        self.held = dict(held)
        self.builder = ArrayBuilder(
            manifest=plan.manifest, storage=storage, folder=self.folder, git_commit=started.git_commit
        )

    @property
    def folder(self) -> Path:
        return self.storage.submissions / self.submission.name

    def prepare(self, tasks: Sequence[Planned]) -> None:
        """Everything that the tasks will read, before the first of them can start."""
        snapshot(self.folder / "code")
        write_source(self.folder, self.plan)
        for planned in tasks:
            planned.task.write(self.storage)
            _archive_record(self.storage.run(planned.id))

    def queue(self, arrays: Sequence[ArrayRequest]) -> None:
        """Hand over one array after the other; the first refusal of all of an array ends it."""
        for request in arrays:
            array = self.builder.array(request, self.element_ids)
            try:
                submitted = self.executor.submit(array)
            except SubmitError as error:
                if not self.submission.arrays:
                    shutil.rmtree(self.folder)
                    raise
                submitted = Submitted(ids=(None,) * len(array.elements), refused=str(error))
            self._note(request, array, submitted)
        if self._jobs and self.submission.executor != "inline":
            self._close_after()

    @property
    def _jobs(self) -> tuple[str, ...]:
        return tuple(job for queued in self.submission.arrays for job in queued.elements)

    def _note(self, request: ArrayRequest, array: Array, submitted: Submitted) -> None:
        elements: dict[str, tuple[str, ...]] = {}
        for pack, job in zip(request.packs, submitted.ids, strict=True):
            ids = tuple(planned.id for planned in pack)
            if job is None:
                self.held.update(dict.fromkeys(ids, submitted.refused or "refused"))
            else:
                self.element_ids.update(dict.fromkeys(ids, job))
                elements[job] = ids
        self._write(request.stage, request.group, array, submitted, elements)

    def _close_after(self) -> None:
        """Queue the closing job: where the site's limit is reached, in the place of the element queued last."""
        array = self.builder.closing(self._jobs)
        submitted = self.executor.submit(array)
        for pause_s in RETRY_DELAYS_S:
            if submitted.queued or len(self._jobs) == 1:
                break
            self._unqueue_last(submitted.refused or "refused")
            time.sleep(pause_s)
            array = self.builder.closing(self._jobs)
            submitted = self.executor.submit(array)
        if not submitted.queued:
            self.held[CLOSE] = submitted.refused or "refused"
        self._write(CLOSE, CLOSE, array, submitted, dict.fromkeys(submitted.queued, ()))

    def _unqueue_last(self, refused: str) -> None:
        """Take the element queued last back: the closing job will queue it again."""
        *others, last = (queued for queued in self.submission.arrays if queued.elements)
        job, tasks = list(last.elements.items())[-1]
        self.executor.cancel([job])
        self.held.update(dict.fromkeys(tasks, refused))
        elements = {element: ids for element, ids in last.elements.items() if element != job}
        self.submission = replace(self.submission, arrays=(*others, replace(last, elements=elements)))

    def _write(
        self, stage: str, group: str, array: Array, submitted: Submitted, elements: dict[str, tuple[str, ...]]
    ) -> None:
        queued = Queued(
            stage=stage,
            group=group,
            job_ids=submitted.jobs,
            elements=elements,
            mem_gb=array.resources.mem_gb,
            name=array.name,
            comment=submitted.comment,
            cluster=submitted.cluster,
        )
        self.submission = replace(self.submission.with_array(queued), held=dict(self.held))
        # After each array: a submitter killed here leaves nothing queued that nobody knows of.
        self.submission.write(self.storage)


def _archive_record(folder: Path) -> None:
    """A record that is to be made again must not be taken for the new one; the old one is kept beside it.

    That of a stopped trial whose continuation was cut short stays: the task goes on from there, as a continuation.
    """
    record = folder / "record.json"
    if record.exists() and not is_continued(folder):
        record.replace(folder / "record.superseded.json")
    (folder / "held.json").unlink(missing_ok=True)


def print_submitted(report: SubmitResult, console: Console) -> None:
    """Job ids for people; what could not be queued, and that submitting again queues the rest."""
    if report.released:
        console.print(f"{report.released} held after a start that failed on the node: released")
    if report.submission is None:
        console.print(f"nothing to submit: {report.already_done} done, {report.already_queued} queued or running")
    else:
        for array in report.submission.arrays:
            tasks = sum(map(len, array.elements.values()))
            content = "retries and report" if array.stage == CLOSE else f"{tasks} task{'s' * (tasks != 1)}"
            job_ids = ",".join(array.job_ids) or "not queued"
            console.print(f"{job_ids:<12} {array.stage:<10} {array.group:<16} {content}")
        if report.already_done or report.already_queued:
            console.print(f"{report.already_done} done already, {report.already_queued} queued already")
    for reason, count in Counter(report.held.values()).items():
        console.print(f"[yellow]{count} not queued: {reason}; submit again later to queue the rest[/]")


# Cancels what of a plan is queued or running.


def cancel_plan(plan: Plan) -> tuple[int, int]:
    """Cancel every element of this user's that holds a live task of the plan; how many tasks that ends, and how many
    are unknown.

    A packed element is cancelled whole. Tasks stay in their folders with their checkpoints: submitting again
    goes on from there. What somebody else queued is theirs: the same id may name another element of ours. A job of
    which Slurm does not say that it is ours and live is left alone.
    """
    chosen = cancellable(task_states(plan), executor=plan.manifest.cluster.executor)
    for name, elements in chosen.elements.items():
        make_executor(name, plan.manifest).cancel(elements)
    return chosen.ending, chosen.unknown
