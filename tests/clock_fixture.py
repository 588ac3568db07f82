"""A clock that a test owns."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from sharedfs.clock import SYSTEM, SystemClock


@dataclass(frozen=True)
class OwnClock(SystemClock):
    """Time as a test wants it: it passes only while somebody sleeps; ``ahead`` is how much the storage's clock is.

    ``asked`` are the folders whose storage was asked for its time.
    """

    began: float = field(default_factory=time.time)
    passed: list[float] = field(default_factory=list)
    asked: list[Path] = field(default_factory=list)
    ahead: float = 0.0

    def now(self) -> float:
        return self.began + self.monotonic()

    def monotonic(self) -> float:
        return sum(self.passed)

    def sleep(self, seconds: float) -> None:
        self.passed.append(seconds)

    def on(self, folder: Path) -> float:
        self.asked.append(folder)
        return SYSTEM.on(folder) + self.ahead
