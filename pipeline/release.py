"""Trials that were cut short and are not tried again: their searches go on without them, or with what they had."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from jobs.attempt import Attempt, history
from jobs.record import Record, is_done, read_record
from jobs.search.trial import continuation
from jobs.storage import Storage
from pipeline.states import TaskState


def unrecorded_trials(storage: Storage, trials: Iterable[str]) -> frozenset[str]:
    """Those of these trials that have no record which can be read, or that were being continued from theirs."""
    return frozenset(trial for trial in trials if not _is_recorded(storage, trial))


def _is_recorded(storage: Storage, trial: str) -> bool:
    folder = storage.run(trial)
    try:
        record = read_record(folder)
        return record is not None and continuation(folder, record) is None
    except ValueError:
        return False


def record_lost_trial(storage: Storage, state: TaskState) -> None:
    """Record a trial that could not say its end as failed.

    A process that was killed writes no record, and as long as a trial has none, its search has no winner. Where a
    stopped trial was being continued, that attempt is ended, and the trial's record holds.
    """
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
