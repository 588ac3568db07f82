"""Runs one task in this process and records how it ended: the edge where errors are caught.

Its exit status is read by the element that started it: see ``slurm.element``.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Literal

from jobs import circuit_breaker, gpu_errors, gpu_use
from jobs.attempt import Attempt, SupersededError, begin_after, history, live, numbers
from jobs.context import Context, Outcome, TaskFailedError, TaskInterruptedError, allotted_cpus, shares_gpu
from jobs.provenance import cores_used, peak_mb, provenance
from jobs.storage import Storage, WaitBudget, describe_error, is_transient
from jobs.task import TASK, TRAINING_FAILURES, Cause, Record, Task, is_done, read_record
from jobs.units import made
from sharedfs.clock import SYSTEM, Clock
from sharedfs.errors import DamagedFileError, MissingFileError, TandaError
from sharedfs.files import plain_folder, refresh_listing, take_umask
from sharedfs.typed_json import Json

# 75 is EX_TEMPFAIL: saved, start me again; 73 that the storage is away, and the end of it could not be recorded.
DONE, FAILED, PAUSED, AWAY = 0, 1, 75, 73
POLL_S = 2.0
LATE_S = (0.0, 0.5, 1.5)  # the waits for what another node has written and this one does not see yet


def run(folder: Path, clock: Clock = SYSTEM) -> int:
    """Run the task in ``<storage>/runs/<id>``; returns 0 done, 1 failed (recorded), 75 saved and paused, 73 not begun
    or not recorded because the storage was full or away for all the time that it is waited for.

    Raises MissingFileError where no task is, DamagedFileError, OSError.
    """
    folder = folder.resolve()
    interrupted = InterruptFlag()
    budget = WaitBudget(interrupted, clock=clock)
    while True:
        try:
            return _run(folder, interrupted, budget, clock)
        except OSError as error:
            if not is_transient(error):
                raise
            reason = describe_error(error, folder.parent.parent)
            print(f"waiting for the storage: {reason}", file=sys.stderr, flush=True)
            if not budget.wait(folder):
                return PAUSED if interrupted() else AWAY


def _run(folder: Path, interrupted: Callable[[], bool], budget: WaitBudget, clock: Clock) -> int:
    if not (folder / TASK).exists():
        raise MissingFileError(f"{folder}: no {TASK} here; must be a task's folder, STORAGE/runs/ID")
    task = Task.read(folder)
    storage = Storage(folder.parent.parent)
    while True:
        # In this order: the newest attempt may end, or another begin, between two looks. One that ended before the
        # second has its record by the third; one that began since the first has the number that is claimed last.
        begun = numbers(folder)
        is_live = live(folder, clock)
        if is_done(storage, task.id):
            return _post_stage(task, storage, interrupted)
        if not is_live:
            reason = circuit_breaker.hold(task, storage)
            if reason is not None:
                print(f"held: {reason}", file=sys.stderr, flush=True)
                return FAILED
            plain_folder(folder / "attempts")
            attempt = begin_after(folder, begun[-1] if begun else 0, provenance(), clock=clock)
            if attempt is not None:
                break
        # Another process runs it (two people submitted, or a node came back): let it finish (``jobs.attempt``).
        if interrupted():
            return PAUSED
        clock.sleep(POLL_S)
    status = _work(task, storage, attempt, interrupted, budget, clock)
    return _post_stage(task, storage, interrupted) if status == DONE else status


def take_over(folder: Path, *, after: int, by: str, interrupted: Callable[[], bool]) -> int | None:
    """Continue another task, in this process, as the attempt that follows ``after``; returns an exit status.

    None when another process was first. ``by`` is the id of the task whose process this is, kept in start.json. The
    task's record holds until this attempt has one of its own to put in its place.
    """
    attempt = begin_after(folder, after, provenance(), by=by)
    if attempt is None:
        return None
    budget = WaitBudget(interrupted)
    return _work(Task.read(folder), Storage(folder.parent.parent), attempt, interrupted, budget, SYSTEM)


class InterruptFlag:
    """True once SIGUSR2, SIGTERM or SIGINT came: the handler does nothing but set it."""

    def __init__(self) -> None:
        self._set = False
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._set = True

    def __call__(self) -> bool:
        return self._set


def _work(
    task: Task, storage: Storage, attempt: Attempt, interrupted: Callable[[], bool], budget: WaitBudget, clock: Clock
) -> int:
    """Attempt the task; when the storage is full or away, wait for it and continue as the next attempt."""
    while True:
        context = Context(
            task=task,
            storage=storage,
            folder=attempt.folder,
            attempt=attempt,
            interrupted=interrupted,
            cpus=allotted_cpus(),
            clock=clock,
            started=clock.now(),
        )
        with attempt.heartbeat():
            status = _attempt(context, budget)
        if status is not None:
            return status
        following = begin_after(attempt.folder, attempt.number, provenance(), clock=clock)
        if following is None:
            return PAUSED
        attempt = following


def _post_stage(task: Task, storage: Storage, interrupted: Callable[[], bool]) -> int:
    """Call the stage's ``after_done``, if it has one: also for a task already done, as the call may be cut short."""
    try:
        after_done = getattr(import_module(f"jobs.stages.{task.stage}"), "after_done", None)
        return DONE if after_done is None else after_done(task, storage, interrupted)
    except Exception as error:  # noqa: BLE001 - the edge: this task's record holds, what came after it failed
        traceback.print_exception(error)
        return FAILED


