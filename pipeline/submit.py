"""Hands what is missing of a plan to an executor: one array a group, a closing job after all of them.

What is written when, and what a submitter that is killed on the way leaves:

1. The lock ``locks/submit`` is taken. Left by a killed submitter it is taken over once it is stale.
2. The states of all tasks are read, and decided: what to release, cancel and submit (``pipeline.decisions``).
3. Elements that Slurm holds since a start failed are released; queued tasks whose dependency can no longer be met
   are cancelled. Killed here: the next submitter sees these tasks as they then stand, and decides afresh.
4. ``submissions/<time>-<name>/`` is created: ``code/``, ``manifest.json``. Then task.json of each task is written, a
   record that is to be replaced is renamed, and a result that is made again is moved to ``superseded/``, its record
   first. Where this fails, or nothing at all can be queued after it, all of it is put back, each record last. Killed
   here: a folder without submission.json, which readers ignore, and results moved aside, whose tasks are not done;
   nothing is queued, the next submitter makes a folder of its own and queues them.
5. Array after array is handed to the executor, and after each submission.json is written whole again with the ids of
   all elements so far. Killed between the two calls, at most one array is queued that no submission names; its tasks
   may be queued a second time, and then run once: a task looks for a live attempt, and for a record, before it begins.
   A submitter that slept until another took its lock over finds that out before each array, and queues no more of them.
6. The closing job is queued after everything else, and submission.json written a last time. Killed before it: the
   tasks run and are recorded all the same; nobody retries them or builds the report until somebody submits again.

What could not be queued, for a limit of the site, is in ``held`` of submission.json with the reason: the closing job
submits it, and so does a person who submits again.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from jobs.circuit_breaker import HELD
from jobs.search.study import is_continued
from jobs.storage import Storage
from jobs.task import RECORD, is_done
from pipeline import submission
from pipeline.arrays import ArrayBuilder, ArrayRequest, make_requests
from pipeline.decisions.retry import Retry
from pipeline.decisions.submission import (
    cancellable,
    done_tasks,
    is_queued,
    launch_held,
    met_upstream,
    out_of_reach,
    pending,
    queued_elements,
    stale_dependents,
    to_submit,
)
from pipeline.decisions.task_state import TaskState
from pipeline.manifest.plugins import record_plugins
from pipeline.plan import Plan, Planned
from pipeline.queue import make_executor, still_waiting
from pipeline.rerun import Rerun, choose, move, move_aside
from pipeline.status import task_states
from pipeline.submission import CLOSE, Queued, Submission, commit, snapshot, write_source
from sharedfs.clock import SYSTEM, Clock
from sharedfs.lock import Lock, LockLostError
from sharedfs.typed_json import Json
from slurm.array import Array, Submitted
from slurm.errors import SchedulerError, SubmitError
from slurm.executors import Executor

RETRY_DELAYS_S = (0.0, 0.5, 2.0)  # the scheduler counts a cancelled element for a moment


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitResult:
    """What was submitted: the arrays queued, how many tasks needed nothing, what could not be queued and why.

    ``rerun`` says which tasks are made again although they were done, and which were left out of that.
    """

    submission: Submission | None
    already_done: int
    already_queued: int
    held: Mapping[str, str] = field(default_factory=dict)
    rerun: Rerun = field(default_factory=Rerun)
    released: int = 0  # elements that the scheduler held after a start that failed, now released

    @property
    def exit_status(self) -> int:
        return int(bool(self.held))

    def document(self) -> Mapping[str, Json]:
        """As one JSON document, for ``submit --json``."""
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
            "remade": sorted(self.rerun.remade),
            "left_out": sorted(self.rerun.left_out),
        }


def submit_plan(
    plan: Plan,
    *,
    executor: str | None = None,
    changes: Mapping[str, Retry] | None = None,
    rerun: str | None = None,
    clock: Clock = SYSTEM,
) -> SubmitResult:
    """Queue every task that is neither done nor queued; with ``changes`` only those tasks, changed so.

    ``rerun`` names a group or a run whose tasks are made again although they are done, or is ``changed``: those that
    earlier code made. Their former results are kept in ``superseded/`` of their folders.

    One submitter at a time holds the storage's lock. Raises UnknownExecutorError, InputError for what can't be made
    again (see ``pipeline.rerun``), and SubmitError when the executor takes nothing at all.
    """
    name = executor or plan.manifest.cluster.executor
    runner = make_executor(name, plan.manifest)
    storage = Storage(plan.manifest.storage)
    if plan.manifest.umask is not None:
        os.umask(plan.manifest.umask)
    with submission.exclusively(storage, clock) as lock:
        states = task_states(plan, clock=clock)
        again = choose(plan, rerun, {task: state.changed for task, state in states.items() if state.state == "done"})
        states |= {task: TaskState(id=task, state="waiting", reason="made again") for task in again.remade}
        held_by_slurm = launch_held(states, name)
        if held_by_slurm:
            runner.release(held_by_slurm)
        tasks = to_submit(plan.tasks, states, changes)
        stale = _stale_dependents(plan, storage, states, name, tasks) if changes is None else frozenset()
        if stale:
            runner.cancel(sorted({str(states[task].job) for task in stale}))
            tasks = tuple(planned for planned in plan.tasks if planned in tasks or planned.id in stale)
        unreachable = out_of_reach(plan.tasks, states, tasks)
        tasks = tuple(planned for planned in tasks if planned.id not in unreachable)
        again = again.within({planned.id for planned in tasks})
        result = SubmitResult(
            submission=None,
            already_done=len(plan.tasks) - len(pending(plan.tasks, done_tasks(states))),
            already_queued=sum(is_queued(state) for state in states.values()),
            rerun=again,
            released=len(held_by_slurm),
        )
        if not tasks:
            return replace(result, held=unreachable)
        for folder in submission.guard(storage):
            print(f"tanda: {folder}: {submission.UNGUARDED.format(folder)}", file=sys.stderr)
        started = submission.begin(
            storage, manifest=plan.manifest.name, executor=name, git_commit=commit(), clock=clock
        )
        submitter = _Submitter(
            plan=plan, storage=storage, executor=runner, submission=started,
            element_ids=queued_elements(states, name, stale), held=dict(unreachable), rerun=again,
            outdated=done_tasks(states), lock=lock, clock=clock,
        )  # fmt: skip
        submitter.submit(tasks, make_requests(tasks, changes or {}, canary=plan.manifest.canary))
    return replace(result, submission=submitter.submission, held=submitter.held, rerun=submitter.rerun)


def _stale_dependents(
    plan: Plan, storage: Storage, states: Mapping[str, TaskState], executor: str, submitted: Sequence[Planned]
) -> frozenset[str]:
    """What ``pipeline.decisions.submission.stale_dependents`` says; the queue is asked again only where it matters."""
    blocking = still_waiting(storage, met_upstream(plan.tasks, states, executor))
    return stale_dependents(plan.tasks, states, executor, submitted, blocking)


@dataclass(slots=True, kw_only=True)
class _Submitter:
    """One submission as it is made; ``element_ids`` says where each task was queued, ``held`` what was not and why.

    ``outdated`` are tasks that are done, of a result that is made again.
    """

    plan: Plan
    storage: Storage
    executor: Executor
    submission: Submission
    element_ids: dict[str, str]
    held: dict[str, str]
    rerun: Rerun
    outdated: frozenset[str]
    lock: Lock
    clock: Clock
    undo: ExitStack = field(default_factory=ExitStack)  # what puts the former results back

    @property
    def folder(self) -> Path:
        return self.storage.submissions / self.submission.name

    @property
    def builder(self) -> ArrayBuilder:
        commit = self.submission.git_commit
        return ArrayBuilder(manifest=self.plan.manifest, storage=self.storage, folder=self.folder, git_commit=commit)

    @property
    def element_names(self) -> tuple[str, ...]:
        return tuple(element for queued in self.submission.arrays for element in queued.elements)

    def submit(self, tasks: Sequence[Planned], requests: Sequence[ArrayRequest]) -> None:
        """Prepare the tasks and queue the arrays; where nothing is queued, what was moved aside is put back.

        Raises what the first array is refused with.
        """
        self.submission = replace(self.submission, remade=tuple(sorted(self.rerun.remade)))
        try:
            self.lock.check()
            self._prepare(tasks)
            self._queue(requests)
        except BaseException:
            if not self.submission.arrays:
                self.undo.close()
                shutil.rmtree(self.folder, ignore_errors=True)  # without submission.json nobody reads it
            raise
        if self.rerun.remade and not self.element_names:
            self.undo.close()
            self.rerun = self.rerun.within(())
            self.submission = replace(self.submission, remade=())
            self.submission.write(self.storage)

    def _prepare(self, tasks: Sequence[Planned]) -> None:
        """Write everything that the tasks will read, before the first of them can start."""
        snapshot(self.folder / "code")
        write_source(self.folder, self.plan)
        record_plugins(self.storage)
        for planned in tasks:
            planned.task.write(self.storage)
            if planned.id in self.rerun.restarted:
                move_aside(self.storage, planned, self.undo)
            elif planned.id not in self.outdated and is_done(self.storage, planned.id):
                # Done since the states were read: what is queued for it finds that, and ends at once.
                continue
            _archive_record(self.storage.run(planned.id), self.undo)

    def _queue(self, requests: Sequence[ArrayRequest]) -> None:
        """Hand over one array after the other, then the closing job; raises what the first array is refused with."""
        for request in requests:
            array = self.builder.array(request, self.element_ids)
            try:
                # Whoever took over a lock that slept may have queued the same.
                self.lock.check()
                submitted = self.executor.submit(array)
            except (SubmitError, LockLostError) as error:
                if not self.submission.arrays:
                    raise
                submitted = Submitted(ids=(None,) * len(array.elements), refused=str(error))
            elements: dict[str, tuple[str, ...]] = {}
            for pack, element in zip(request.packs, submitted.ids, strict=True):
                ids = tuple(planned.id for planned in pack)
                if element is None:
                    self.held.update(dict.fromkeys(ids, submitted.refused or "refused"))
                else:
                    self.element_ids.update(dict.fromkeys(ids, element))
                    elements[element] = ids
            self._write(request.stage, request.group, array, submitted, elements)
        if self.element_names and self.submission.executor != "inline":
            self._queue_closing()

    def _queue_closing(self) -> None:
        array = self.builder.closing(self.element_names)
        try:
            array, submitted = self._submit_closing(array)
        except SubmitError as error:
            # Refused for good: the tasks are queued all the same, and must not be forgotten for it.
            submitted = Submitted(ids=(None,), refused=str(error))
        if not submitted.queued:
            self.held[CLOSE] = submitted.refused or "refused"
        self._write(CLOSE, CLOSE, array, submitted, dict.fromkeys(submitted.queued, ()))

    def _submit_closing(self, array: Array) -> tuple[Array, Submitted]:
        """Submit the closing job: where the site's limit is reached, in the place of the element queued last."""
        submitted = self.executor.submit(array)
        for delay_s in RETRY_DELAYS_S:
            if submitted.queued or len(self.element_names) == 1:
                break
            self._unqueue_last(submitted.refused or "refused")
            self.clock.sleep(delay_s)
            array = self.builder.closing(self.element_names)
            submitted = self.executor.submit(array)
        return array, submitted

    def _unqueue_last(self, refused: str) -> None:
        """Take the element queued last back: the closing job will queue it again."""
        *others, last = (queued for queued in self.submission.arrays if queued.elements)
        element, tasks = list(last.elements.items())[-1]
        self.executor.cancel([element])
        self.held.update(dict.fromkeys(tasks, refused))
        elements = {name: ids for name, ids in last.elements.items() if name != element}
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
        try:
            self.submission.write(self.storage)
        except BaseException:
            # What no submission names, nobody would find again.
            with suppress(SchedulerError):  # left in the queue it runs, and does no harm: the first error is to be told
                self.executor.cancel(submitted.queued)
            raise


