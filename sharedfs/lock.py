"""A lock on shared storage: a folder that one process puts there, kept alive by a heartbeat, broken when that stops.

    LOCK/alive-<token>.json   who holds it (host, pid, user, since when); touched every 10 s, and its age, by the
                              storage's clock, says whether the holder lives

The folder is made aside, with its file, and renamed into place, which fails where another is that is not empty: on
every file system that nodes share, NFS included, where ``flock`` is not to be relied on (it may be local to a node).
Whoever finds the file older than ``STALE_S`` removes it, and of any number who try exactly one succeeds: that one
renames its own folder into the place of the empty one. A holder that was merely slow (a suspended node) finds its
file gone as it leaves, and lets what is there now be: that is another's lock.
"""

from __future__ import annotations

import getpass
import math
import os
import shutil
import socket
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sharedfs.clock import SYSTEM, Clock
from sharedfs.documents import read_json, write_json
from sharedfs.errors import TandaError
from sharedfs.faults import patient
from sharedfs.files import check_plain, plain_folder, publish_folder
from sharedfs.typed_json import decode

BEAT_S = 10.0
STALE_S = 60.0
POLL_S = 0.2
PATIENCE_S = 3.0  # a wait that is longer is reported, once


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock; ``since`` in seconds since the epoch."""

    host: str
    pid: int
    user: str
    since: float

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since).astimezone().isoformat(sep=" ", timespec="seconds")
        return f"{self.user} (process {self.pid} on {self.host}, since {since})"


class LockLostError(TandaError):
    """This process slept for so long that another took the lock over."""


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that this process holds, by the file that keeps it alive."""

    alive: Path

    def check(self) -> None:
        """Raise LockLostError when another process has taken the lock over."""
        if not self.alive.exists():
            raise LockLostError(f"{self.alive.parent}: this process slept, and another took over; try again")


@contextmanager
def hold(
    folder: Path, *, report: Callable[[str], None] = lambda _message: None, clock: Clock = SYSTEM
) -> Iterator[Lock]:
    """Hold the lock for the block, after whoever has it; ``report`` gets a line on them. Raises OSError."""
    report_at = clock.monotonic() + PATIENCE_S
    while (alive := _take(folder, clock)) is None:
        if clock.monotonic() > report_at:
            report_at = math.inf
            report(f"waiting for {holder(folder) or 'another process'}, who holds {folder}")
        clock.sleep(POLL_S)
    with _held(alive):
        yield Lock(alive)


@contextmanager
def try_hold(folder: Path, *, clock: Clock = SYSTEM) -> Iterator[bool]:
    """Hold the lock for the block; False at once when another process holds it. Raises OSError."""
    alive = _take(folder, clock)
    if alive is None:
        yield False
        return
    with _held(alive):
        yield True


def holder(folder: Path) -> Holder | None:
    """Who holds a lock, for people to read; None where nobody does, or the file does not say."""
    try:
        return next((decode(Holder, read_json(alive)) for alive in folder.glob("alive-*.json")), None)
    except (OSError, ValueError):  # left this moment, or damaged: the lock does not depend on what is in it
        return None


@contextmanager
def heartbeat(beat: Callable[[], None]) -> Iterator[None]:
    """Call ``beat``, which touches a file, every 10 s from a thread, for as long as the block runs."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            # A storage that is full or away must not end the work: the next beat tries again.
            with suppress(OSError):
                beat()
            stop.wait(BEAT_S)

    thread = threading.Thread(target=repeat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@patient
def _take(folder: Path, clock: Clock) -> Path | None:
    """Take a lock that is free or whose holder is dead: the file that keeps it alive; None while another holds it."""
    plain_folder(folder.parent)
    if not _is_free(folder, clock):
        return None
    token = uuid.uuid4().hex[:12]
    made, alive = folder.with_name(f".{folder.name}-{token}"), f"alive-{token}.json"
    me = Holder(host=socket.gethostname(), pid=os.getpid(), user=getpass.getuser(), since=clock.now())
    made.mkdir()
    try:
        # Whoever may take locks here may also break this one, whatever this user's umask.
        made.chmod(stat.S_IMODE(folder.parent.stat().st_mode) & (stat.S_ISGID | 0o777))
        write_json(made / alive, me)
        return folder / alive if publish_folder(made, folder) else None
    finally:
        shutil.rmtree(made, ignore_errors=True)  # it is there where another process was first; else hidden and small


def _is_free(folder: Path, clock: Clock) -> bool:
    """Whether nobody holds the lock, once what a dead holder left of it is removed."""
    try:
        check_plain(folder)
        left = list(folder.iterdir())
        # Empty, it is a lock of an earlier version, or one that is being left.
        last = max(path.stat().st_mtime for path in left or [folder])
        if clock.on(folder.parent) - last <= STALE_S:
            return False
        for path in left:
            path.unlink()
    except FileNotFoundError:  # the folder: it is free; a file of it: another process was first
        return not folder.exists()
    return True


@contextmanager
def _held(alive: Path) -> Iterator[None]:
    try:
        # Not ``touch``, which makes the file: were the lock another's by now, that would claim it.
        with heartbeat(lambda: os.utime(alive, follow_symlinks=False)):
            yield
    finally:
        alive.unlink(missing_ok=True)  # missing, it was broken while this process slept
        with suppress(OSError):  # not empty: another has taken it meanwhile; gone: another took it, and left it
            alive.parent.rmdir()
