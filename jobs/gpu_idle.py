"""The end of a task whose GPU does nothing: recorded from outside, with what the task was doing, then killed.

Its process may stand in a call that no handler of Python's gets through to. It is stopped first: between the look at
its record and the kill it can publish nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jobs import gpu_use
from jobs.attempt import START, Attempt, history
from jobs.context import Progress, read_progress
from jobs.storage import Storage
from jobs.task import Cause, Provenance, Record, Task, is_done, read_record
from sharedfs.clock import SYSTEM
from sharedfs.documents import read_as

IDLE: Cause = "GPU idle"
STACK_S = 0.5  # in which a process prints where it stands


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleRule:
    """After how many minutes below how many percent a task is ended; 0 minutes: never."""

    minutes: float = 0
    below: float = 1.0

    def is_over(self, idle_s: float) -> bool:
        return 0 < 60 * self.minutes <= idle_s


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleTask:
    """A task's process of so many cores, whose GPU did nothing for ``idle_s``, in which it used ``cpu_s`` of them."""

    folder: Path
    pid: int
    cpus: int
    idle_s: float
    cpu_s: float


def end_idle(task: IdleTask, rule: IdleRule, say: Callable[[str], None]) -> bool:
    """End a task as ``GPU idle``, with what it was doing; False where it is over, or the storage away."""
    folder, pid = task.folder, task.pid
    message = _idle_words(task, rule, read_progress(folder))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # which ends this process: it must leave none stopped
    try:
        os.kill(pid, signal.SIGUSR1)  # it prints where its threads stand (``jobs.__main__``)
        time.sleep(STACK_S)
        os.kill(pid, signal.SIGSTOP)
        recorded = False
        try:
            recorded = _record_idle(folder, pid, message)
        except OSError as error:
            say(f"{folder.name} is idle, which could not be recorded: {error}")
        finally:
            os.kill(pid, signal.SIGKILL if recorded else signal.SIGCONT)
    except ProcessLookupError:  # it ended by itself
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if recorded:
        say(f"{folder.name} ended: {message}")
    return recorded


def _idle_words(task: IdleTask, rule: IdleRule, progress: Progress | None) -> str:
    doing = ["no progress reported yet"] if progress is None or progress.phase is None else [progress.phase]
    if progress is not None and progress.epoch:
        doing.append(f"epoch {progress.epoch} of {progress.epochs}")
    cores = task.cpu_s / task.idle_s
    how = "it computed on the CPU or prepared data" if cores >= 0.5 else "it waited for the storage, or hung"
    return (
        f"its GPU was under {rule.below:g} % for {task.idle_s / 60:.0f} minutes ({', '.join(doing)}); its process used "
        f"{cores:.1f} of {task.cpus} cores: {how}; the log has where it stood"
    )


def _record_idle(folder: Path, pid: int, message: str) -> bool:
    """Record the failure of the attempt that this process makes; False where that is over already."""
    attempts = history(folder)
    if not attempts or attempts[-1].pid != pid or attempts[-1].ended is not None:
        return False
    own, storage, now = attempts[-1], Storage(folder.parent.parent), SYSTEM.now()
    record = read_record(folder)
    if record is not None and record.attempt == own.number:
        return False
    attempt = Attempt(folder, own.number)
    if is_done(storage, folder.name):  # it was done and is continued: it still has its result
        attempt.end(state="failed", ended=now, cause=IDLE, message=message)
        return True
    Record(
        id=folder.name,
        stage=Task.read(folder).stage,
        state="failed",
        cause=IDLE,
        message=message,
        started=attempts[0].started or now,
        ended=now,
        running_s=sum(each.ran_s for each in attempts),
        attempt=own.number,
        former_attempts=own.number - len(attempts),
        about=read_as(Provenance, attempt.path / START, "an attempt"),
        gpu=gpu_use.total(each.gpu for each in attempts),
    ).write(storage)
    attempt.end(state="failed", ended=now, cause=IDLE, message=message)
    return True
