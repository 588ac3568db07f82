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

import orjson
from rich.console import Console

from jobs.record import read_record
from jobs.search.trial import continuation
from jobs.storage import OWNER_WRITES, Storage, write_whole
from pipeline import submission
from pipeline.arrays import Draft, Maker, drafts
from pipeline.done import to_do
from pipeline.executors import make_executor
from pipeline.plan import Plan, Planned
from pipeline.retry import Retry
from pipeline.snapshot import commit, snapshot
from pipeline.states import TaskState
from pipeline.status import task_states
from pipeline.submission import Queued, Submission
from slurm.array import Array, SubmitError, Submitted
from slurm.executors import Executor
from slurm.reasons import stuck

SOURCE = "manifest.json"
CLOSE = "close"
ROOM_PAUSES_S = (0.0, 0.5, 2.0)  # a cancelled element is counted until the scheduler has let it go


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a submission came to: arrays queued, how many tasks needed nothing, what could not be queued and why."""

    submission: Submission | None
    already_done: int
    already_queued: int
    held: Mapping[str, str] = field(default_factory=dict)
    let_go: int = 0  # elements that the scheduler held after a start that failed, now released

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


def submit_plan(plan: Plan, *, executor: str | None = None, changes: Mapping[str, Retry] | None = None) -> Report:
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
        let_go = _let_go(runner, name, states)
        tasks = _wanted(plan, states, changes)
        doomed = _doomed(plan, states, name, tasks) if changes is None else frozenset()
        if doomed:
            runner.cancel(sorted({str(states[task].job) for task in doomed}))
            tasks = tuple(planned for planned in plan.tasks if planned in tasks or planned.id in doomed)
        report = Report(
            submission=None,
            already_done=len(plan.tasks) - len(to_do(plan, _done(states))),
            already_queued=sum(_is_queued(state) for state in states.values()),
            let_go=let_go,
        )
        out_of_reach = _out_of_reach(plan, states, tasks)
        tasks = tuple(planned for planned in tasks if planned.id not in out_of_reach)
        if not tasks:
            return replace(report, held=out_of_reach)
        for folder in submission.guard(storage):
            print(f"tanda: {folder}: {submission.UNGUARDED.format(folder)}", file=sys.stderr)
        begun = submission.begin(storage, manifest=plan.manifest.name, executor=name, git_commit=commit())
        making = _Making(plan, storage, runner, begun, _places(states, name, doomed), out_of_reach)
        making.prepare(tasks)
        making.queue(drafts(tasks, changes or {}, canary=plan.manifest.canary))
    return replace(report, submission=making.submission, held=making.held)


def _let_go(executor: Executor, name: str, states: Mapping[str, TaskState]) -> int:
    """Let elements start that the scheduler holds since a start failed on their node; how many."""
    jobs = {
        state.job
        for state in states.values()
        if state.job is not None and _is_queued(state) and _ours(state, name) and stuck(state.reason)
    }
    if jobs:
        executor.release(sorted(jobs))
    return len(jobs)


def _done(states: Mapping[str, TaskState]) -> frozenset[str]:
    return frozenset(task for task, state in states.items() if state.state == "done")


def _wanted(plan: Plan, states: Mapping[str, TaskState], changes: Mapping[str, Retry] | None) -> tuple[Planned, ...]:
    if changes is not None:
        return tuple(planned for planned in plan.tasks if planned.id in changes)
    return tuple(planned for planned in to_do(plan, _done(states)) if not _is_queued(states[planned.id]))


def _is_queued(state: TaskState) -> bool:
    return state.state == "running" or (state.state in ("waiting", "unknown") and state.queued)


def _ours(state: TaskState, executor: str) -> bool:
    return state.executor == executor and state.mine


def _out_of_reach(plan: Plan, states: Mapping[str, TaskState], tasks: Sequence[Planned]) -> dict[str, str]:
    """Those of these tasks that need what another user's local processes have still to do, and so can't wait for it."""
    theirs = {
        task for task, state in states.items() if _is_queued(state) and state.executor == "local" and not state.mine
    }
    held: dict[str, str] = {}
    for planned in plan.tasks:
        needs = (*planned.task.needs, *planned.after)
        if planned in tasks and not (theirs | held.keys()).isdisjoint(needs):
            held[planned.id] = "another user's local processes are at what it needs"
    return held


def _doomed(plan: Plan, states: Mapping[str, TaskState], executor: str, wanted: Sequence[Planned]) -> frozenset[str]:
    """Queued tasks that wait in vain: for an element of what is queued anew, which failed, or of what is done.

    Left there, Slurm would cancel the first a moment later, as if a person had; the others would wait for an element
    that was started once more after its task was done, and is held.
    """
    anew = {planned.id for planned in wanted}
    doomed: set[str] = set()
    for planned in plan.tasks:
        state = states[planned.id]
        waits = state.state == "waiting" and state.queued and _ours(state, executor) and state.job is not None
        upstream = (*planned.task.needs, *planned.after)
        met = state.reason == "Dependency" and all(states[need].state == "done" for need in upstream if need in states)
        if waits and (met or not (anew | doomed).isdisjoint(upstream)):
            doomed.add(planned.id)
    # An element is cancelled whole: not where another task in it has something to wait for.
    shared = {state.job for task, state in states.items() if task not in doomed and _is_queued(state)}
    return frozenset(task for task in doomed if states[task].job not in shared)


def _places(states: Mapping[str, TaskState], executor: str, doomed: frozenset[str]) -> dict[str, str]:
    """Tasks that this executor has queued already: what needs them can wait for them by their ids."""
    return {
        task: state.job
        for task, state in states.items()
        if state.job is not None
        and _is_queued(state)
        and state.executor == executor
        and (state.mine or executor != "local")
        and task not in doomed
    }


class _Making:
    """One submission in the making: its folder, and where each task was queued."""

    def __init__(
        self,
        plan: Plan,
        storage: Storage,
        executor: Executor,
        begun: Submission,
        places: dict[str, str],
        held: Mapping[str, str],
    ) -> None:
        self.plan = plan
        self.storage = storage
        self.executor = executor
        self.submission = begun
        self.places = places
        self.held = dict(held)
        self.maker = Maker(manifest=plan.manifest, storage=storage, folder=self.folder, git_commit=begun.git_commit)

    @property
    def folder(self) -> Path:
        return self.storage.submissions / self.submission.name

    def prepare(self, tasks: Sequence[Planned]) -> None:
        """Everything that the tasks will read, before the first of them can start."""
        snapshot(self.folder / "code")
        write_source(self.folder, self.plan)
        for planned in tasks:
            planned.task.write(self.storage)
            _set_aside(self.storage.run(planned.id))

    def queue(self, arrays: Sequence[Draft]) -> None:
        """Hand over one array after the other; the first refusal of all of an array ends it."""
        for draft in arrays:
            array = self.maker.array(draft, self.places)
            try:
                submitted = self.executor.submit(array)
            except SubmitError as error:
                if not self.submission.arrays:
                    shutil.rmtree(self.folder)
                    raise
                submitted = Submitted(ids=(None,) * len(array.elements), refused=str(error))
            self._note(draft, array, submitted)
        if self._jobs and self.submission.executor != "inline":
            self._close_after()

    @property
    def _jobs(self) -> tuple[str, ...]:
        return tuple(job for queued in self.submission.arrays for job in queued.elements)

    def _note(self, draft: Draft, array: Array, submitted: Submitted) -> None:
        elements: dict[str, tuple[str, ...]] = {}
        for pack, job in zip(draft.packs, submitted.ids, strict=True):
            ids = tuple(planned.id for planned in pack)
            if job is None:
                self.held.update(dict.fromkeys(ids, submitted.refused or "refused"))
            else:
                self.places.update(dict.fromkeys(ids, job))
                elements[job] = ids
        self._write(draft.stage, draft.group, array, submitted, elements)

    def _close_after(self) -> None:
        """Queue the closing job: where the site's limit is reached, in the place of the element queued last."""
        array = self.maker.closing(self._jobs)
        submitted = self.executor.submit(array)
        for pause_s in ROOM_PAUSES_S:
            if submitted.queued or len(self._jobs) == 1:
                break
            self._give_up_last(submitted.refused or "refused")
            time.sleep(pause_s)
            array = self.maker.closing(self._jobs)
            submitted = self.executor.submit(array)
        if not submitted.queued:
            self.held[CLOSE] = submitted.refused or "refused"
        self._write(CLOSE, CLOSE, array, submitted, dict.fromkeys(submitted.queued, ()))

    def _give_up_last(self, refused: str) -> None:
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


