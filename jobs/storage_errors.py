"""When the storage takes nothing more: which errors those are, what to say of them, and waiting until it does again."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# A disk that fills up is often emptied again soon; a node is not held for longer than this, all waits of a task added.
PATIENCE_S = 300.0
POLL_S = 5.0
PROBE = bytes(1 << 20)

_PASSING = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
}
_REFUSED = {errno.EACCES, errno.EPERM}


def is_transient(error: BaseException) -> bool:
    """Whether the storage is full or read-only for now: the same may go well once there is room."""
    return _number(error) in _PASSING


def describe(error: BaseException, root: Path) -> str | None:
    """One line for an error of the storage (or of a file that may not be read): what, where, and what to do.

    None for every other error.
    """
    number = _number(error)
    where = getattr(error, "filename", None) or root
    if number in _PASSING:
        advice = "`tanda gc` lists what can go" if number != errno.EROFS else "mount it for writing"
        return (
            f"{where}: {_PASSING[number]}; what was saved is kept: {advice}, then `tanda submit` again goes on from it"
        )
    if number == errno.ELOOP and isinstance(error, OSError):
        return f"{where}: {error.strerror}"
    if number in _REFUSED:
        return f"{where}: user {os.getuid()} may not do that here; grant it, then `tanda submit` again goes on"
    return None


class WaitBudget:
    """How much waiting for room is left to this process."""

    def __init__(self, interrupted: Callable[[], bool], total_s: float | None = None) -> None:
        self._interrupted = interrupted
        self._left_s = PATIENCE_S if total_s is None else total_s

    def wait(self, folder: Path) -> bool:
        """Wait until something can be written to the folder again; False when asked to stop, or out of patience."""
        while self._left_s > 0 and not self._interrupted():
            began = time.monotonic()
            time.sleep(min(POLL_S, self._left_s))
            writable = _writable(folder)
            self._left_s -= time.monotonic() - began
            if writable:
                return True
        return False


def _number(error: BaseException) -> int | None:
    for fault in (error, error.__cause__):
        if isinstance(fault, OSError):
            # numpy tells of a full disk in words alone.
            short = fault.errno is None and " requested and " in str(fault) and str(fault).endswith("written")
            return errno.ENOSPC if short else fault.errno
    return None


def _writable(folder: Path) -> bool:
    probe = folder / f".room-{uuid.uuid4().hex[:12]}.tmp"
    try:
        with probe.open("xb") as file:
            file.write(PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return True
