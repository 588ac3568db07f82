"""An executor that runs nothing and records what it was asked; under the same contract tests as the real ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from slurm.array import Array, Submitted
from slurm.executors.inline import RecordedStates
from slurm.job_state import WAITING, JobIdentity, JobState


@dataclass(slots=True)
class Recording:
    """See ``slurm.executors.Executor``; ``room`` is how many elements it still takes."""

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
