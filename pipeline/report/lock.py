"""One process at a time, on any node, by exclusive creation of a folder."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.storage import claim, plain_folder

STALE_S = 300.0


class Held:
    """A lock that this process holds; ``alive`` keeps others from thinking it dead."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last = time.monotonic()

    def alive(self) -> None:
        """To be called at least every few minutes; touches the folder at most every 10 s."""
        if time.monotonic() - self._last > 10:
            self._last = time.monotonic()
            os.utime(self.folder)


@contextmanager
def exclusive(folder: Path) -> Iterator[Held | None]:
    """Hold ``folder`` as a lock for the block; None at once when another process holds it."""
    if not _take(folder):
        yield None
        return
    try:
        yield Held(folder)
    finally:
        folder.rmdir()


def _take(folder: Path) -> bool:
    plain_folder(folder.parent)
    if claim(folder):
        return True
    try:
        # The storage's clock on both sides: a fresh folder beside it says what time it is there.
        probe = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
        probe.mkdir()
        age = probe.stat().st_mtime - folder.stat().st_mtime
        probe.rmdir()
        if age < STALE_S:
            return False
        # Of any number who find it dead, exactly one can rename it.
        folder.rename(probe)
        probe.rmdir()
    except FileNotFoundError:
        return False
    return claim(folder)