def write_source(folder: Path, plan: Plan) -> None:
    """The manifest as submitted, groups and runs in the order that a person gave them: the report's order."""
    document = orjson.dumps(plan.manifest.document, option=orjson.OPT_INDENT_2)
    write_whole(folder / SOURCE, document, permissions=OWNER_WRITES)


def _set_aside(folder: Path) -> None:
    """A record that is to be made again must not be taken for the new one; the old one is kept beside it.

    That of a stopped trial whose continuation was cut short stays: the task goes on from there, as a continuation.
    """
    record = folder / "record.json"
    if record.exists() and not _is_continued(folder):
        record.replace(folder / "record.superseded.json")
    (folder / "held.json").unlink(missing_ok=True)


def _is_continued(folder: Path) -> bool:
    try:
        return continuation(folder, read_record(folder)) is not None
    except ValueError:
        return False


def print_submitted(report: Report, console: Console) -> None:
    """Job ids for people; what could not be queued, and that submitting again queues the rest."""
    if report.let_go:
        console.print(f"{report.let_go} held after a start that failed on the node: released")
    if report.submission is None:
        console.print(f"nothing to submit: {report.already_done} done, {report.already_queued} queued or running")
    for array in report.submission.arrays if report.submission is not None else ():
        tasks = sum(map(len, array.elements.values()))
        what = "retries and report" if array.stage == "close" else f"{tasks} task{'s' * (tasks != 1)}"
        console.print(f"{','.join(array.job_ids) or 'not queued':<12} {array.stage:<10} {array.group:<16} {what}")
    if report.submission is not None and (report.already_done or report.already_queued):
        console.print(f"{report.already_done} done already, {report.already_queued} queued already")
    for reason, count in Counter(report.held.values()).items():
        console.print(f"[yellow]{count} not queued: {reason}; submit again later to queue the rest[/]")
