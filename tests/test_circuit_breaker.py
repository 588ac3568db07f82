"""The circuit breaker: what holds a task, and what must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.circuit_breaker import ERROR, hold, note_failure
from jobs.storage import Storage
from jobs.task import RECORD, TASK, Record, Task

MINE = Task(stage="train", settings={"architecture": "mlp", "seed": 1})


def _canary(storage: Storage, architecture: str = "mlp", state: str = "failed") -> Task:
    canary = Task(stage="train", settings={"architecture": architecture, "seed": 0})
    canary.write(storage)
    Record(
        id=canary.id, stage="train", state=state, cause="error", message="no such column",  # type: ignore[arg-type]
        started=1.0, ended=2.0, running_s=1.0, attempt=1,
    ).write(storage)  # fmt: skip
    return canary


@pytest.mark.parametrize(
    ("architecture", "state", "damaged", "held"),
    [
        ("mlp", "failed", None, True),
        ("cnn", "failed", None, False),
        ("mlp", "done", None, False),
        ("mlp", "done", TASK, False),
        ("mlp", "failed", TASK, False),
        ("mlp", "failed", RECORD, False),
    ],
)
def test_a_canary_that_failed_holds_its_architecture(
    tmp_path: Path, architecture: str, state: str, damaged: str | None, held: bool
) -> None:
    storage = Storage(tmp_path)
    canary = _canary(storage, architecture, state)
    MINE.write(storage)
    for content in (None, "{}", "x") if damaged else (None,):
        if damaged and content is None:
            (storage.run(canary.id) / damaged).unlink()
        elif damaged and content is not None:
            (storage.run(canary.id) / damaged).write_text(content)
        reason = hold(MINE, storage, {"TANDA_CANARIES": f"{canary.id},{MINE.id}"})
        assert reason == (f"the canary {canary.id} failed (error): no such column" if held else None)


def test_a_canary_does_not_hold_itself(tmp_path: Path) -> None:
    canary = _canary(Storage(tmp_path))
    assert hold(canary, Storage(tmp_path), {"TANDA_CANARIES": canary.id}) is None


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (None, "/data/one.csv:7: no column 'title' in it"),
        ("{}", "its message can't be read (PATH: not an error: cause: is missing)"),
        ("", "its message can't be read (PATH: not a JSON document"),
    ],
)
def test_an_error_that_comes_again_holds_the_group_and_is_shown(tmp_path: Path, stored: str | None, shown: str) -> None:
    storage = Storage(tmp_path)
    MINE.write(storage)
    environment = {"TANDA_SUBMISSION": str(tmp_path), "TANDA_GROUP": "g", "TANDA_BRAKE_AFTER": "2"}
    for number, task in enumerate(("one", "two"), start=1):
        assert hold(MINE, storage, environment) is None
        note_failure(task, "error", f"/data/{task}.csv:{6 + number}: no column 'title'\nin it", environment)
    (file,) = tmp_path.glob(f"failures/g/*/{ERROR}")
    if stored is not None:
        file.write_text(stored)
    reason = hold(MINE, storage, environment)
    assert reason is not None
    assert reason.startswith(f"the same error ended 2 tasks of this group: {shown.replace('PATH', str(file))}")