def _attempt(context: Context, budget: WaitBudget) -> int | None:
    """An exit status; None when the storage was full or away for a while, and the wait is over."""
    try:
        _check_needs(context)
        stage = import_module(f"jobs.stages.{context.task.stage}")
        outcome: Outcome = stage.run(context)
        context.attempt.check()
        _record(context, state="done", outcome=outcome)
    except TaskInterruptedError as pause:
        context.log(f"paused: {pause}")
        _end(context, state="paused", message=str(pause))
        return PAUSED
    except SupersededError as error:
        return _superseded(context, error)
    except Exception as error:  # noqa: BLE001 - the edge: whatever went wrong becomes the record
        if is_transient(error):
            return _wait_for_storage(context, error, budget)
        return _failed(context, error)
    _end(context, state="done")
    return DONE


def _check_needs(context: Context) -> None:
    storage = context.storage
    missing = [need for need in context.task.needs if not is_done(storage, need)]
    for delay_s in LATE_S:
        if not any(_is_late(storage, need) for need in missing):
            break
        # It may have been written by another node this moment: this task was started because that one is over.
        context.clock.sleep(delay_s)
        for need in missing:
            refresh_listing(storage.run(need))
        missing = [need for need in missing if not is_done(storage, need)]
    if missing:
        raise TaskFailedError("upstream failed", f"needs {', '.join(missing)}, not done on {storage.root}")


def _is_late(storage: Storage, need: str) -> bool:
    """Whether a task that is not done may be done all the same, as this node sees no failure of it either."""
    try:
        record = read_record(storage.run(need))
    except DamagedFileError:
        return False
    return record is None or record.state == "done"


def _wait_for_storage(context: Context, error: Exception, budget: WaitBudget) -> int | None:
    """Wait for the storage: None once it can be written to, else an exit status."""
    reason = describe_error(error, context.storage.root)
    context.log(f"waiting for the storage: {reason}")
    is_back = budget.wait(context.folder)
    if not is_back and not context.interrupted():
        return _failed(context, error)
    _end(context, state="paused", message=reason)
    return None if is_back else PAUSED


def _superseded(context: Context, error: SupersededError) -> int:
    context.log(f"stopped: {error}")
    _end(context, state="superseded", message=str(error))
    return PAUSED


