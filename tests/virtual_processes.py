"""Many processes on several hosts in one: each a greenlet with its own environment, signals and death; time is ours.

Whatever a process writes to the storage passes one door here. There it may be killed, put to sleep, or another may run
first, all drawn from one seed; a process that is dead can write nothing more, whatever its code still does as it
unwinds. Files get the virtual time.
"""

from __future__ import annotations

import errno
import heapq
import io
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenlet import getcurrent, greenlet

from sharedfs import lock

BEGAN = 1_800_000_000.0
BEAT_S = lock.BEAT_S
_TREE = {SIGNAL: signal.Signals(SIGNAL).name for SIGNAL in (signal.SIGUSR2, signal.SIGTERM, signal.SIGKILL)}


class ProcessDied(BaseException):
    """The process is gone: nothing of it runs from here on."""


@dataclass(eq=False)
class Process:
    """One process; ``code`` is its exit status once it is over, negative for a signal, ``end`` what it returned."""

    name: str
    host: str
    pid: int
    work: Callable[[], int | None]
    environment: dict[bytes, bytes]
    parent: Process | None = None
    over: bool = False
    code: int | None = None
    kill_at: int | None = None  # it is killed before its write of that number
    writes: int = 0
    umask: int = 0o022
    stalled_until: float = 0.0
    on_end: Callable[[Process], None] | None = None
    children: list[Process] = field(default_factory=list)
    handlers: dict[int, Any] = field(default_factory=dict)
    pending: list[int] = field(default_factory=list)
    beats: list[Callable[[], None]] = field(default_factory=list)
    stderr: io.StringIO = field(default_factory=io.StringIO)
    wakes_early: bool = False  # it sleeps until a child ends or a signal comes, at the latest
    turn: int = 0  # which of its wake-ups counts
    facts: dict[str, Any] = field(default_factory=dict)
    run: Any = None


