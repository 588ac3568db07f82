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

from jobs import circuit_breaker, gpu_errors
from jobs.attempt import Attempt, SupersededError, begin_after, history, live, numbers
from jobs.context import Context, Outcome, TaskFailedError, TaskInterruptedError, allotted_cpus, shares_gpu
from jobs.provenance import peak_mb, provenance
from jobs.storage import Storage, WaitBudget, describe_error, is_transient
from jobs.task import TASK, TRAINING_FAILURES, Cause, Record, Task, is_done
from jobs.units import made
from sharedfs.clock import SYSTEM, Clock
from sharedfs.errors import MissingFileError, TandaError
from sharedfs.files import plain_folder, take_umask
from sharedfs.typed_json import Json

DONE, FAILED, PAUSED = 0, 1, 75  # 75 is EX_TEMPFAIL: saved, start me again
POLL_S = 2.0


def run(folder: Path, clock: Clock = SYSTEM) -> int:
    """Run the task in ``<storage>/runs/<id>``; returns 0 done, 1 failed (recorded), 75 saved and paused.

    Raises MissingFileError where no task is, DamagedFileError, OSError.
    """
    folder = folder.resolve()
    if not (folder / TASK).exists():
        raise MissingFileError(f"{folder}: no {TASK} here; must be a task's folder, STORAGE/runs/ID")
    task = Task.read(folder)
    storage = Storage(folder.parent.parent)
    interrupted = InterruptFlag()
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
            attempt = _begin(folder, begun[-1] if begun else 0, interrupted, clock)
            if attempt is not None:
                break
        # Another process runs it (two people submitted, or a node came back): let it finish (``jobs.attempt``).
        if interrupted():
            return PAUSED
        clock.sleep(POLL_S)
    status = _work(task, storage, attempt, interrupted, clock)
    return _post_stage(task, storage, interrupted) if status == DONE else status


def take_over(folder: Path, *, after: int, by: str, interrupted: Callable[[], bool]) -> int | None:
    """Continue another task, in this process, as the attempt that follows ``after``; returns an exit status.

    None when another process was first. ``by`` is the id of the task whose process this is, kept in start.json. The
    task's record holds until this attempt has one of its own to put in its place.
    """
    attempt = begin_after(folder, after, provenance(), by=by)
    if attempt is None:
        return None
    return _work(Task.read(folder), Storage(folder.parent.parent), attempt, interrupted)


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


def _begin(folder: Path, after: int, interrupted: Callable[[], bool], clock: Clock) -> Attempt | None:
    """Begin the attempt next to ``after``, once the storage has room for it.

    None when asked to stop meanwhile, or where another process has begun it.
    """
    budget = WaitBudget(interrupted, clock=clock)
    while True:
        try:
            plain_folder(folder / "attempts")
            return begin_after(folder, after, provenance(), clock=clock)
        except OSError as error:
            if not is_transient(error) or not (budget.wait(folder) or interrupted()):
                raise
        if interrupted():
            return None


def _work(
    task: Task, storage: Storage, attempt: Attempt, interrupted: Callable[[], bool], clock: Clock = SYSTEM
) -> int:
    """Attempt the task; when the storage is full, wait for room and continue as the next attempt."""
    budget = WaitBudget(interrupted, clock=clock)
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
    """An exit status; None when the storage was full for a while and has room again."""
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
        context.log(f"stopped: {error}")
        _end(context, state="superseded", message=str(error))
        return PAUSED
    except Exception as error:  # noqa: BLE001 - the edge: whatever went wrong becomes the record
        if is_transient(error):
            return _wait_for_space(context, error, budget)
        return _failed(context, error)
    _end(context, state="done")
    return DONE


def _check_needs(context: Context) -> None:
    missing = [need for need in context.task.needs if not is_done(context.storage, need)]
    if missing:
        raise TaskFailedError("upstream failed", f"needs {', '.join(missing)}, not done on {context.storage.root}")


def _wait_for_space(context: Context, error: Exception, budget: WaitBudget) -> int | None:
    """Wait for room on the storage: None once there is some, else an exit status."""
    reason = describe_error(error, context.storage.root)
    context.log(f"waiting for room: {reason}")
    there_is_room = budget.wait(context.folder)
    if not there_is_room and not context.interrupted():
        return _failed(context, error)
    _end(context, state="paused", message=reason)
    return None if there_is_room else PAUSED


def _failed(context: Context, error: Exception) -> int:
    of_storage = describe_error(error, context.storage.root)
    cause, message, details = _cause(error)
    if of_storage:
        cause, message, details = "error", of_storage, {}
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
        _record(context, state="failed", outcome=outcome, cause=cause, message=message)
        _end(context, state="failed", cause=cause, message=message)
        if cause == "error":
            circuit_breaker.note_failure(context.task.id, cause, message)
    except OSError as fault:
        # The storage is full or away: the log and the exit status are all that is left.
        context.log(f"the failure could not be recorded: {describe_error(fault, context.storage.root) or fault}")
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
        about=replace(provenance(), peak_mb=peak_mb()),
        made=made(outcome.units),
    ).write(context.storage)


def _end(context: Context, *, state: str, cause: str | None = None, message: str | None = None) -> None:
    now = context.clock.now()
    # On a full storage this is left out: the attempt's outcome does not depend on it.
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
