"""Runs nothing and records everything it was asked: for tests, and to see what would happen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from slurm.array import Array, Site, Submitted, array_id
from slurm.job_state import DONE, FAILED, GONE, WAITING, JobIdentity, JobState

# The states of elements that are kept in this process alone.


@dataclass(slots=True)
class RecordedStates:
    """Numbers arrays from 1 and keeps the state of every element."""

    _arrays: int = 0
    _states: dict[str, JobState] = field(default_factory=dict)

    def add(self, array: Array, count: int | None = None) -> tuple[str, ...]:
        """Add an array's first ``count`` elements as waiting; their ids."""
        self._arrays += 1
        ids = tuple(f"{self._arrays}_{index}" for index in range(len(array.elements) if count is None else count))
        reason = "JobHeldUser" if array.held else None
        for id_ in ids:
            self._states[id_] = JobState(id=id_, state=WAITING, reason=reason, submitted=time.time())
        return ids

    def set(self, id_: str, **facts: object) -> None:
        self._states[id_] = replace(self._states[id_], **facts)  # type: ignore[arg-type]

    def of(self, ids: Iterable[str]) -> dict[str, JobState]:
        """The states of these elements; one that was never added is gone."""
        gone = "never submitted here"
        return {id_: self._states.get(id_, JobState(id=id_, state=GONE, reason=gone)) for id_ in ids}

    def cancel(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            if id_ in self._states and not self._states[id_].over:
                self.set(id_, state=FAILED, cause="cancelled", ended=time.time())

    def ready(self, array: Array, index: int) -> bool:
        """Whether what an element waits for lets it start; cancels it where that can never be."""
        for dependency in array.after:
            jobs = (dependency.jobs[index],) if dependency.way == "aftercorr" else dependency.jobs
            waited = [state for job in jobs if job for state in self._members(job)]
            if not all(state.over for state in waited):
                return False
            if dependency.way != "afterany" and any(state.state != DONE for state in waited):
                self.cancel([f"{self._arrays}_{index}"])
                return False
        return True

    def _members(self, job: str) -> list[JobState]:
        return [state for id_, state in self._states.items() if id_ == job or array_id(id_) == job]


@dataclass(slots=True)
class Recording:
    """The ``recording`` executor: see ``slurm.executors.Executor``. ``room`` is how many elements it still takes."""

    room: int | None = None
    arrays: list[Array] = field(default_factory=list)
    orders: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    _states: RecordedStates = field(default_factory=RecordedStates)

    def submit(self, array: Array) -> Submitted:
        self.arrays.append(array)
        fits = len(array.elements) if self.room is None else min(self.room, len(array.elements))
        ids = self._states.add(array, fits)
        if self.room is not None:
            self.room -= fits
        rest = (None,) * (len(array.elements) - fits)
        return Submitted(ids=(*ids, *rest), refused="there is no more room" if rest else None, calls=1)

    def states(self, ids: Iterable[str], *, sent: Mapping[str, JobIdentity] | None = None) -> Mapping[str, JobState]:
        del sent
        return self._states.of(ids)

    def cancel(self, ids: Iterable[str]) -> None:
        self._states.cancel(self._record("cancel", ids))

    def hold(self, ids: Iterable[str]) -> None:
        self._set_reason(self._record("hold", ids), "JobHeldUser")

    def release(self, ids: Iterable[str]) -> None:
        self._set_reason(self._record("release", ids), None)

    def scripts(self, array: Array) -> tuple[str, ...]:
        return (array.command_lines,)

    def pretend(self, id_: str, **facts: object) -> None:
        """From now on an element's state has these facts."""
        self._states.set(id_, **facts)

    def _record(self, order: str, ids: Iterable[str]) -> tuple[str, ...]:
        self.orders.append((order, tuple(ids)))
        return self.orders[-1][1]

    def _set_reason(self, ids: Iterable[str], reason: str | None) -> None:
        for id_, state in self._states.of(ids).items():
            if state.state == WAITING:
                self._states.set(id_, reason=reason)


def make(*, folder: Path, site: Site, entry: Callable[[Path], int] | None) -> Recording:
    """Called by ``slurm.executors.make``."""
    del folder, site, entry
    return Recording()
