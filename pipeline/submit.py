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
5. Array after array is announced in submission.json (``unconfirmed``), handed to the executor, and recorded there with
   the ids of all elements so far. Ctrl-C, SIGTERM and SIGHUP wait until it is. Killed before the record, or without an
   answer of Slurm's, at most one array is queued whose ids are in no submission: the next submitter finds it by its
   name and comment and cancels it. Until then its tasks run once all the same: a task looks for a live attempt, and
   for a record, before it begins. A submitter that slept until another took its lock over queues no more tasks.
6. The closing job is queued after everything else, and submission.json written a last time. Killed before it: the
   tasks run and are recorded all the same; nobody retries them or builds the report until somebody submits again, which
   ``tanda status`` says. Where a closing job failed and no task is missing, a submission is of a closing job alone.

What could not be queued now, for a limit of the site or a controller that did not answer, is in ``held`` of
submission.json with the reason, and with it all that needs it: the closing job submits it, and so does a person who
submits again. Where the first array is refused for good (a wrong partition, an option that the site does not take),
nothing is queued, and 4. is put back. Where a later one is, what is queued can run and stays; neither what was refused
nor anything that needs it is queued, for that could never run. A person is told, with the ids of what is queued, and
submits the rest once that is mended. The closing job may be refused in the same way.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.circuit_breaker import HELD
from jobs.search.study import is_continued
from jobs.storage import Storage
from jobs.task import RECORD, is_done
from pipeline import submission
from pipeline.arrays import ArrayBuilder, ArrayRequest, make_requests
from pipeline.decisions.closing import CLOSE
from pipeline.decisions.retry import Retry
from pipeline.decisions.submission import (
    Cancellation,
    cancellable,
    dependents_of,
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
from pipeline.interruption import deferred
from pipeline.manifest.compose import shell_clusters
from pipeline.manifest.model import Manifest
from pipeline.manifest.plugins import record_plugins
from pipeline.plan import Plan, Planned
from pipeline.queue import make_executor, still_waiting
from pipeline.rerun import Rerun, choose, move, move_aside
from pipeline.status import standing, task_states
from pipeline.submission import Queued, Submission, commit, snapshot, write_source
from pipeline.submit_result import SubmitResult
from sharedfs.clock import SYSTEM, Clock
from sharedfs.errors import InputError
from sharedfs.lock import Lock, LockLostError
from slurm.array import Array, Submitted
from slurm.commands import warn_once
from slurm.errors import NotNowError, SubmitError, is_unanswered
from slurm.executors import Executor
from slurm.sbatch import shown_comment

RETRY_DELAYS_S = (0.0, 0.5, 2.0)  # the scheduler counts a cancelled element for a moment


def submit_plan(
    plan: Plan,
    *,
    executor: str | None = None,
    changes: Mapping[str, Retry] | None = None,
    rerun: str | None = None,
    continues: str | None = None,
    clock: Clock = SYSTEM,
) -> SubmitResult:
    """Queue every task that is neither done nor queued; with ``changes`` only those tasks, changed so, as the closing
    job of the submission that it ``continues`` asks for.

    ``rerun`` names a group or a run whose tasks are made again although they are done, or is ``changed``: those that
    earlier code made. Their former results are kept in ``superseded/`` of their folders.

    One submitter at a time holds the storage's lock. Raises UnknownExecutorError, InputError for what can't be made
    again (see ``pipeline.rerun``), and SubmitError when the executor takes nothing at all.
    """
    name = executor or plan.manifest.cluster.executor
    cluster = _named_cluster(plan.manifest) if name == "slurm" else None
    runner = make_executor(name, plan.manifest)
    storage = Storage(plan.manifest.storage)
    with submission.exclusively(storage, clock) as lock:
        now = standing(plan, clock=clock)
        states = dict(now.states)
        again = choose(plan, rerun, {task: state.changed for task, state in states.items() if state.state == "done"})
        states |= {task: TaskState(id=task, state="waiting", reason="made again") for task in again.remade}
        held_by_slurm = launch_held(states, name, cluster)
        if held_by_slurm:
            runner.release(held_by_slurm)
        tasks = to_submit(plan.tasks, states, changes)
        stale: frozenset[str] = frozenset()
        if changes is None:
            blocking = still_waiting(storage, met_upstream(plan.tasks, states, name, cluster))
            stale = stale_dependents(plan.tasks, states, name, tasks, cluster, blocking)
        if stale:
            runner.cancel(sorted({str(states[task].job) for task in stale}))
            tasks = tuple(planned for planned in plan.tasks if planned in tasks or planned.id in stale)
        unreachable = out_of_reach(plan.tasks, states, tasks, cluster)
        tasks = tuple(planned for planned in tasks if planned.id not in unreachable)
        again = again.within({planned.id for planned in tasks})
        result = SubmitResult(
            submission=None,
            already_done=len(plan.tasks) - len(pending(plan.tasks, done_tasks(states))),
            already_queued=sum(is_queued(state) and state.state != "unknown" for state in states.values()),
            unknown={task: state.reason or "" for task, state in states.items() if state.state == "unknown"},
            rerun=again,
            released=len(held_by_slurm),
        )
        # What a closing job left undone: its tasks are tried again here, its report is another closing job's work.
        closing_only = not tasks and changes is None and now.undone is not None and name != "inline"
        if not tasks and not closing_only:
            return replace(result, held=unreachable)
        submission.cancel_unconfirmed(storage, runner, cluster)
        for folder in submission.guard(storage):
            print(f"tanda: {folder}: {submission.UNGUARDED.format(folder)}", file=sys.stderr)
        started = submission.begin(
            storage, manifest=plan.manifest.name, executor=name, git_commit=commit(), clock=clock,
            continues=continues or (now.undone.submission if now.undone else None),
        )  # fmt: skip
        submitter = _Submitter(
            plan=plan, storage=storage, executor=runner, submission=started,
            element_ids=queued_elements(states, name, stale, cluster), held=dict(unreachable), rerun=again,
            outdated=done_tasks(states), lock=lock, clock=clock, closing_only=closing_only,
        )  # fmt: skip
        submitter.submit(tasks, make_requests(tasks, changes or {}, canary=plan.manifest.canary))
    return replace(
        result,
        submission=submitter.submission,
        held=submitter.held,
        refused=submitter.refused,
        rerun=submitter.rerun,
    )


def _named_cluster(manifest: Manifest) -> str | None:
    """The cluster that jobs go to where it is named: by the profile, or by the login shell, which is said once.

    Raises InputError where the shell names none that jobs could be followed on.
    """
    name, (variable, shell) = manifest.cluster.clusters, shell_clusters(os.environ)
    if name is None and shell:
        raise InputError(f"{variable}={shell}: jobs are followed on one cluster; name it by the profile's `clusters`")
    if name is not None and name == shell:
        warn_once(f"{variable}: jobs go to cluster {name}")
    return name


@dataclass(slots=True, kw_only=True)
class _Submitter:
    """One submission as it is made.

    ``element_ids`` says where each task was queued; ``held`` what was not and why, ``refused`` what will never be;
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
    closing_only: bool = False  # nothing is missing but what an earlier closing job left undone
    refused: dict[str, str] = field(default_factory=dict)
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
                if not self.submission.unconfirmed:
                    shutil.rmtree(self.folder, ignore_errors=True)  # nothing that is queued needs it
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
            archive_record(self.storage.run(planned.id), self.undo)

    def _queue(self, requests: Sequence[ArrayRequest]) -> None:
        """Hand over one array after the other, then the closing job; raises what the first array is refused with."""
        for whole in requests:
            request = self._that_can_run(whole)
            if not request.packs:
                continue
            array = self.builder.array(request, self.element_ids)
            with self._recorded(request.stage, request.group, array):
                self._queue_array(request, array)
        if self.closing_only or (self.element_names and self.submission.executor != "inline"):
            after = tuple(dict.fromkeys(self.element_ids.values())) if self.closing_only else self.element_names
            array = self.builder.closing(after)
            with self._recorded(CLOSE, CLOSE, array):
                self._queue_closing(array)

    def _queue_array(self, request: ArrayRequest, array: Array) -> None:
        try:
            # Whoever took over a lock that slept may have queued the same.
            self.lock.check()
            submitted = self.executor.submit(array)
        except (SubmitError, LockLostError) as error:
            if not self.submission.arrays:
                self._confirm(str(error))
                raise
            submitted = _nothing_queued(array, error)
        elements: dict[str, tuple[str, ...]] = {}
        for pack, element in zip(request.packs, submitted.ids, strict=True):
            ids = tuple(planned.id for planned in pack)
            if element is None:
                self._note_refused(submitted, ids)
            else:
                self.element_ids.update(dict.fromkeys(ids, element))
                elements[element] = ids
        self._write(request.stage, request.group, array, submitted, elements)

    @contextmanager
    def _recorded(self, stage: str, group: str, array: Array) -> Iterator[None]:
        """An array is announced before the block, which queues it and writes down its ids: no signal comes between."""
        if self.submission.executor == "inline":  # it runs the tasks, which signals must reach
            yield
            return
        with deferred(programs=self.submission.executor == "slurm"):
            if self.submission.executor == "slurm":
                announced = Queued(
                    stage=stage, group=group, job_ids=(), elements={}, mem_gb=array.resources.mem_gb,
                    name=array.name, comment=shown_comment(array.comment or ""),
                    named_cluster=array.site.clusters if array.site else None,
                )  # fmt: skip
                unconfirmed = (*self.submission.unconfirmed, announced)
                self.submission = replace(self.submission, unconfirmed=unconfirmed)
                self.submission.write(self.storage)
            yield

    def _confirm(self, refused: str | None) -> None:
        """The announced array is queued or refused; without an answer it may yet be in the queue, and stays."""
        if self.submission.unconfirmed and not (refused and is_unanswered(refused)):
            self.submission = replace(self.submission, unconfirmed=self.submission.unconfirmed[:-1])

    def _that_can_run(self, request: ArrayRequest) -> ArrayRequest:
        """The request without what needs a task that was not queued, which is noted with that one's reason."""
        tasks = [planned for pack in request.packs for planned in pack]
        among = {planned.id for planned in tasks}
        never = dependents_of(self.refused, tasks, among)
        later = dependents_of(self.held, tasks, among - never.keys())
        self.refused.update(never)
        self.held.update(later)
        packs = (tuple(task for task in pack if task.id not in (never | later)) for pack in request.packs)
        return replace(request, packs=tuple(filter(None, packs)))

    def _note_refused(self, submitted: Submitted, tasks: Iterable[str]) -> None:
        reasons = self.refused if submitted.for_good else self.held
        reasons.update(dict.fromkeys(tasks, submitted.refused or "refused"))

    def _queue_closing(self, array: Array) -> None:
        try:
            array, submitted = self._submit_closing(array)
        except SubmitError as error:
            # The tasks are queued all the same, and must not be forgotten for it.
            submitted = _nothing_queued(array, error)
        if not submitted.queued:
            self._note_refused(submitted, (CLOSE,))
        self._write(CLOSE, CLOSE, array, submitted, dict.fromkeys(submitted.queued, ()))

    def _submit_closing(self, array: Array) -> tuple[Array, Submitted]:
        """Submit the closing job: where the site's limit is reached, in the place of the element queued last."""
        submitted = self.executor.submit(array)
        for delay_s in RETRY_DELAYS_S:
            if submitted.queued or submitted.for_good or len(self.element_names) <= 1:
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
            named_cluster=submitted.named_cluster,
        )
        self._confirm(submitted.refused)
        self.submission = replace(self.submission.with_array(queued), held=dict(self.held))
        self.submission.write(self.storage)


