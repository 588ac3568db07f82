"""When a task that waits is planned to start, in words."""

from __future__ import annotations

from datetime import datetime

import pytest
from clock_fixture import OwnClock

from pipeline.decisions.task_state import TaskState
from pipeline.state_words import describe, planned_start

NOW = datetime(2026, 11, 27, 21, 30).timestamp()


@pytest.mark.parametrize(("planned", "words"), [
    (datetime(2026, 11, 27, 22, 14).timestamp(), "22:14"),
    (datetime(2026, 11, 28, 3, 5).timestamp(), "2026-11-28 03:05"),
    (NOW - 60, None),  # Slurm's plan is older than what happened since
    (None, None),
])  # fmt: skip
def test_a_planned_start_is_a_time_of_this_machine(planned: float | None, words: str | None) -> None:
    state = TaskState(id="t", state="waiting", reason="Priority", planned_start=planned)
    assert planned_start(state, OwnClock(began=NOW)) == words


def test_what_waits_says_why_and_until_when() -> None:
    state = TaskState(id="t", state="waiting", reason="Resources")
    assert describe(state) == "Resources"
