"""The states of elements that are kept in this process alone."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from slurm.array import Array
from slurm.identifiers import base
from slurm.states import DONE, FAILED, GONE, WAITING, JobState


@dataclass(slots=True)
class RecordedStates:
    """Numbers arrays from 1 and keeps the state of every element."""

    _arrays: int = 0
    _states: dict[str, JobState] = field(default_factory=dict)

    def add(self, array: Array, count: int | None = None) -> tuple[str, ...]:
        """Take up an array's first ``count`` elements as waiting; their ids."""
        self._arrays += 1
        ids = tuple(f"{self._arrays}_{place}" for place in range(len(array.elements) if count is None else count))
        reason = "JobHeldUser" if array.held else None
        for id_ in ids:
            self._states[id_] = JobState(id=id_, state=WAITING, said="PENDING", reason=reason, submitted=time.time())
        return ids

    def set(self, id_: str, **facts: object) -> None:
        self._states[id_] = replace(self._states[id_], **facts)  # type: ignore[arg-type]

    def of(self, ids: Iterable[str]) -> dict[str, JobState]:
        """The states of these elements; one that was never taken up is gone."""
        gone = "never submitted here"
        return {id_: self._states.get(id_, JobState(id=id_, state=GONE, reason=gone)) for id_ in ids}

    def cancel(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            if id_ in self._states and not self._states[id_].over:
                self.set(id_, state=FAILED, said="CANCELLED", cause="cancelled", ended=time.time())

    def ready(self, array: Array, place: int) -> bool:
        """Whether what an element waits for lets it start; cancels it where that can never be."""
        for dependency in array.after:
            jobs = (dependency.jobs[place],) if dependency.way == "aftercorr" else dependency.jobs
            waited = [state for job in jobs if job for state in self._members(job)]
            if not all(state.over for state in waited):
                return False
            if dependency.way != "afterany" and any(state.state != DONE for state in waited):
                self.cancel([f"{self._arrays}_{place}"])
                return False
        return True

    def _members(self, job: str) -> list[JobState]:
        return [state for id_, state in self._states.items() if id_ == job or base(id_) == job]
