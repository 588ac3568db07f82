"""One try at a task: numbered by exclusive creation, so that two processes can never both be the newest."""

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

from jobs.storage import claim, plain_folder, read_json, touch, write_json

BEAT_S = 10.0
STALE_S = 60.0
_TIMES = ("started", "ended", "last_sign", "running_s", "peak_mb", "gpus", "number", "pid")


class SupersededError(Exception):
    """A newer attempt at the same task has begun: this process must publish nothing more."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt's folder ``attempts/<n>``: start.json, end.json and a file ``alive`` touched every 10 s."""

    folder: Path
    number: int

    @property
    def home(self) -> Path:
        return self.folder / "attempts" / f"{self.number:04d}"

    def check(self) -> None:
        """Raise SupersededError when a newer attempt has begun."""
        if (self.folder / "attempts" / f"{self.number + 1:04d}").exists():
            raise SupersededError(f"attempt {self.number + 1} has taken over from attempt {self.number}")

    def end(self, **facts: Any) -> None:
        """Say how the attempt ended; what is not said here, a killed process could not say."""
        write_json(self.home / "end.json", {"ended": time.time(), **facts})

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Give a sign of life every 10 s from a thread, for as long as the block runs."""
        stop = threading.Event()
        alive = self.home / "alive"

        def beat() -> None:
            while not stop.is_set():
                # A storage that is full or away must not end the work: the next beat tries again.
                with suppress(OSError):
                    touch(alive)
                stop.wait(BEAT_S)

        thread = threading.Thread(target=beat, name="alive", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def begin(folder: Path, about: Mapping[str, Any]) -> Attempt:
    """Begin the next attempt; the caller has made sure that the one before is over (see ``live``)."""
    plain_folder(folder / "attempts")
    number = len(numbers(folder)) + 1
    while not claim(folder / "attempts" / f"{number:04d}"):
        number += 1
    return _begun(Attempt(folder, number), about)


def begin_after(folder: Path, after: int, about: Mapping[str, Any]) -> Attempt | None:
    """Begin the attempt next to ``after``; None when another process has begun it."""
    attempt = Attempt(folder, after + 1)
    return _begun(attempt, about) if claim(attempt.home) else None


def _begun(attempt: Attempt, about: Mapping[str, Any]) -> Attempt:
    start = {
        "number": attempt.number,
        "started": time.time(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        **about,
    }
    try:
        write_json(attempt.home / "start.json", start)
    except OSError:
        # Left behind, a number that nobody began would keep others from going on.
        shutil.rmtree(attempt.home, ignore_errors=True)
        raise
    return attempt


def numbers(folder: Path) -> list[int]:
    """The numbers of all attempts begun so far, in order."""
    try:
        return sorted(int(home.name) for home in (folder / "attempts").iterdir() if home.name.isdigit())
    except FileNotFoundError:
        return []


def history(folder: Path) -> list[dict[str, Any]]:
    """Every attempt as one mapping (start and end facts together), oldest first; ``ended`` may be missing."""
    attempts = []
    for number in numbers(folder):
        home = Attempt(folder, number).home
        facts: dict[str, Any] = {"number": number}
        for name in ("start.json", "end.json"):
            facts.update(_facts(home / name))
        try:
            facts["last_sign"] = (home / "alive").stat().st_mtime
        except FileNotFoundError:
            facts["last_sign"] = facts.get("started")
        attempts.append(facts)
    return attempts


def _facts(path: Path) -> dict[str, Any]:
    """What a file of an attempt says; nothing when it is not there or damaged."""
    try:
        document = read_json(path)
    except (FileNotFoundError, ValueError):
        return {}
    times = (document.get(name, 0.0) for name in _TIMES) if isinstance(document, dict) else ("not facts",)
    return document if all(isinstance(time_s, int | float) for time_s in times) else {}


def live(folder: Path) -> bool:
    """Whether the newest attempt seems to be running: not ended, and a sign of life in the last 60 s.

    On the attempt's own host its process is looked up, so that a killed one is known at once. Ages are taken
    against a file touched now, by the storage's clock and not by this node's.
    """
    known = numbers(folder)
    if not known:
        return False
    newest = Attempt(folder, known[-1])
    if (newest.home / "end.json").exists():
        return False
    start = _facts(newest.home / "start.json")
    if start.get("host") == socket.gethostname() and "pid" in start:
        return start["pid"] != os.getpid() and Path(f"/proc/{start['pid']}").exists() and _same_process(start)
    try:
        seen = (newest.home / "alive").stat().st_mtime
    except FileNotFoundError:
        seen = newest.home.stat().st_mtime
    return _storage_now(folder) - seen < STALE_S


def _same_process(start: Mapping[str, Any]) -> bool:
    # A pid can be used again: the process must not be younger than the attempt it is said to be.
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
    probe = folder / f".now-{os.getpid()}-{threading.get_ident()}"
    touch(probe)
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
