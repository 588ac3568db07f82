"""One task to a person: why it waits or failed and what to do about it, and its log."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jobs.attempt import AttemptFacts, history
from jobs.storage import Storage
from pipeline.decisions.retry import MEMORY_FACTOR
from pipeline.decisions.task_state import TaskState
from pipeline.element_log import find_log, has_begun, submitted_python
from pipeline.named import find_task
from pipeline.plan import Plan, Planned
from pipeline.queue import QueuedAs, queue_history
from pipeline.state_words import planned_start, progress_words
from pipeline.status import all_finished, task_states
from pipeline.submission import read_all
from sharedfs.clock import SYSTEM, Clock
from sharedfs.errors import InputError
from sharedfs.files import open_plain, read_tail
from slurm.reasons import explain as explain_reason

LOG_LINES = 12
PLANNED_REASONS = ("Priority", "Resources")  # of jobs whose start Slurm's backfill plans

REMEDIES = {
    "error": "an error in code or settings is not retried: fix it and submit again",
    "out of memory": "ask for more in `resources: {STAGE: {mem_gb: ...}}`; a retry for it had "
    f"{MEMORY_FACTOR:g} times that",
    "GPU out of memory": "a smaller batch_size, or a GPU with more memory (`constraint` or `gres_type` in the profile)",
    "time limit": "raise `resources: {STAGE: {time_min: ...}}`; submitting again resumes from the checkpoint",
    "preempted too often": "submit again, or use a partition that is not preempted; it resumes from the checkpoint",
    "node failure": "submit again; it resumes from the checkpoint",
    "no GPU": "look at that node's driver (nvidia-smi), and whether this torch is built for it; "
    "`device: cpu` trains without a GPU, `resources: {STAGE: {gpus: 0}}` asks for none",
    "GPU failure": "look at that node's GPU (nvidia-smi -q, dmesg for Xid) and its compute mode; "
    "an exclusive GPU carries no `pack`; submit again to resume from the checkpoint",
    "GPU idle": "see in the message what it was doing, and in the log its stack: one that computes on the CPU takes "
    "`resources: {STAGE: {gpus: 0}}`, one that prepares data more `cpus` or `idle_min`; it resumes from the checkpoint",
    "storage": "the storage was full, or away for that node: look at it there (df, dmesg), free some room; submit "
    "again to resume from the checkpoint",
    "cancelled": "it was cancelled; submit again to resume from the checkpoint",
    "diverged": "a lower learning_rate, or smaller weights: see the gradient norm in the log",
    "at chance": "the network learned nothing: fewer layers, a higher learning_rate, or look at the labels",
    "upstream failed": "see why the task it needs failed",
    "killed": "something outside ended the process; submit again to resume from the checkpoint",
}


def explain(plan: Plan, query: str) -> str:
    """Everything known of one task's state; raises ValueError when the query names none or several."""
    planned = find_task(plan, query)
    states = task_states(plan)
    state = states[planned.id]
    body = {
        "done": lambda: _done(planned, state),
        "running": lambda: _running(state),
        "waiting": lambda: _waiting(plan, planned, states),
        "unknown": lambda: [f"job {state.job}: {state.reason}", "it is left alone until Slurm reports its state"],
        "failed": lambda: _failed(plan, planned, state),
        "lost": lambda: _failed(plan, planned, state),
    }[state.state]()
    return "\n".join([f"{planned.group}/{planned.run} ({planned.stage}, {planned.id}): {state.state}", *body])


def _done(planned: Planned, state: TaskState) -> list[str]:
    lines = [f"succeeded after {state.attempts} attempt{'s' * (state.attempts != 1)}", *state.changed]
    if state.changed and planned.stage != "trial":
        lines.append(f"it stays as it is; `tanda submit --rerun {planned.group}/{planned.run}` makes it again")
    return lines


def _running(state: TaskState) -> list[str]:
    progress = progress_words(state.progress) if state.progress else ""
    return [f"job {state.job} on {state.node}: {progress or 'no progress reported yet'}"]


def _waiting(plan: Plan, planned: Planned, states: Mapping[str, TaskState]) -> list[str]:
    state = states[planned.id]
    lines = []
    if not state.queued:
        lines.append(f"{state.reason or 'it is not queued'}: `tanda submit` queues it")
    elif state.reason:
        reason = explain_reason(state.reason)
        lines.append(
            f"job {state.job}: {state.reason}: {reason.meaning}" + (f"; {reason.advice}" if reason.advice else "")
        )
        if (at := planned_start(state)) is not None:
            lines.append(f"Slurm plans to start it at {at}; earlier where others end sooner than they asked")
        elif state.executor == "slurm" and state.reason in PLANNED_REASONS:
            lines.append("Slurm has planned no start for it yet")
    for need in (*planned.task.needs, *planned.after):
        if need in states and states[need].state != "done":
            other = plan.by_id()[need]
            lines.append(f"it needs {other.group}/{other.run} ({other.stage}, {need}), which is {states[need].state}")
    return lines


