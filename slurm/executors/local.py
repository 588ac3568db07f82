"""Processes on this machine, looked after by a detached supervisor: the caller may end, or its terminal close."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slurm.array import Array, Site, Submitted
from slurm.job_ids import base, index
from slurm.local_queue import LocalQueue
from slurm.output import Sent
from slurm.query import GONE, RUNNING, WAITING, JobState


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """The ``local`` executor: see ``slurm.executors.Executor``. Ids are unique in ``folder``, one user's."""

    folder: Path

    @property
    def _queue(self) -> LocalQueue:
        return LocalQueue(self.folder.absolute())

    def submit(self, array: Array) -> Submitted:
        number = self._queue.add(array)
        return Submitted(ids=tuple(f"{number}_{place}" for place in range(len(array.elements))))

    def states(self, ids: Iterable[str], *, sent: Mapping[str, Sent] | None = None) -> Mapping[str, JobState]:
        del sent
        asked = list(dict.fromkeys(ids))
        if not asked or not (self.folder / "arrays").exists():
            return {id_: _gone(id_) for id_ in asked}
        queue = self._queue
        # Looked at before the states are read: a supervisor writes the last of them before it ends.
        supervised = queue.supervised()
        known = queue.states()
        arrays = set(queue.numbers())
        return {id_: _state(id_, known.get(id_), int(base(id_)) in arrays, supervised) for id_ in asked}

    def cancel(self, ids: Iterable[str]) -> None:
        self._queue.order("cancel", list(ids))

    def hold(self, ids: Iterable[str]) -> None:
        self._queue.order("hold", list(ids))

    def release(self, ids: Iterable[str]) -> None:
        self._queue.order("release", list(ids))

    def scripts(self, array: Array) -> tuple[str, ...]:
        """The commands that would be run, one a line for each path."""
        lines = [" ".join([*array.command, str(path)]) for paths in array.elements for path in paths]
        return ("\n".join(lines) + "\n",)


def _state(id_: str, facts: dict[str, Any] | None, queued: bool, supervised: bool) -> JobState:
    if facts is None:
        if queued and supervised and index(id_) is not None:
            return JobState(id=id_, state=WAITING, said="PENDING")
        return _gone(id_)
    pid = facts.pop("pid")
    state = JobState(**facts)
    alive = pid is not None and Path(f"/proc/{pid}").exists()
    if supervised or state.over or (state.state == RUNNING and alive):
        return state
    return replace(state, state=GONE, reason="its supervisor was killed; submit again")


def _gone(id_: str) -> JobState:
    return JobState(id=id_, state=GONE, reason="not in this machine's queue")


def make(*, folder: Path, site: Site, entry: Callable[[Path], int] | None) -> LocalProcesses:
    """Called by ``slurm.executors.make``."""
    del site, entry
    return LocalProcesses(folder)
