"""Which failures deserve another try, and with what changed."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.decisions.task_state import TaskState

MEMORY_FACTOR = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How to try again: with more memory, or away from a node."""

    reason: str
    memory_factor: float = 1.0
    exclude: str | None = None


# Tried again for as long as every start gets further, whatever the budget.
RESUMED = frozenset({"time limit", "preempted too often"})
# The same again would end the same: a person has to change something, or wanted it so.
FINAL = frozenset({"error", "GPU out of memory", "cancelled", "diverged", "at chance"})


def retry_of(state: TaskState, *, tries: int, retries: int, progressed: bool, memory_raised: bool) -> Retry | None:
    """Whether a task that ended as ``state`` is tried again.

    ``tries`` counts how often it was submitted, ``progressed`` says that the last try got further than the one
    before, ``memory_raised`` that it had 1.5 times the memory already.
    """
    if state.state not in ("failed", "lost"):
        return None
    cause = state.cause
    if cause in FINAL:
        return None
    if cause in RESUMED and progressed:
        return Retry(reason=f"{cause}, and it made progress")
    if tries > retries:
        return None
    if cause == "out of memory":
        return None if memory_raised else Retry(reason=cause, memory_factor=MEMORY_FACTOR)
    if cause in ("node failure", "no GPU"):
        return Retry(reason=cause, exclude=state.node)
    return Retry(reason=cause or state.state)


def made_progress(*, started: float | None, saved: float | None) -> bool:
    """Whether an attempt that started then left a newer checkpoint than it found; None where there is none of it."""
    return started is not None and saved is not None and saved >= started
