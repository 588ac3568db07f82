"""One task's state in a few words, as people read it in status, while it is watched, and in answers."""

from __future__ import annotations

from datetime import datetime

from jobs.context import Progress
from pipeline.decisions.task_state import TaskState
from sharedfs.clock import SYSTEM, Clock


def describe(state: TaskState) -> str:
    """In a few words: how far it is, why it failed, or what it waits for."""
    if state.progress:
        return progress_words(state.progress)
    if state.cause:
        message = (state.message or "").splitlines()
        return f"{state.cause}: {message[0]}" if message else state.cause
    words = state.message or "; ".join(state.changed) or state.reason or ""
    planned = planned_start(state)
    return words if planned is None else f"{words}; planned for {planned}"


def planned_start(state: TaskState, clock: Clock = SYSTEM) -> str | None:
    """When Slurm plans to start what waits, by this machine's time: ``22:14``, on another day ``2026-11-28 03:05``.

    None where it has planned nothing, or for a time that is over.
    """
    now = clock.now()
    return None if state.planned_start is None or state.planned_start <= now else time_words(state.planned_start, clock)


def time_words(when: float, clock: Clock = SYSTEM) -> str:
    """A time by this machine's clock, with the date where it is another day's."""
    at, today = (datetime.fromtimestamp(each).astimezone() for each in (when, clock.now()))
    return f"{at:%H:%M}" if at.date() == today.date() else f"{at:%Y-%m-%d %H:%M}"


def progress_words(progress: Progress) -> str:
    """A stage's progress: phase, epoch, share, rate and time left, as far as they are known."""
    parts = [] if progress.phase is None else [progress.phase]
    if progress.epoch and progress.epochs:
        parts.append(f"epoch {progress.epoch}/{progress.epochs}")
    if progress.total:
        parts.append(f"{100 * (progress.done or 0) / progress.total:.0f} %")
    if progress.rate:
        parts.append(f"{progress.rate:,.0f} {progress.unit or 'items'}/s")
    if progress.left_s is not None:
        minutes, seconds = divmod(int(progress.left_s), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return ", ".join(parts)
