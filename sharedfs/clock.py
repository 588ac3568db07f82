"""What time it is, and how to wait: handed in, so that a test can own time; and the time by the storage's own clock."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sharedfs.files import touch


class Clock(Protocol):
    """Time as code here reads it and lets it pass."""

    def now(self) -> float:
        """Seconds since the epoch, by this node."""

    def monotonic(self) -> float:
        """Seconds since some moment, which nobody sets back."""

    def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""

    def on(self, folder: Path) -> float:
        """Seconds since the epoch by the clock of the storage that ``folder`` is on; raises OSError."""


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's own."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def on(self, folder: Path) -> float:
        # The times of files are the file server's. Nodes' clocks are seconds, at bad sites minutes, away from it, so
        # a file's age is the difference to one touched now and never to this node's time.
        probe = folder / f".now-{uuid.uuid4().hex[:12]}"
        touch(probe)
        try:
            return probe.stat().st_mtime
        finally:
            with suppress(OSError):  # a leftover is hidden and empty
                probe.unlink()


SYSTEM: Clock = SystemClock()


def storage_time(folder: Path, clock: Clock = SYSTEM) -> float:
    """What the time is for files in ``folder``: by this node's clock for a person who may not write there."""
    try:
        return clock.on(folder)
    except OSError:
        return clock.now()
