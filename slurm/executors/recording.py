"""Runs nothing and remembers everything it was asked: for tests, and to see what would happen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slurm.answers import Sent
from slurm.array import Array, Submitted
from slurm.recorded_states import RecordedStates
from slurm.site import Site
from slurm.states import WAITING, JobState


@dataclass(slots=True)
class Recording:
    """The ``recording`` executor: see ``slurm.executors.Executor``. ``room`` is how many elements it still takes."""

    room: int | None = None
    arrays: list[Array] = field(default_factory=list)
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    _states: RecordedStates = field(default_factory=RecordedStates)

    def submit(self, array: Array) -> Submitted:
        self.arrays.append(array)
        fits = len(array.elements) if self.room is None else min(self.room, len(array.elements))
        ids = self._states.add(array, fits)
        if self.room is not None:
            self.room -= fits
        rest = (None,) * (len(array.elements) - fits)
        return Submitted(ids=(*ids, *rest), refused="there is no more room" if rest else None, calls=1)

    def states(self, ids: Iterable[str], *, sent: Mapping[str, Sent] | None = None) -> Mapping[str, JobState]:
        del sent
        return self._states.of(ids)

    def cancel(self, ids: Iterable[str]) -> None:
        self._remember("cancel", ids)
        self._states.cancel(self.asked[-1][1])

    def hold(self, ids: Iterable[str]) -> None:
        self._remember("hold", ids)
        self._say(self.asked[-1][1], "JobHeldUser")

    def release(self, ids: Iterable[str]) -> None:
        self._remember("release", ids)
        self._say(self.asked[-1][1], None)

    def scripts(self, array: Array) -> tuple[str, ...]:
        lines = [" ".join([*array.command, str(path)]) for paths in array.elements for path in paths]
        return ("\n".join(lines) + "\n",)

    def pretend(self, id_: str, **facts: object) -> None:
        """From now on an element's state has these facts."""
        self._states.set(id_, **facts)

    def _remember(self, what: str, ids: Iterable[str]) -> None:
        self.asked.append((what, tuple(ids)))

    def _say(self, ids: Iterable[str], reason: str | None) -> None:
        for id_, state in self._states.of(ids).items():
            if state.state == WAITING:
                self._states.set(id_, reason=reason)


def make(*, folder: Path, site: Site, entry: Callable[[Path], int] | None) -> Recording:
    """Called by ``slurm.executors.make``."""
    del folder, site, entry
    return Recording()
