"""The closing job: tries again what deserves it, then rebuilds the report. Nothing runs on the login node."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from jobs.attempt import history
from jobs.storage import Storage
from pipeline import submission
from pipeline.manifest import load
from pipeline.plan import Plan, make_plan
from pipeline.queue import Place, places
from pipeline.report import build
from pipeline.retry import Retry, decide
from pipeline.states import TaskState
from pipeline.status import summary_line, task_states
from pipeline.submission import Submission
from pipeline.submit import SOURCE, submit_plan


def close_submission(folder: Path) -> int:
    """Retry within the manifest's budget and rebuild the report; 0 when all is done or tried again, else 1."""
    mine = submission.read(folder)
    plan = make_plan(load(folder / SOURCE))
    storage = Storage(plan.manifest.storage)
    states = task_states(plan)
    print(f"{mine.name}: {summary_line(states)}", file=sys.stderr, flush=True)
    changes = retries(plan, states, places(submission.read_all(storage), states.keys()), mine.name)
    for task, change in changes.items():
        print(f"again: {task} ({change.reason})", file=sys.stderr, flush=True)
    if changes or mine.held:
        # Without changes the rest is what the site's limits refused before: there may be room for it now.
        submit_plan(plan, executor=mine.executor, changes=changes or None)
    build(plan, task_states(plan))
    if all(states[task].state == "done" for task in _tasks(mine) if task in states):
        _clear_away(folder, plan.manifest.name)
    return int(any(state.state in ("failed", "lost") for task, state in states.items() if task not in changes))


def _tasks(mine: Submission) -> set[str]:
    return {task for array in mine.arrays for tasks in array.elements.values() for task in tasks}


def _clear_away(folder: Path, manifest: str) -> None:
    """Remove submitit's own files of a submission that ended well, but for those of this very job."""
    for leftover in folder.glob(f"{manifest}-*.*"):
        if leftover.is_dir() and not leftover.name.startswith(f"{manifest}-close."):
            shutil.rmtree(leftover, ignore_errors=True)


def retries(
    plan: Plan, states: Mapping[str, TaskState], placed: Mapping[str, list[Place]], mine: str
) -> dict[str, Retry]:
    """What of this submission is tried again, and everything that waits for it; each task's newest place decides.

    A task that a later submission has taken over is left to that one.
    """
    storage = Storage(plan.manifest.storage)
    changes: dict[str, Retry] = {}
    for planned in plan.tasks:
        homes = placed.get(planned.id, [])
        if not homes or homes[-1].submission != mine:
            continue
        state = states[planned.id]
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
