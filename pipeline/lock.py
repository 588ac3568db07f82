"""One process at a time, on any node: a lock on shared storage, held by exclusive creation of a folder."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.storage import claim, plain_folder

HEARTBEAT_S = 10.0


class Lock:
    """A lock that this process holds; ``heartbeat`` keeps others from taking it for stale."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inode = folder.stat().st_ino
        self._last = time.monotonic()

    def heartbeat(self) -> None:
        """To be called at least every few minutes; touches the folder at most every 10 s."""
        if time.monotonic() - self._last > HEARTBEAT_S:
            self._last = time.monotonic()
            os.utime(self.folder)

    def release(self) -> None:
        """Remove the folder, unless somebody took the lock for stale and holds it by now."""
        with suppress(FileNotFoundError):
            if self.folder.stat().st_ino == self._inode:
                self.folder.rmdir()


@contextmanager
def exclusive(folder: Path, *, stale_s: float) -> Iterator[Lock | None]:
    """Hold ``folder`` as a lock for the block; None at once when another process holds it.

    One without a heartbeat for ``stale_s`` is taken over: its holder was killed.
    """
    if not _take(folder, stale_s):
        yield None
        return
    lock = Lock(folder)
    try:
        yield lock
    finally:
        lock.release()


def _take(folder: Path, stale_s: float) -> bool:
    plain_folder(folder.parent)
    if claim(folder):
        return True
    try:
        if _age_s(folder) < stale_s:
            return False
        # Of any number who find it stale, exactly one can rename it.
        stale = _temporary(folder)
        folder.rename(stale)
        stale.rmdir()
    except FileNotFoundError:
        return False
    return claim(folder)


def _age_s(folder: Path) -> float:
    """By the storage's clock on both sides: a new folder beside it says what time it is there."""
    probe = _temporary(folder)
    probe.mkdir()
    try:
        return probe.stat().st_mtime - folder.stat().st_mtime
    finally:
        probe.rmdir()


def _temporary(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
