"""This process, one path after the other: for debugging, where a breakpoint stops and Ctrl-C is heard."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from slurm.array import Array, Site, Submitted
from slurm.element import AGAIN, OK
from slurm.executors.recording import RecordedStates
from slurm.job_state import DONE, FAILED, RUNNING, WAITING, JobIdentity, JobState


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
            self._states.set(id_, state=FAILED, cause="error", exit_code=max(codes), **ended)

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