def _failed(plan: Plan, planned: Planned, state: TaskState) -> list[str]:
    storage = Storage(plan.manifest.storage)
    folder, log = storage.run(planned.id), storage.log(planned.id)
    lines = failure_lines(planned.stage, state, history(folder))
    if state.log is not None:
        lines += _log_tail("it ended before its first line; its element's log ends", Path(state.log))
    else:
        lines += _log_tail("the log's last lines", log)
    python = (state.submission and submitted_python(storage, state.submission)) or plan.manifest.cluster.python
    lines.append(f"alone, in the foreground: PYTHONSAFEPATH=1 {python or sys.executable} -m jobs {folder}")
    return lines


def _log_tail(title: str, log: Path) -> list[str]:
    text = read_tail(log, LOG_LINES)
    return [f"{title} ({log}):", *(f"  {line}" for line in text.splitlines())] if text else []


def failure_lines(stage: str, state: TaskState, attempts: Sequence[AttemptFacts]) -> list[str]:
    """Why a task failed, how each attempt ended, and what to do about it."""
    lines = [f"cause: {state.cause or 'unknown'}" + (f": {state.message}" if state.message else "")]
    for attempt in attempts:
        ended = attempt.state or "ended without a record"
        cause = f" ({attempt.cause})" if attempt.cause else ""
        lines.append(f"attempt {attempt.number} on {attempt.host or '?'}: {ended}{cause}")
    remedy = REMEDIES.get(state.cause or "", "submit again: it resumes from what was saved").replace("STAGE", stage)
    return [*lines, f"what to do: {remedy}"]


# A task's own log, from its folder on storage.


POLL_S = 1.0
ASK_CLUSTER_S = 15.0  # etiquette: the controller serves everybody


def read_log(plan: Plan, query: str, *, follow: bool = False, clock: Clock = SYSTEM) -> Iterator[str]:
    """A task's log, and with ``follow`` what is added, piece by piece until the task is over; InputError if none.

    Where its newest element wrote nothing to it, that element's own log comes after it.
    """
    planned = find_task(plan, query)
    storage = Storage(plan.manifest.storage)
    path = storage.log(planned.id)
    if not follow:
        queued = _newest_element(storage, planned.id)
        early = _read_early_log(storage, planned.id, queued)
        if not path.exists() and not early:
            state = task_states(plan, clock=clock)[planned.id]
            raise InputError(f"{planned.group}/{planned.run} ({planned.stage}) {_no_log(state, queued)}")
        yield _read_from(path, 0).decode("utf-8", "replace") + early
        return
    position, ask_at, last = 0, -math.inf, False
    while True:
        now = clock.monotonic()
        if now >= ask_at:
            state = task_states(plan, clock=clock)[planned.id]
            last = all_finished({planned.id: state})
            ask_at = now + (ASK_CLUSTER_S if state.executor == "slurm" else 0.0)
        added = _read_from(path, position)
        position += len(added)
        yield added.decode("utf-8", "replace")
        if last:
            if early := _read_early_log(storage, planned.id, _newest_element(storage, planned.id)):
                yield early
            return
        clock.sleep(POLL_S)


def _newest_element(storage: Storage, task: str) -> QueuedAs | None:
    return queue_history(read_all(storage), {task}).get(task, [None])[-1]


def _read_early_log(storage: Storage, task: str, queued: QueuedAs | None) -> str:
    """The log of a task's newest element, under a header, if the task's own has nothing of that element."""
    if queued is None or has_begun(storage.run(task), queued.element):
        return ""
    log = find_log(storage, queued.submission, queued.element)
    if log is None:
        return ""
    text = _read_from(log, 0).decode("utf-8", "replace")
    return f"== element {queued.element}, before the task's own first line: {log} ==\n{text}"


def _no_log(state: TaskState, queued: QueuedAs | None) -> str:
    if state.state in ("failed", "lost"):
        return f"left no log, nor did its element: it is {state.state}"
    if state.state != "done":
        return f"has no log yet: it is {state.state}"
    if queued is not None and queued.executor == "inline":
        return "has no log: it ran inline, in the process that submitted it, and printed there"
    return "has no log: it is done, and the log has been removed since"


def _read_from(path: Path, position: int) -> bytes:
    try:
        with open_plain(path) as file:
            file.seek(position)
            added: bytes = file.read()
            return added
    except FileNotFoundError:
        return b""
