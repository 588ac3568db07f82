"""What is tried again: every cause a task can end by, with the budget left or spent, with progress or without."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.task import CAUSES
from pipeline.decisions.retry import FINAL, MEMORY_FACTOR, Retry, retry_of
from pipeline.decisions.task_state import STATES, TaskState

MORE_MEMORY = Retry(reason="out of memory", memory_factor=1.5)
AWAY = Retry(reason="node failure", exclude="n3")
LONGER = Retry(reason="time limit, and it made progress")
PREEMPTED = Retry(reason="preempted too often, and it made progress")


def _again(cause: str) -> Retry:
    return Retry(reason=cause, memory_factor=1.0, exclude=None)


# With retries: 2 a task is submitted three times, so after three tries only progress buys another.
# cause, then what follows: within the budget without progress, within it with progress, spent without, spent with
TABLE: dict[str | None, tuple[Retry | None, Retry | None, Retry | None, Retry | None]] = {
    "error": (None, None, None, None),
    "GPU out of memory": (None, None, None, None),
    "GPU idle": (None, None, None, None),
    "cancelled": (None, None, None, None),
    "diverged": (None, None, None, None),
    "at chance": (None, None, None, None),
    "out of memory": (MORE_MEMORY, MORE_MEMORY, None, None),
    "time limit": (_again("time limit"), LONGER, None, LONGER),
    "preempted too often": (_again("preempted too often"), PREEMPTED, None, PREEMPTED),
    "node failure": (AWAY, AWAY, None, None),
    "no GPU": (replace(AWAY, reason="no GPU"), replace(AWAY, reason="no GPU"), None, None),
    "GPU failure": (replace(AWAY, reason="GPU failure"), replace(AWAY, reason="GPU failure"), None, None),
    "storage": (replace(AWAY, reason="storage"), replace(AWAY, reason="storage"), None, None),
    "upstream failed": (_again("upstream failed"), _again("upstream failed"), None, None),
    "killed": (_again("killed"), _again("killed"), None, None),
    None: (_again("failed"), _again("failed"), None, None),
}
CASES = [
    pytest.param(cause, tries, progressed, expected, id=f"{cause}, try {tries}, {'' if progressed else 'no '}progress")
    for cause, (within, within_and_progressed, spent, spent_and_progressed) in TABLE.items()
    for tries, progressed, expected in (
        (1, False, within),
        (2, False, within),
        (2, True, within_and_progressed),
        (3, False, spent),
        (3, True, spent_and_progressed),
        (9, True, spent_and_progressed),
    )
]


def _decide(state: TaskState, tries: int = 1, progressed: bool = False, memory_raised: bool = False) -> Retry | None:
    return retry_of(state, tries=tries, retries=2, progressed=progressed, memory_raised=memory_raised)


def _failed(cause: str | None) -> TaskState:
    return TaskState(id="x", state="failed", cause=cause, node="n3")


def test_every_cause_is_in_the_table() -> None:
    assert TABLE.keys() == {*CAUSES, None}
    assert {cause for cause, expected in TABLE.items() if not any(expected)} == FINAL


@pytest.mark.parametrize(("cause", "tries", "progressed", "expected"), CASES)
def test_a_failed_task(cause: str | None, tries: int, progressed: bool, expected: Retry | None) -> None:
    assert _decide(_failed(cause), tries, progressed) == expected


@pytest.mark.parametrize("cause", TABLE)
def test_more_memory_than_the_raised_one_is_not_tried(cause: str | None) -> None:
    """That the memory was raised counts after `out of memory` alone."""
    expected = None if cause == "out of memory" else TABLE[cause][0]
    assert _decide(_failed(cause), memory_raised=True) == expected


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_the_budget_is_the_manifests(retries: int) -> None:
    last, spent = (
        retry_of(_failed("killed"), tries=tries, retries=retries, progressed=False, memory_raised=False)
        for tries in (retries, retries + 1)
    )
    assert (last, spent) == (_again("killed"), None)


@pytest.mark.parametrize("progressed", [False, True])
def test_a_lost_task_has_no_cause(progressed: bool) -> None:
    lost = TaskState(id="x", state="lost", node="n3")
    assert _decide(lost, 2, progressed) == _again("lost")
    assert _decide(lost, 3, progressed) is None


@pytest.mark.parametrize("cause", TABLE)
@pytest.mark.parametrize("state", [state for state in STATES if state not in ("failed", "lost")])
def test_what_has_not_ended_badly_is_left_alone(state: str, cause: str | None) -> None:
    assert _decide(TaskState(id="x", state=state, cause=cause), progressed=True) is None


def test_a_node_that_is_not_known_cannot_be_kept_away_from() -> None:
    assert _decide(TaskState(id="x", state="failed", cause="node failure")) == _again("node failure")


@pytest.mark.parametrize("cause", TABLE)
@pytest.mark.parametrize(("tries", "within"), [(1, True), (3, False)])
def test_what_shared_a_gpu_that_broke_or_was_full_is_tried_alone(cause: str | None, tries: int, within: bool) -> None:
    expected = TABLE[cause][0 if within else 2]
    if cause == "GPU out of memory" and within:
        expected = Retry(reason="GPU out of memory", alone=True)
    if cause == "GPU failure" and within:
        expected = Retry(reason="GPU failure", exclude="n3", alone=True)
    given = retry_of(_failed(cause), tries=tries, retries=2, progressed=False, memory_raised=False, packed=True)
    assert given == expected


def test_memory_is_raised_by_half() -> None:
    assert MEMORY_FACTOR == 1.5
