"""Trials that were cut short and are not tried again: their searches go on without them, or with what they had."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from jobs.attempt import Attempt, history
from jobs.record import Record, is_done, read_record
from jobs.search.trial import continuation
from jobs.storage import Storage
from pipeline.plan import Plan, Planned
from pipeline.retry import Retry
from pipeline.states import TaskState

GIVEN_UP = "trials that it waited for are given up"


def release(plan: Plan, states: Mapping[str, TaskState], mine: Collection[str]) -> dict[str, Retry]:
    """Record trials among ``mine`` that can't tell their end as failed; what may now be tried again without them.

    A process that was killed writes no record, and as long as a trial has none, its search has no winner. Where a
    stopped trial was being continued, that attempt is ended, and the trial's record holds. ``mine`` are tasks that
    nobody tries again.
    """
    storage = Storage(plan.manifest.storage)
    given_up = {planned.id for planned in plan.tasks if _is_lost(planned, states, storage) and planned.id in mine}
    for task in given_up:
        _give_up(storage, states[task])
    freed: dict[str, Retry] = {}
    for planned in plan.tasks:
        waited = given_up.intersection(planned.after) or freed.keys() & set(planned.task.needs)
        if waited and states[planned.id].cause == "upstream failed":
            freed[planned.id] = Retry(reason=GIVEN_UP)
    return freed


def _is_lost(planned: Planned, states: Mapping[str, TaskState], storage: Storage) -> bool:
    if planned.stage != "trial" or states[planned.id].state not in ("failed", "lost"):
        return False
    folder = storage.run(planned.id)
    try:
        record = read_record(folder)
        return record is None or continuation(folder, record) is not None
    except ValueError:
        return True


def _give_up(storage: Storage, state: TaskState) -> None:
    folder = storage.run(state.id)
    attempts = history(folder)
    now = time.time()
    if is_done(storage, state.id):
        last = Attempt(folder, int(attempts[-1]["number"]))
        last.end(state="failed", ended=attempts[-1].get("last_sign") or now, message="cut short, and was given up")
        return
    Record(
        id=state.id,
        stage="trial",
        state="failed",
        cause=state.cause or "node failure",
        message=state.message or "it ended without a record, and was given up",
        started=float(attempts[0].get("started", now)) if attempts else now,
        ended=now,
        running_s=sum(_ran_s(attempt) for attempt in attempts),
        attempt=int(attempts[-1]["number"]) if attempts else 0,
    ).write(storage)


def _ran_s(attempt: Mapping[str, Any]) -> float:
    return max(0.0, float(attempt.get("last_sign") or 0.0) - float(attempt.get("started") or 0.0))
