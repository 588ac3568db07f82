"""The closing job: tries again what deserves it, then rebuilds the report. Nothing runs on the login node."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from jobs.attempt import history
from jobs.storage import Storage
from pipeline import submission
from pipeline.manifest import load
from pipeline.plan import Plan, make_plan
from pipeline.queue import Place, places
from pipeline.release import release
from pipeline.report import build
from pipeline.retry import Retry, decide
from pipeline.states import TaskState
from pipeline.status import summary_line, task_states
from pipeline.submission import Submission
from pipeline.submit import SOURCE, submit_plan
from slurm.array import SubmitError
from slurm.owned import check_own


def close_submission(folder: Path) -> int:
    """Retry within the manifest's budget and rebuild the report; 0 when all is done or tried again, else 1."""
    # A manifest may hold shell lines for the jobs that are submitted next.
    for path in (folder, folder / SOURCE):
        check_own(path)
    mine = submission.read(folder)
    plan = make_plan(load(folder / SOURCE))
    storage = Storage(plan.manifest.storage)
    states = task_states(plan)
    print(f"{mine.name}: {summary_line(states)}", file=sys.stderr, flush=True)
    placed = places(submission.read_all(storage), states.keys())
    changes = retries(plan, states, placed, mine)
    changes |= release(plan, states, {task for task, homes in placed.items() if _newest(homes, mine)} - changes.keys())
    for task, change in changes.items():
        print(f"again: {task} ({change.reason})", file=sys.stderr, flush=True)
    if changes:
        _submit(plan, mine.executor, changes)
    build(plan, task_states(plan))
    for other in submission.read_all(storage):
        if other.manifest == mine.manifest and all(
            states[task].state == "done" for task in _tasks(other) if task in states
        ):
            _clear_away(storage.submissions / other.name, plan.manifest.name)
    return int(any(state.state in ("failed", "lost") for task, state in states.items() if task not in changes))


def _submit(plan: Plan, executor: str, changes: Mapping[str, Retry]) -> None:
    """Queue what is tried again; when nothing can be queued, the report still says how all stands."""
    try:
        report = submit_plan(plan, executor=executor, changes=changes)
    except SubmitError as error:
        print(f"not queued, tanda submit again will: {error}", file=sys.stderr, flush=True)
        return
    for reason, count in Counter(report.held.values()).items():
        print(f"{count} not queued: {reason}", file=sys.stderr, flush=True)


def _newest(homes: list[Place], mine: Submission) -> bool:
    return homes[-1].submission == mine.name


def _tasks(mine: Submission) -> set[str]:
    return {task for array in mine.arrays for tasks in array.elements.values() for task in tasks}


def _clear_away(folder: Path, manifest: str) -> None:
    """Remove submitit's own files of a submission that ended well, but for those of closing jobs: one is this one."""
    for leftover in folder.glob(f"{manifest}-*.*"):
        if leftover.is_dir() and not leftover.name.startswith(f"{manifest}-close."):
            shutil.rmtree(leftover, ignore_errors=True)


def retries(
    plan: Plan, states: Mapping[str, TaskState], placed: Mapping[str, list[Place]], mine: Submission
) -> dict[str, Retry]:
    """What of this submission is tried again, and everything that waits for it; each task's newest place decides.

    What a limit of the site kept from the queue before is tried too: there may be room for it now. A task that a
    later submission has taken over is left to that one.
    """
    storage = Storage(plan.manifest.storage)
    changes: dict[str, Retry] = {}
    for planned in plan.tasks:
        homes, state = placed.get(planned.id, []), states[planned.id]
        if homes and homes[-1].time > mine.time:
            continue
        if planned.id in mine.held and not state.queued and state.state != "done":
            changes[planned.id] = Retry(reason=f"not queued before: {mine.held[planned.id]}")
        if not homes or not _newest(homes, mine) or planned.id in changes:
            continue
        upstream = [need for need in (*planned.task.needs, *planned.after) if need in changes]
        ready = all(states[need].state == "done" for need in planned.task.needs if need in states)
        if upstream and state.state != "done":
            changes[planned.id] = Retry(reason=f"{upstream[0]} is tried again")
        elif state.cause != "upstream failed" or ready:
            change = decide(
                state,
                tries=len(homes),
                retries=plan.manifest.retries,
                progressed=_progressed(storage.run(planned.id)),
                memory_raised=homes[-1].mem_gb > planned.resources.mem_gb,
            )
            if change is not None:
                changes[planned.id] = change
    return changes


def _progressed(folder: Path) -> bool:
    """Whether the last attempt that began left a newer checkpoint than it found."""
    attempts = history(folder)
    try:
        saved = (folder / "checkpoint.pt").stat().st_mtime
    except FileNotFoundError:
        return False
    return bool(attempts) and saved >= float(attempts[-1].get("started", float("inf")))
