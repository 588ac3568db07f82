"""What `tanda why` says of a failure: its cause, each attempt, and always what to do."""

from __future__ import annotations

import pytest

from jobs.attempt import AttemptFacts
from jobs.task import CAUSES
from pipeline.decisions.task_state import TaskState
from pipeline.why import REMEDIES, failure_lines


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_has_a_remedy_of_its_own(cause: str) -> None:
    lines = failure_lines("train", TaskState(id="t", state="failed", cause=cause, message="why"), [])
    assert lines == [f"cause: {cause}: why", f"what to do: {REMEDIES[cause]}".replace("STAGE", "train")]
    assert [known for known, remedy in REMEDIES.items() if remedy == REMEDIES[cause]] == [cause]


def test_a_remedy_names_the_stage_to_change() -> None:
    lines = failure_lines("evaluate", TaskState(id="t", state="failed", cause="time limit"), [])
    assert lines[0] == "cause: time limit"
    assert lines[-1].startswith("what to do: raise `resources: {evaluate: {time_min: ...}}`")


def test_a_lost_task_is_submitted_again() -> None:
    lines = failure_lines("train", TaskState(id="t", state="lost", message="gone"), [])
    assert lines == ["cause: unknown: gone", "what to do: submit again: it resumes from what was saved"]


def test_each_attempt_says_where_and_how_it_ended() -> None:
    attempts = [
        AttemptFacts(number=1, host="n1", state="failed", cause="error"),
        AttemptFacts(number=2, host="n2", state="paused"),
        AttemptFacts(number=3),
    ]
    lines = failure_lines("train", TaskState(id="t", state="failed", cause="killed"), attempts)
    assert lines[1:-1] == [
        "attempt 1 on n1: failed (error)",
        "attempt 2 on n2: paused",
        "attempt 3 on ?: ended without a record",
    ]
