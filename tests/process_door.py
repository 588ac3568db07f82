"""The system as virtual processes have it: files, time, signals, children, in place of the machine's own.

Whatever is written passes ``Machine.door``, whatever is read ``Machine.look``; files get the virtual time.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from virtual_processes import Machine

from jobs import attempt
from sharedfs import lock
from sharedfs.clock import SystemClock
from slurm import element

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class _Popen:
    """A child of an element, as ``slurm.element`` starts one: what runs in it is the machine's to say."""

    def __init__(self, machine: Machine, work: Callable[[list[str]], Callable[[], int | None]], command: list[str],
                 env: dict[str, str]) -> None:  # fmt: skip
        owner = machine.current
        assert owner is not None
        path = Path(command[-1])
        self.process = machine.start(f"{owner.name}:{path.name[:6]}", owner.host, work(command), environment=env)
        self.process.facts |= {"command": command, "element": owner}
        machine.note(f"starts {self.process.name}")
        self.pid, self.returncode = self.process.pid, None

    def wait(self, limit_s: float | None = None) -> int | None:
        return self.process.code


@contextmanager
def as_processes(
    machine: Machine, work: Callable[[list[str]], Callable[[], int | None]], run: Callable[..., Any]
) -> Iterator[None]:
    """For the block, what asks the system for time, files, processes and signals gets the machine's answers.

    ``work`` is what a child of an element does, by its command; ``run`` answers for Slurm's programs.
    """
    opened, closing = io.open, ExitStack()

    def stamp(path: Any) -> None:
        with suppress(OSError):
            real["utime"](path, (machine.now, machine.now))

    def written(kind: str, function: Callable[..., Any], target: int) -> Callable[..., Any]:
        def passed(*given: Any, **more: Any) -> Any:
            if machine.current is None or more.get("dir_fd") is not None:
                return function(*given, **more)
            machine.door(kind, given[target])
            done = function(*given, **more)
            if kind == "mkdir":
                stamp(given[target])
            stamp(os.path.dirname(given[target]))  # noqa: PTH120 - as fast as may be
            machine.watching = True
            machine.on_write(kind, str(given[target]))
            machine.watching = False
            return done

        return passed

    def open_number(path: Any, flags: int, *given: Any, **more: Any) -> int:
        if machine.current is None or more.get("dir_fd") is not None:
            return real["open"](path, flags, *given, **more)
        if not flags & _WRITES:
            machine.look()
            return real["open"](path, flags, *given, **more)
        machine.door("open", path)
        number = real["open"](path, flags, *given, **more)
        stamp(number)
        return number

    def open_file(file: Any, mode: str = "r", *given: Any, **more: Any) -> Any:
        if machine.current is not None and set(mode) & set("wxa+") and isinstance(file, str | Path):
            machine.door("open", file)
        return opened(file, mode, *given, **more)

    def utime(path: Any, times: Any = None, **more: Any) -> None:
        if times is None and "ns" not in more:
            times = (machine.now, machine.now)
        real["utime"](path, times, **more)

    def wait4(pid: int, options: int) -> tuple[int, int, Any]:
        process = machine.processes[pid]
        if not process.over:
            return 0, 0, None
        code = process.code or 0
        return pid, (-code if code < 0 else code << 8), SimpleNamespace(ru_maxrss=100_000)

    def element_sleep(seconds: float) -> None:
        process = machine.current
        assert process is not None
        process.wakes_early = True
        busy = any(not child.over for child in process.children)
        machine.pause(0.05 if not busy else 2.0 if process.facts.get("signalled") else 3600.0)
        process.wakes_early = False

    def kill(pid: int, number: int) -> None:
        process = machine.processes.get(pid)
        if process is None or process.over:
            raise ProcessLookupError
        machine.send(process, number)

    def set_handler(number: int, handler: Any) -> Any:
        process = machine.current
        if process is None:
            return real_signal(number, handler)

        def handle(came: int, frame: Any) -> None:
            process.facts["signalled"] = True
            handler(came, frame)

        process.handlers[int(number)] = handle if callable(handler) else handler
        return None

    real = {name: getattr(os, name) for name in ("open", "utime")}
    real_signal, real_pid = signal.signal, os.getpid
    fake_element = SimpleNamespace(
        Popen=lambda command, env=None, **_: _Popen(machine, work, list(command), env),
        run=run, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired,
        SubprocessError=subprocess.SubprocessError,
    )  # fmt: skip
    clocks = SimpleNamespace(
        sleep=element_sleep, monotonic=lambda: machine.now, time=lambda: machine.now,
        strftime=lambda form: time.strftime(form, time.gmtime(machine.now)),
    )  # fmt: skip
    changes: list[tuple[Any, str, Any]] = [
        *((os, name, written(name, getattr(os, name), target)) for name, target in _DOORS),
        (os, "open", open_number), (os, "utime", utime), (os, "fsync", stamp), (os, "wait4", wait4), (os, "kill", kill),
        (io, "open", open_file),
        (os, "getpid", lambda: machine.current.pid if machine.current else real_pid()),
        (socket, "gethostname", lambda: machine.current.host if machine.current else "login"),
        (signal, "signal", set_handler),
        (uuid, "uuid4", lambda: uuid.UUID(int=machine.names.getrandbits(128))),
        (SystemClock, "now", lambda _: machine.now), (SystemClock, "monotonic", lambda _: machine.now),
        (SystemClock, "sleep", lambda _, seconds: machine.pause(seconds)),
        (SystemClock, "on", lambda _, folder: machine.now),
        (lock, "heartbeat", machine.heartbeat),
        (attempt, "_is_process", lambda pid, started: machine.find(socket.gethostname(), pid) is not None),
        (element, "subprocess", fake_element), (element, "time", clocks),
    ]  # fmt: skip
    with closing:
        for owner, name, value in changes:
            closing.enter_context(patch.object(owner, name, value))
        try:
            yield
        finally:
            machine.close()


_DOORS = (("mkdir", 0), ("rename", 1), ("replace", 1), ("unlink", 0), ("rmdir", 0), ("symlink", 1), ("link", 1))


def fresh(root: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    return root