def _archive_record(folder: Path, undo: ExitStack) -> None:
    """Rename a record that is to be made again: it must not be taken for the new one.

    That of a stopped trial whose continuation was cut short stays: the task goes on from there, as a continuation.
    """
    record = folder / RECORD
    if record.exists() and not is_continued(folder):
        move(record, folder / "record.superseded.json", undo)
    (folder / HELD).unlink(missing_ok=True)


def print_submitted(result: SubmitResult, console: Console) -> None:
    """For people: what is made again and what is left out of it, job ids, what could not be queued and why."""
    if result.released:
        console.print(f"{result.released} held since a start failed on their node: released")
    if result.rerun.remade:
        console.print(f"{len(result.rerun.remade)} made again, the former results are kept")
    if result.rerun.left_out:
        console.print(f"{len(result.rerun.left_out)} trials stay as they are: they were compared with each other")
    if result.submission is None:
        console.print(f"nothing to submit: {result.already_done} done, {result.already_queued} queued or running")
    else:
        for array in result.submission.arrays:
            tasks = sum(map(len, array.elements.values()))
            content = "retries and report" if array.stage == CLOSE else f"{tasks} task{'s' * (tasks != 1)}"
            job_ids = ",".join(array.job_ids) or "not queued"
            console.print(f"{job_ids:<12} {array.stage:<10} {array.group:<16} {content}")
        if result.already_done or result.already_queued:
            console.print(f"{result.already_done} done already, {result.already_queued} queued already")
    for reason, count in Counter(result.held.values()).items():
        line = f"{count} not queued: {reason}; submit again later to queue the rest"
        console.print(line, style="yellow", soft_wrap=True)


# Cancels what of a plan is queued or running.


def cancel_plan(plan: Plan) -> tuple[int, int]:
    """Cancel every element of this user's that has a live task of the plan; how many tasks that ends, how many are
    unknown.

    A packed element is cancelled whole. Tasks stay in their folders with their checkpoints: submitting again
    goes on from there. What another user queued is theirs: the same id may name another element of ours. A job that
    Slurm does not show as ours and live is left alone.
    """
    cancellation = cancellable(task_states(plan), executor=plan.manifest.cluster.executor)
    for name, elements in cancellation.elements.items():
        make_executor(name, plan.manifest).cancel(elements)
    return cancellation.ending, cancellation.unknown
