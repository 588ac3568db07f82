"""What a stage is given while it runs: its folder, its attempt, the request to stop, its progress, cores and GPUs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path

import orjson

from jobs.attempt import Attempt
from jobs.storage import Storage
from jobs.task import Cause, Task
from jobs.units import Unit
from sharedfs.clock import SYSTEM, Clock
from sharedfs.documents import read_as
from sharedfs.files import open_plain
from sharedfs.typed_json import Json

PROGRESS = "progress.json"
PROGRESS_EVERY_S = 2.0


class TaskFailedError(Exception):
    """The task ends as failed for a known cause."""

    def __init__(self, cause: Cause, message: str, **details: Json) -> None:
        super().__init__(message)
        self.cause = cause
        self.details = details


class TaskInterruptedError(Exception):
    """The stage saved what it had because it was asked to stop; it wants to be started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a stage leaves behind: the files that make it whole, its figures, the units of code that decided them."""

    files: tuple[Path, ...]
    result: Mapping[str, Json]
    units: tuple[Unit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a task is: ``done`` of ``total`` (of ``unit``), at ``rate`` units a second, with ``left_s`` to go.

    ``updated`` is when that was, in seconds since the epoch, by the attempt of that number. None is what is not known.
    """

    updated: float | None = None
    attempt: int | None = None
    phase: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    done: int | None = None
    total: int | None = None
    unit: str | None = None
    rate: float | None = None
    left_s: float | None = None

    @property
    def document(self) -> dict[str, Json]:
        """What is known of it, as it is stored."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def read_progress(folder: Path) -> Progress | None:
    """How far the task of this folder is; None where nothing can be read of it."""
    try:
        return read_as(Progress, folder / PROGRESS, "a progress")
    except (OSError, ValueError):  # it is for people to read: nothing is decided by it
        return None


@dataclass(slots=True, kw_only=True)
class Context:
    """Handed to every stage.

    ``interrupted`` turns true when Slurm (or a person) wants the task to stop; ``started`` is when this attempt did.
    """

    task: Task
    storage: Storage
    folder: Path
    attempt: Attempt
    interrupted: Callable[[], bool] = lambda: False
    cpus: int = 1
    clock: Clock = SYSTEM
    started: float = field(default_factory=SYSTEM.now)
    _written: float = field(default=0.0, init=False)

    def progress(self, progress: Progress, *, force: bool = False) -> None:
        """Replace progress.json, at most every 2 s unless forced; not synced, as a lost one costs nothing."""
        now = self.clock.monotonic()
        if not force and now - self._written < PROGRESS_EVERY_S:
            return
        self._written = now
        dated = replace(progress, updated=self.clock.now(), attempt=self.attempt.number)
        temporary = self.folder / f".progress.{self.attempt.number}.tmp"
        # A full storage must not end a run for this; writes that the result needs still fail.
        with suppress(OSError):
            with open_plain(temporary, "wb") as file:
                file.write(orjson.dumps(dated.document))
            temporary.replace(self.folder / PROGRESS)

    def log(self, message: str) -> None:
        """Print a line to the task's log."""
        with suppress(OSError):  # the log is on the storage too
            print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


# What this process was allotted, by what its environment says; nothing is asked of a driver here.


def allotted_cpus() -> int:
    """The cores this process may use: what Slurm allotted, never more than the scheduler lets it run on."""
    allowed = len(os.sched_getaffinity(0))
    requested = os.environ.get("TANDA_CPUS") or os.environ.get("SLURM_CPUS_PER_TASK") or ""
    return min(allowed, int(requested)) if requested.isdigit() and int(requested) > 0 else allowed


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, by index or id; CUDA reads it up to the first that is none.

    Its twin is ``slurm.element.visible_gpus``: these two packages know nothing of each other.
    """
    names = (name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(","))
    # NoDevFiles is Slurm's name for none; a negative index is CUDA's.
    return list(takewhile(lambda name: name not in ("", "NoDevFiles") and not name.startswith("-"), names))


def shares_gpu(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether other tasks of this one's element compute on the same GPU (``slurm.element`` says how many do)."""
    count = environment.get("TANDA_GPU_TASKS", "")
    return count.isdigit() and int(count) > 1


def allotted_gpus(environment: Mapping[str, str] = os.environ) -> int | None:
    """How many GPUs this process was allotted; None where nothing says so, as in a shell.

    TANDA_GPUS is what the task's element was allotted. A site that allots GPUs by an option of its own leaves it at
    0 and names them in CUDA_VISIBLE_DEVICES.
    """
    counts = [int(count)] if (count := environment.get("TANDA_GPUS", "")).isdigit() else []
    if "CUDA_VISIBLE_DEVICES" in environment:
        counts.append(len(visible_gpus(environment)))
    return max(counts, default=None)
