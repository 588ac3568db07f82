"""The closing job: retries what can succeed, then rebuilds the report. Nothing runs on the login node."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from jobs.attempt import START, Attempt, history, numbers
from jobs.search.study import is_continued
from jobs.storage import Storage
from jobs.task import Record, is_done, read_record
from pipeline import submission
from pipeline.closing_job import write_closed
from pipeline.decisions.closing import ClosingEvidence, closing_actions, lost_candidates, resumable
from pipeline.decisions.retry import Retry, made_progress
from pipeline.decisions.task_state import TaskState
from pipeline.end_notice import tell_end
from pipeline.manifest import load
from pipeline.plan import Plan, make_plan
from pipeline.queue import queue_history
from pipeline.report import build
from pipeline.status import summary_line, task_states
from pipeline.submission import SOURCE, Submission
from pipeline.submit import submit_plan
from sharedfs.clock import SYSTEM, Clock
from sharedfs.lock import LockLostError
from slurm.errors import SubmitError
from slurm.owned import check_own


def close_submission(folder: Path) -> int:
    """Retry within the manifest's budget and rebuild the report; 0 when all is done or tried again, else 1."""
    # A manifest may hold shell lines for the jobs that are submitted next.
    for path in (folder, folder / SOURCE):
        check_own(path)
    own = submission.read(folder)
    manifest = load(folder / SOURCE)
    manifest.take_umask()
    plan = make_plan(manifest)
    storage = Storage(plan.manifest.storage)
    states = task_states(plan)
    print(f"{own.name}: {summary_line(states)}", file=sys.stderr, flush=True)
    actions = closing_actions(_collect(plan, storage, states, own))
    for trial in actions.lost_trials:
        record_lost_trial(storage, states[trial])
    for task, retry in actions.retries.items():
        print(f"retry: {task} ({retry.reason})", file=sys.stderr, flush=True)
    if actions.retries:
        _submit(plan, own, actions.retries)
    states = task_states(plan)
    report = build(plan, states)
    for name in actions.finished:
        _clear_away(storage.submissions / name, plan.manifest.name)
    if plan.manifest.notify is not None:
        tell_end(plan, states, own, report)
    write_closed(folder, actions.exit_status)
    return actions.exit_status


def _collect(plan: Plan, storage: Storage, states: Mapping[str, TaskState], own: Submission) -> ClosingEvidence:
    submissions = submission.read_all(storage)
    return ClosingEvidence(
        tasks=plan.tasks,
        states=states,
        retries=plan.manifest.retries,
        submission=own,
        submissions=submissions,
        queue_history=queue_history(submissions, states.keys()),
        progressed=frozenset(task for task in resumable(states) if _progressed(storage.run(task))),
        unrecorded=unrecorded_trials(storage, lost_candidates(plan.tasks, states)),
    )


def _progressed(folder: Path) -> bool:
    """Whether the newest attempt left a newer checkpoint than it found: both are times of the storage's clock."""
    begun = numbers(folder)
    started = _written(Attempt(folder, begun[-1]).path / START) if begun else None
    return made_progress(started=started, saved=_written(folder / "checkpoint.pt"))


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _submit(plan: Plan, own: Submission, changes: Mapping[str, Retry]) -> None:
    """Queue what is tried again; when nothing can be queued, the report is built all the same."""
    try:
        report = submit_plan(plan, executor=own.executor, changes=changes, continues=own.name)
    except (SubmitError, LockLostError) as error:
        print(f"not queued; `tanda submit` will queue it: {error}", file=sys.stderr, flush=True)
        return
    for reason, count in Counter([*report.held.values(), *report.refused.values()]).items():
        print(f"{count} not queued: {reason}", file=sys.stderr, flush=True)


def _clear_away(folder: Path, manifest: str) -> None:
    """Remove submitit's own files of a submission that is done, except closing jobs': this process is one."""
    for leftover in folder.glob(f"{manifest}-*.*"):
        if leftover.is_dir() and not leftover.name.startswith(f"{manifest}-close."):
            shutil.rmtree(leftover, ignore_errors=True)  # what stays costs some room; the next one tries again


# Trials that were cut short and are not tried again: their searches go on without them, or with what they had.


def unrecorded_trials(storage: Storage, trials: Iterable[str]) -> frozenset[str]:
    """Those of these trials that have no record which can be read, or that were being continued from theirs."""
    return frozenset(trial for trial in trials if not _is_recorded(storage, trial))


def _is_recorded(storage: Storage, trial: str) -> bool:
    folder = storage.run(trial)
    try:
        return read_record(folder) is not None and not is_continued(folder)
    except ValueError:
        return False  # damaged: as good as none


def record_lost_trial(storage: Storage, state: TaskState, clock: Clock = SYSTEM) -> None:
    """Record a trial as failed that left no record.

    A process that was killed writes no record, and as long as a trial has none, its search has no winner. Where a
    stopped trial was being continued, that attempt is ended, and the trial's record holds.
    """
    folder = storage.run(state.id)
    attempts = history(folder)
    began = attempts[0].started if attempts else None
    now = clock.now()
    if is_done(storage, state.id):
        last = attempts[-1]
        ended = last.last_heartbeat or now
        Attempt(folder, last.number).end(state="failed", ended=ended, message="interrupted, and given up")
        return
    Record(
        id=state.id,
        stage="trial",
        state="failed",
        cause=state.cause or "node failure",
        message=state.message or "it ended without a record, and was given up",
        started=now if began is None else began,
        ended=now,
        running_s=sum(attempt.ran_s for attempt in attempts),
        attempt=attempts[-1].number if attempts else 0,
    ).write(storage)