def _failed(context: Context, error: Exception) -> int:
    of_storage = describe_error(error, context.storage.root)
    cause, message, details = _cause(error)
    if of_storage:
        cause, message, details = "storage" if is_transient(error) else "error", of_storage, {}
    if cause == "error" and not of_storage and not isinstance(error, TaskFailedError):
        traceback.print_exception(error)
    context.log(f"failed ({cause}): {message}")
    if cause not in TRAINING_FAILURES and is_done(context.storage, context.task.id):
        # A task that was done and is continued, say on a GPU that has died since: it still has its result.
        context.log("the result that it had before holds")
        _end(context, state="failed", cause=cause, message=message)
        return FAILED
    outcome = Outcome(files=(), result=details)
    try:
        context.attempt.check()  # a late survivor's failure must not take the place of its successor's result
        _record(context, state="failed", outcome=outcome, cause=cause, message=message)
        _end(context, state="failed", cause=cause, message=message)
        if cause == "error":
            circuit_breaker.note_failure(context.task.id, cause, message)
    except SupersededError as newer:
        return _superseded(context, newer)
    except OSError as fault:
        # The storage is full or away: the log and the exit status are all that is left.
        context.log(f"the failure could not be recorded: {describe_error(fault, context.storage.root) or fault}")
        return AWAY if cause == "storage" else FAILED
    return FAILED


def _cause(error: Exception) -> tuple[Cause, str, dict[str, Json]]:
    if isinstance(error, TaskFailedError):
        return error.cause, str(error), dict(error.details)
    # What a person can fix is shown as it is; the name of its class would not help them.
    text = str(error) if isinstance(error, TandaError) else f"{type(error).__name__}: {error}"
    # By name: a task that never imports torch must not import it to fail.
    if type(error).__name__ == "OutOfMemoryError":
        return gpu_errors.GPU_OUT_OF_MEMORY, text, {}
    if isinstance(error, MemoryError):
        return gpu_errors.OUT_OF_MEMORY, text, {}
    # Torch raises RuntimeError, and AssertionError for a build without CUDA; others' words may only mention one.
    of_torch = isinstance(error, RuntimeError | AssertionError) and not isinstance(error, TandaError)
    cause = gpu_errors.cause_of(text, shared=shares_gpu()) if of_torch else None
    # Further lines of CUDA's errors say how to look for a fault in a kernel.
    return ("error", text, {}) if cause is None else (cause, text.splitlines()[0], {})


def _record(
    context: Context,
    *,
    state: Literal["done", "failed"],
    outcome: Outcome,
    cause: str | None = None,
    message: str | None = None,
) -> None:
    now = context.clock.now()
    past = [attempt for attempt in history(context.folder) if attempt.number < context.attempt.number]
    began = past[0].started if past else None
    Record(
        id=context.task.id,
        stage=context.task.stage,
        state=state,
        cause=cause,
        message=message,
        result=outcome.result,
        files=context.storage.sizes(outcome.files),
        started=context.started if began is None else began,
        ended=now,
        running_s=now - context.started + sum(attempt.ran_s for attempt in past),
        attempt=context.attempt.number,
        former_attempts=context.attempt.number - len(past) - 1,
        about=replace(provenance(), peak_mb=peak_mb(), cores=cores_used()),
        made=made(outcome.units),
        gpu=gpu_use.total([*(attempt.gpu for attempt in past), gpu_use.read(context.attempt.path)]),
    ).write(context.storage)


def _end(context: Context, *, state: str, cause: str | None = None, message: str | None = None) -> None:
    now = context.clock.now()
    # On a storage that is full or away this is left out: the attempt's outcome does not depend on it.
    with suppress(OSError):
        context.attempt.end(
            state=state,
            ended=now,
            cause=cause,
            message=message,
            running_s=now - context.started,
            peak_mb=peak_mb(),
        )


def main() -> int:
    """``python -m jobs FOLDER``: as ``run``; returns 2 where the task could not be begun, which stderr explains."""
    if len(sys.argv) != 2:
        print("usage: python -m jobs STORAGE/runs/ID", file=sys.stderr)
        return 2
    take_umask()
    folder = Path(sys.argv[1])
    try:
        return run(folder)
    except Exception as error:  # noqa: BLE001 - the edge: one line where a person can help, else a fault of ours
        line = describe_error(error, folder.parent.parent) or (str(error) if isinstance(error, TandaError) else None)
        if line is None:
            traceback.print_exception(error)
        else:
            print(f"tanda: {line}", file=sys.stderr)
        return 2
