"""One try at a task: numbered by exclusive creation, so that two processes can never both be the newest.

The protocol of attempts, whole. A task may be started twice: requeued, retried, submitted by two people, continued by
another trial's process. Those processes share nothing but the storage, and none may lock it: it could die with the
lock. So:

- The attempts at a task are the folders ``attempts/0001``, ``0002``, ... Number n begins by making its folder, which
  the file system grants to exactly one process on any node; start.json then says which (host, pid, when).
- While it works a thread touches ``alive`` every ``HEARTBEAT_S``. Missing for ``STALE_S``, six beats, the attempt is
  stale. Ages are differences between two times of the storage's clock, as nodes' clocks differ. On the attempt's own
  host its process is looked up instead, so that one that was killed is known at once.
- end.json says how it ended; a killed process leaves none.
- Whoever wants to run the task waits while the newest attempt is live, and takes over one that has ended or is stale
  by beginning the next number. Nothing is removed, and of several that try one succeeds.
- A process may only seem dead (its node was cut off) and go on beside its successor. Therefore every attempt looks for
  a newer number (``check``) before it publishes anything, and stops when there is one. That is no lock: between the
  look and the write lies a moment. What is then written is whole, from the same settings, and replaced by what the
  newer attempt writes.

The cost: a small write a task every 10 s, and up to a minute lost after a node that dies.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharedfs.documents import read_json, write_json
from sharedfs.files import claim, plain_folder, touch

HEARTBEAT_S = 10.0
STALE_S = 60.0
_NUMERIC = ("started", "ended", "last_sign", "running_s", "peak_mb", "gpus", "number", "pid")


class SupersededError(Exception):
    """A newer attempt at the same task has begun: this process must publish nothing more."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at the task in ``folder``; its own files are in ``path``, ``attempts/<n>``."""

    folder: Path
    number: int

    @property
    def path(self) -> Path:
        return self.folder / "attempts" / f"{self.number:04d}"

    def check(self) -> None:
        """Raise SupersededError when a newer attempt has begun."""
        if Attempt(self.folder, self.number + 1).path.exists():
            raise SupersededError(f"attempt {self.number + 1} has taken over from attempt {self.number}")

    def end(self, **facts: Any) -> None:
        """Write how the attempt ended."""
        write_json(self.path / "end.json", {"ended": time.time(), **facts})

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Touch ``alive`` every 10 s from a thread, for as long as the block runs."""
        stop = threading.Event()
        alive = self.path / "alive"

        def touch_until_stopped() -> None:
            while not stop.is_set():
                # A storage that is full or away must not end the work: the next beat tries again.
                with suppress(OSError):
                    touch(alive)
                stop.wait(HEARTBEAT_S)

        thread = threading.Thread(target=touch_until_stopped, name="alive", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def begin(folder: Path, facts: Mapping[str, Any]) -> Attempt:
    """Begin the next attempt; the caller has made sure that the one before is over (see ``live``)."""
    plain_folder(folder / "attempts")
    number = len(numbers(folder))
    while (attempt := begin_after(folder, number, facts)) is None:
        number += 1
    return attempt


def begin_after(folder: Path, after: int, facts: Mapping[str, Any]) -> Attempt | None:
    """Begin the attempt next to ``after``; None when another process has begun it."""
    attempt = Attempt(folder, after + 1)
    if not claim(attempt.path):
        return None
    start = {
        "number": attempt.number,
        "started": time.time(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        **facts,
    }
    try:
        write_json(attempt.path / "start.json", start)
    except OSError:
        # Left behind, a number that nobody began would keep others from going on.
        shutil.rmtree(attempt.path, ignore_errors=True)
        raise
    return attempt


def numbers(folder: Path) -> list[int]:
    """The numbers of all attempts begun so far, in order."""
    try:
        with os.scandir(f"{folder}/attempts") as entries:
            return sorted(int(entry.name) for entry in entries if entry.name.isdigit())
    except FileNotFoundError:
        return []


def history(folder: Path) -> list[dict[str, Any]]:
    """Every attempt as one mapping (start and end facts together), oldest first; ``ended`` may be missing.

    ``last_sign`` is the time of its last heartbeat.
    """
    attempts = []
    for number in numbers(folder):
        path = Attempt(folder, number).path
        facts: dict[str, Any] = {"number": number}
        for name in ("start.json", "end.json"):
            facts.update(_read_facts(path / name))
        try:
            facts["last_sign"] = (path / "alive").stat().st_mtime
        except FileNotFoundError:
            facts["last_sign"] = facts.get("started")
        attempts.append(facts)
    return attempts


def ran_s(facts: Mapping[str, Any]) -> float:
    """How long an attempt of ``history`` ran: until its end, or its last heartbeat where it left none."""
    started, ended = facts.get("started"), facts.get("ended") or facts.get("last_sign")
    return max(0.0, float(ended) - float(started)) if started and ended else 0.0


def newest(folder: Path) -> dict[str, Any]:
    """The newest attempt, as in ``history``; empty when none has begun."""
    attempts = history(folder)
    return attempts[-1] if attempts else {}


def _read_facts(path: Path) -> dict[str, Any]:
    """The content of an attempt's file; empty when it is missing or damaged."""
    try:
        document = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(document, dict):
        return {}
    numeric = (document.get(name, 0.0) for name in _NUMERIC)
    return document if all(isinstance(number, int | float) for number in numeric) else {}


def live(folder: Path) -> bool:
    """Whether the newest attempt seems to be running: not ended, and with a heartbeat in the last 60 s."""
    begun = numbers(folder)
    if not begun:
        return False
    path = Attempt(folder, begun[-1]).path
    if (path / "end.json").exists():
        return False
    start = _read_facts(path / "start.json")
    if start.get("host") == socket.gethostname() and "pid" in start:
        return start["pid"] != os.getpid() and Path(f"/proc/{start['pid']}").exists() and _same_process(start)
    try:
        heartbeat = (path / "alive").stat().st_mtime
    except FileNotFoundError:
        heartbeat = path.stat().st_mtime
    return _storage_now(folder) - heartbeat < STALE_S


def _same_process(start: Mapping[str, Any]) -> bool:
    # A pid can be used again: the process must not be younger than the attempt that names it. proc(5): after the
    # command in parentheses, which may hold spaces, stat's first field is the state and the twentieth the start, in
    # clock ticks since boot; btime is when that was.
    try:
        fields = Path(f"/proc/{start['pid']}/stat").read_text().rsplit(")", 1)[1].split()
        booted = next(
            int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
        )
    except (OSError, StopIteration):
        return False
    state, ticks = fields[0], int(fields[19])
    return state not in "ZX" and booted + ticks / os.sysconf("SC_CLK_TCK") <= float(start["started"]) + 2


def _storage_now(folder: Path) -> float:
    """The time by the storage's clock: that of a file touched now."""
    probe = folder / f".now-{os.getpid()}-{threading.get_ident()}"
    touch(probe)
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
