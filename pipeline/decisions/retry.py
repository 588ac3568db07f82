"""Which failures deserve another try, and with what changed."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.decisions.task_state import TaskState

MEMORY_FACTOR = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How to try again: with more memory, away from a node, in an element of its own."""

    reason: str
    memory_factor: float = 1.0
    exclude: str | None = None
    alone: bool = False


# Tried again for as long as every start gets further, whatever the budget.
RESUMED = frozenset({"time limit", "preempted too often"})
# The same again would end the same: a person has to change something, or wanted it so.
FINAL = frozenset({"error", "GPU out of memory", "GPU idle", "cancelled", "diverged", "at chance"})
# The node is to blame, or its mount of the storage: tried again on another. The circuit breaker does not count these
# (``jobs.task.NODE_CAUSES``).
AWAY = frozenset({"node failure", "no GPU", "GPU failure", "storage"})


def retry_of(
    state: TaskState, *, tries: int, retries: int, progressed: bool, memory_raised: bool, packed: bool = False
) -> Retry | None:
    """Whether a task that ended as ``state`` is tried again.

    ``tries`` counts how often it was submitted, ``progressed`` says that the last try got further than the one
    before, ``memory_raised`` that it had 1.5 times the memory already, ``packed`` that it shared its element.
    """
    if state.state not in ("failed", "lost"):
        return None
    cause = state.cause
    # Who filled or broke a GPU that several shared is not known: each is tried again without the others.
    alone = packed and cause in ("GPU out of memory", "GPU failure")
    if cause in FINAL and not alone:
        return None
    if cause in RESUMED and progressed:
        return Retry(reason=f"{cause}, and it made progress")
    if tries > retries:
        return None
    if cause == "out of memory":
        return None if memory_raised else Retry(reason=cause, memory_factor=MEMORY_FACTOR)
    exclude = state.node if cause in AWAY else None
    return Retry(reason=cause or state.state, exclude=exclude, alone=alone)


def made_progress(*, started: float | None, saved: float | None) -> bool:
    """Whether an attempt that started then left a newer checkpoint than it found; None where there is none of it."""
    return started is not None and saved is not None and saved >= started