def _nothing_queued(array: Array, error: SubmitError | LockLostError) -> Submitted:
    for_good = not isinstance(error, NotNowError | LockLostError)
    return Submitted(ids=(None,) * len(array.elements), refused=str(error), for_good=for_good)


def archive_record(folder: Path, undo: ExitStack) -> None:
    """Rename a record that is to be made again: it must not be taken for the new one.

    That of a stopped trial whose continuation was cut short stays: the task goes on from there, as a continuation.
    """
    record = folder / RECORD
    if record.exists() and not is_continued(folder):
        move(record, folder / "record.superseded.json", undo)
    (folder / HELD).unlink(missing_ok=True)


# Cancels what of a plan is queued or running.


def cancel_plan(plan: Plan) -> Cancellation:
    """Cancel every element of this user's that has a live task of the plan; returns what that ends, and what is left.

    A packed element is cancelled whole. Tasks stay in their folders with their checkpoints: submitting again
    goes on from there. What another user queued is theirs: the same id may name another element of ours. A job that
    Slurm does not show as ours and live is left alone.
    """
    cancellation = cancellable(task_states(plan), executor=plan.manifest.cluster.executor)
    for (name, cluster), elements in cancellation.elements.items():
        site = replace(plan.manifest.cluster, clusters=cluster)
        make_executor(name, replace(plan.manifest, cluster=site)).cancel(elements)
    return cancellation
