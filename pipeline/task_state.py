"""Where a planned task stands, as status tells it and the report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STATES = ("waiting", "running", "done", "failed", "lost", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """One task's state; ``cause`` is one of ``jobs.record.CAUSES`` where it failed, ``job`` is Slurm's id."""

    id: str
    state: str
    cause: str | None = None
    message: str | None = None
    attempts: int = 0
    gpu_hours: float | None = None
    progress: Mapping[str, Any] | None = None
    job: str | None = None
    reason: str | None = None
    node: str | None = None
    peak_mem_gb: float | None = None
    waited_s: float | None = None
    executor: str | None = None
    mine: bool = True  # its element, if it has one, is this user's to cancel, release or wait for
    queued: bool = False  # live in an executor's queue, so that submitting again would run it twice
