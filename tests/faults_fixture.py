"""The fixture ``broken``, a file system whose operations fail as a test says; and ``handlers``, those of signals."""

from __future__ import annotations

import builtins
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clock_fixture import OwnClock

from sharedfs import faults, files


@dataclass
class Faults:
    """Between the code and the file system: the next ``left`` calls of one operation on a path below ``root`` fail."""

    root: Path
    clock: OwnClock
    operation: str = ""
    number: int = 0
    left: int = 0
    only: str = ""  # a part of the paths concerned

    def begin(self, operation: str, number: int, left: int, only: str = "") -> None:
        self.operation, self.number, self.left, self.only = operation, number, left, only

    def strike(self, operation: str, path: object, *, names: bool = True) -> None:
        text = str(Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else path)
        if operation != self.operation or self.left <= 0 or str(self.root) not in text or self.only not in text:
            return
        self.left -= 1
        error = OSError(self.number, os.strerror(self.number))
        if names:
            error.filename = text
        raise error

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._wrap(monkeypatch, "replace", "replace")
        self._wrap(monkeypatch, "rename", "replace")
        self._wrap(monkeypatch, "mkdir", "mkdir")
        self._wrap(monkeypatch, "scandir", "listdir")
        self._wrap(monkeypatch, "fsync", "fsync", names=False)
        self._wrap(monkeypatch, "read", "read", names=False)
        system_open, plain_open = os.open, builtins.open

        def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
            self.strike("open", path)
            return system_open(path, flags, *more, **named)

        def opened_file(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            file: Any = plain_open(path, mode, *more, **named)
            if "r" not in mode:
                write = file.write

                def write_some(text: bytes) -> int:
                    try:
                        self.strike("write", path, names=False)
                    except OSError:
                        write(text[: len(text) // 2])
                        file.flush()
                        raise
                    return int(write(text))

                file.write = write_some
            return file

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(files, "open", opened_file, raising=False)
        memmap = np.memmap

        def mapped(path: Any, *more: Any, **named: Any) -> Any:
            self.strike("read", path)
            return memmap(path, *more, **named)

        monkeypatch.setattr(np, "memmap", mapped)
        monkeypatch.setattr(faults._Patience, "sleep", self.clock.sleep)
        monkeypatch.setattr(faults._Patience, "monotonic", self.clock.monotonic)
        monkeypatch.setattr(faults._Patience, "spent", False)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, name: str, operation: str, *, names: bool = True) -> None:
        system: Callable[..., Any] = getattr(os, name)

        def call(path: Any, *more: Any, **named: Any) -> Any:
            self.strike(operation, path, names=names)
            return system(path, *more, **named)

        monkeypatch.setattr(os, name, call)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    made = Faults(root=tmp_path, clock=OwnClock())
    made.install(monkeypatch)
    return made


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Leave the signal handlers as they were."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
