"""This process, one path after the other: for debugging, where a breakpoint stops and Ctrl-C is heard."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from slurm.array import Array, Site, Submitted, array_id
from slurm.element import AGAIN, OK, STORAGE
from slurm.job_state import DONE, FAILED, GONE, RUNNING, WAITING, JobIdentity, JobState

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
class Inline:
    """The ``inline`` executor: see ``slurm.executors.Executor``; ``submit`` returns when all is over.

    ``entry`` runs one path and returns its exit status. After 75 (a person asked to stop) no more is started.
    """

    entry: Callable[[Path], int]
    _states: RecordedStates = field(default_factory=RecordedStates)
    _stopped: bool = False

    def submit(self, array: Array) -> Submitted:
        ids = self._states.add(array)
        for index, (id_, paths) in enumerate(zip(ids, array.elements, strict=True)):
            if not self._stopped and not array.held and self._states.ready(array, index):
                with _environment(array.environment):
                    self._run(id_, paths)
        return Submitted(ids=ids)

    def _run(self, id_: str, paths: tuple[Path, ...]) -> None:
        began = time.time()
        self._states.set(id_, state=RUNNING, started=began)
        codes = [self.entry(path) for path in paths]
        ended = {"ended": time.time(), "elapsed_s": time.time() - began}
        if AGAIN in codes:
            self._stopped = True
            self._states.set(id_, state=WAITING, reason="saved and stopped; submit again to go on")
        elif all(code == OK for code in codes):
            self._states.set(id_, state=DONE, exit_code=0, **ended)
        else:
            cause = "storage" if {*codes} <= {OK, STORAGE} else "error"
            self._states.set(id_, state=FAILED, cause=cause, exit_code=max(codes), **ended)

    def states(self, ids: Iterable[str], *, sent: Mapping[str, JobIdentity] | None = None) -> Mapping[str, JobState]:
        del sent
        return self._states.of(ids)

    def cancel(self, ids: Iterable[str]) -> None:
        self._states.cancel(ids)

    def hold(self, ids: Iterable[str]) -> None:
        """Nothing waits here: what can be started has been."""

    def release(self, ids: Iterable[str]) -> None:
        """Nothing waits here: submit again what was held."""

    def scripts(self, array: Array) -> tuple[str, ...]:
        """The commands that do the same in a process of their own, one a line for each path."""
        return (array.command_lines,)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def make(*, folder: Path, site: Site, entry: Callable[[Path], int] | None) -> Inline:
    """Called by ``slurm.executors.make``; raises ValueError without an entry."""
    del folder, site
    if entry is None:
        raise ValueError("the inline executor needs an entry: what runs one path in this process")
    return Inline(entry)
