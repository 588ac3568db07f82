"""What a stage is given while it runs: its folder, its attempt, the request to stop, its progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from jobs.attempt import Attempt
from jobs.storage import Storage, open_plain
from jobs.task import Task

PROGRESS_EVERY_S = 2.0


class TaskFailedError(Exception):
    """The task ends as failed for a known cause, one of ``jobs.record.CAUSES``."""

    def __init__(self, cause: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.cause = cause
        self.details = details


class TaskInterruptedError(Exception):
    """The stage saved what it had because it was asked to stop; it wants to be started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a stage leaves behind: the files that make it whole, and its figures for the record."""

    files: tuple[Path, ...]
    result: Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Context:
    """Handed to every stage. ``interrupted`` turns true when Slurm (or a person) wants the task to stop."""

    task: Task
    storage: Storage
    folder: Path
    attempt: Attempt
    interrupted: Callable[[], bool] = lambda: False
    cpus: int = 1
    _written: float = field(default=0.0, init=False)

    def progress(self, *, force: bool = False, **facts: Any) -> None:
        """Replace progress.json with these facts, at most every 2 s unless forced.

        Known keys: ``phase``, ``done`` and ``total`` (of ``unit``), ``rate`` (units a second), ``left_s``,
        ``epoch``, ``epochs``. Not synced: a lost one costs nothing.
        """
        now = time.monotonic()
        if not force and now - self._written < PROGRESS_EVERY_S:
            return
        self._written = now
        temporary = self.folder / f".progress.{self.attempt.number}.tmp"
        # A full storage must not end a run for this: what has to be written will tell.
        with suppress(OSError):
            with open_plain(temporary, "wb") as file:
                file.write(orjson.dumps({"updated": time.time(), "attempt": self.attempt.number, **facts}))
            temporary.replace(self.folder / "progress.json")

    def say(self, message: str) -> None:
        """A line for the task's log."""
        with suppress(OSError):  # the log is on the storage too
            print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)
