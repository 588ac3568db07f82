"""A lock on shared storage: a folder that exactly one process makes, kept alive by a heartbeat, broken when that stops.

    LOCK/holder.json        who holds it: host, pid, user, since when
    LOCK/alive-<token>      touched every 10 s; its age, by the storage's clock, says whether the holder lives

``mkdir`` is exclusive on every file system that nodes share, NFS included, where ``flock`` is not to be relied on
(it may be local to a node). Whoever finds the heartbeat older than ``STALE_S`` renames the folder away, and of any
number who try exactly one succeeds, then takes the lock as if it were free. A holder that was merely slow (a
suspended node) finds the token gone and is told so when it leaves: it has not removed another's lock.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sharedfs.clock import SYSTEM, Clock
from sharedfs.documents import read_json, write_json
from sharedfs.files import claim, plain_folder, touch
from sharedfs.typed_json import Undecodable, decode

BEAT_S = 10.0
STALE_S = 60.0
POLL_S = 0.2
PATIENCE_S = 3.0  # a wait is told once it is longer than this


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock; ``since`` in seconds since the epoch."""

    host: str
    pid: int
    user: str
    since: float

    def __str__(self) -> str:
        return f"{self.user} (process {self.pid} on {self.host})"


@contextmanager
def hold(folder: Path, *, say: Callable[[str], None] = lambda _message: None, clock: Clock = SYSTEM) -> Iterator[None]:
    """Hold the lock for the block, after whoever has it; ``say`` is told whom this waits for. Raises OSError."""
    began, told = clock.monotonic(), False
    while (token := _take(folder, clock)) is None:
        if not told and clock.monotonic() - began > PATIENCE_S:
            told = True
            say(f"waiting for {holder(folder) or 'another process'}, who holds {folder}")
        clock.sleep(POLL_S)
    with _held(folder, token):
        yield


@contextmanager
def try_hold(folder: Path, *, clock: Clock = SYSTEM) -> Iterator[bool]:
    """Hold the lock for the block; False at once when another process holds it. Raises OSError."""
    token = _take(folder, clock)
    if token is None:
        yield False
        return
    with _held(folder, token):
        yield True


def holder(folder: Path) -> Holder | None:
    """Who holds a lock; None for nobody, or nobody that can be read."""
    try:
        return decode(Holder, read_json(folder / "holder.json"))
    except (OSError, ValueError, Undecodable):
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


def _take(folder: Path, clock: Clock) -> str | None:
    """Take a lock that is free or whose holder is dead; the token of it, or None."""
    plain_folder(folder.parent)
    if not claim(folder) and not (_is_stale(folder, clock) and _broken(folder) and claim(folder)):
        return None
    token = uuid.uuid4().hex[:12]
    touch(folder / f"alive-{token}")
    me = Holder(host=socket.gethostname(), pid=os.getpid(), user=getpass.getuser(), since=clock.now())
    with suppress(OSError):  # for people to read: the lock does not depend on it
        write_json(folder / "holder.json", me)
    return token


def _is_stale(folder: Path, clock: Clock) -> bool:
    try:
        beats = [path.stat().st_mtime for path in folder.glob("alive-*")]
        last = max(beats) if beats else folder.stat().st_mtime  # its holder was killed before the first beat
    except FileNotFoundError:
        return False  # left this moment
    return clock.on(folder.parent) - last > STALE_S


def _broken(folder: Path) -> bool:
    """Move a dead holder's lock out of the way; False when another process was first."""
    aside = folder.with_name(f".{folder.name}-stale-{uuid.uuid4().hex[:12]}")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return False
    shutil.rmtree(aside, ignore_errors=True)  # where its holder's umask forbids it, a hidden folder is left
    return True


@contextmanager
def _held(folder: Path, token: str) -> Iterator[None]:
    alive = folder / f"alive-{token}"
    try:
        # Not ``touch``, which makes the file: were the lock another's by now, that would claim it.
        with heartbeat(lambda: os.utime(alive, follow_symlinks=False)):
            yield
    finally:
        if alive.exists():  # else it was broken while this process slept, and what stands there is another's
            aside = folder.with_name(f".{folder.name}-left-{token}")
            folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