class Machine:
    """The hosts, their processes, and time; ``jitter_s`` is how long a turn takes at most."""

    def __init__(self, seed: int, root: Path) -> None:
        self.root = root
        self.choose = random.Random(seed)
        self.names = random.Random(seed + 1)
        self.now = BEGAN
        self.switch_chance = 0.12
        self.full_until = 0.0
        self.watching = False  # what is done now is not the processes' doing
        self.current: Process | None = None
        self.processes: dict[int, Process] = {}
        self.lines: list[tuple[float, str, str]] = []
        self.crashes: list[str] = []
        self.on_write: Callable[[str, str], None] = lambda kind, path: None
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._pids = 1000
        self._hub = getcurrent()
        self._clean = dict(os.environ._data)  # type: ignore[attr-defined]

    # Time and turns.

    def note(self, text: str) -> None:
        self.lines.append((self.now, self.current.name if self.current else "world", text))

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Do something at a moment, outside of every process."""
        self._count += 1
        heapq.heappush(self._agenda, (moment, self._count, act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.at(self.now + seconds, act)

    def run_until(self, done: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until it is so; False where it is not so within the limit, or nothing is left to happen."""
        ends = self.now + limit_s
        while not done():
            if not self._agenda or self._agenda[0][0] > ends:
                return False
            moment, _, act = heapq.heappop(self._agenda)
            self.now = max(self.now, moment)
            act()
        return True

    # Processes.

    def start(
        self, name: str, host: str, work: Callable[[], int | None], *, environment: dict[str, str] | None = None,
        on_end: Callable[[Process], None] | None = None,
    ) -> Process:  # fmt: skip
        self._pids += 1
        own = {**self._clean, **{os.fsencode(key): os.fsencode(value) for key, value in (environment or {}).items()}}
        process = Process(
            name=name, host=host, pid=self._pids, work=work, environment=own, parent=self.current, on_end=on_end
        )
        if self.current is not None:
            self.current.children.append(process)
        self.processes[process.pid] = process
        process.run = greenlet(lambda: self._live(process), parent=self._hub)
        self.wake(process, self.choose.uniform(0.0, 0.5))
        return process

    def _live(self, process: Process) -> None:
        try:
            process.code = process.work() or 0
        except ProcessDied:
            pass
        except SystemExit as leaving:
            process.code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except Exception as error:  # noqa: BLE001 - a fault of what is tested: told at the end
            import traceback

            process.code = 1
            self.crashes.append(f"{process.name}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
        self._ended(process)

    def _ended(self, process: Process) -> None:
        if process.over:
            return
        process.over = True
        process.code = -signal.SIGKILL if process.code is None else process.code
        self.lines.append((self.now, process.name, f"ends with {process.code}"))
        if process.parent is not None and process.parent.wakes_early:
            self.wake(process.parent, 0.01)
        if process.on_end is not None:
            act = process.on_end
            self.after(0.0, lambda: act(process))

    def wake(self, process: Process, after_s: float) -> None:
        """Its next turn; an earlier appointment is void."""
        process.turn += 1
        turn = process.turn
        self.after(after_s, lambda: self._turn(process, turn))

    def _turn(self, process: Process, turn: int) -> None:
        if process.over or process.turn != turn:
            return
        if process.stalled_until > self.now:
            self.wake(process, process.stalled_until - self.now)
            return
        self._switch(process, process.run.switch)

    def _switch(self, process: Process, enter: Callable[[], object]) -> None:
        outer = (self.current, os.environ._data, sys.stderr, os.umask(process.umask))  # type: ignore[attr-defined]
        self.current = process
        os.environ._data = process.environment  # type: ignore[attr-defined]
        sys.stderr = process.facts.pop("stderr", process.stderr)
        try:
            enter()
        finally:
            process.facts["stderr"] = sys.stderr
            self.current, os.environ._data, sys.stderr = outer[:3]  # type: ignore[attr-defined]
            process.umask = os.umask(outer[3])

    def pause(self, seconds: float) -> None:
        """The current process gives up its turn for so long."""
        process = self.current
        assert process is not None
        self._check_alive(process)
        self.wake(process, seconds)
        self._hub.switch()
        self._check_alive(process)
        self._deliver(process)

    def _check_alive(self, process: Process) -> None:
        if process.over or process.code is not None:
            raise ProcessDied

    def kill(self, process: Process, code: int = -signal.SIGKILL) -> None:
        """kill -9, or another end by which nothing of it runs any more, its children left alone."""
        if process.over:
            return
        self.lines.append((self.now, process.name, f"is killed ({code})"))
        process.code = code
        process.beats.clear()
        if process is self.current:
            raise ProcessDied
        self._ended(process)
        self.after(0.0, lambda: self._unwind(process))

    def _unwind(self, process: Process) -> None:
        """Let the code of a dead process come to its end; every write of it is refused."""
        if process.run:  # else it never began, or has ended
            self._switch(process, lambda: process.run.throw(ProcessDied()))

    def close(self) -> None:
        """End whatever is left."""
        for process in list(self.processes.values()):
            process.code = -signal.SIGKILL if process.code is None else process.code
            process.over = True
            self._unwind(process)

    def kill_tree(self, process: Process, code: int = -signal.SIGKILL) -> None:
        for child in process.children:
            self.kill_tree(child, code)
        self.kill(process, code)

    def send(self, process: Process, number: int) -> None:
        """A signal; it is handled when the process has its next turn."""
        if process.over:
            return
        if number == signal.SIGKILL:
            self.kill(process)
            return
        process.pending.append(number)
        if process.wakes_early:
            self.wake(process, 0.01)

    def _deliver(self, process: Process) -> None:
        while process.pending:
            number = process.pending.pop(0)
            handler = process.handlers.get(number)
            self.note(f"hears {_TREE.get(number, number)}")
            if callable(handler):
                handler(number, None)
            elif handler != signal.SIG_IGN:
                process.code = -number
                raise ProcessDied

    def find(self, host: str, pid: int) -> Process | None:
        process = self.processes.get(pid)
        return process if process is not None and process.host == host and not process.over else None

    # The door.

    def door(self, kind: str, path: object) -> None:
        """Before anything is written: the process may end here, the disk be full, others be first."""
        process = self.current
        if process is None or self.watching:
            return
        self._check_alive(process)
        process.writes += 1
        if process.writes == process.kill_at:
            self.kill(process)
        self.now += 0.0005
        if self.choose.random() < self.switch_chance:
            self.pause(self.choose.expovariate(8.0))
        if self.now < self.full_until and kind in ("open", "mkdir"):
            self.note(f"{kind} {self.relative(path)}: no space")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.note(f"{kind} {self.relative(path)}")

    def look(self) -> None:
        """Before a file is read: others may be first."""
        process = self.current
        if process is not None and not self.watching:
            self._check_alive(process)
            if self.choose.random() < self.switch_chance / 4:
                self.pause(self.choose.expovariate(8.0))

    def relative(self, path: object) -> str:
        return str(path).replace(f"{self.root}/", "")

    # Heartbeats.

    @contextmanager
    def heartbeat(self, beat: Callable[[], None]) -> Iterator[None]:
        process = self.current
        if process is None:
            yield
            return
        process.beats.append(beat)
        self._beat(process, beat)
        try:
            yield
        finally:
            with suppress(ValueError):
                process.beats.remove(beat)

    def _beat(self, process: Process, beat: Callable[[], None]) -> None:
        if process.over or beat not in process.beats:
            return
        if process.stalled_until <= self.now:
            kept, self.current = self.current, None
            with suppress(OSError):
                beat()
            self.current = kept
        self.after(BEAT_S, lambda: self._beat(process, beat))
