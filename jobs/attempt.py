"""One try at a task: numbered by exclusive creation, so that two processes can never both be the newest.

The protocol of attempts, whole. A task may be started twice: requeued, retried, submitted by two people, continued by
another trial's process. Those processes share nothing but the storage, and none may lock it: it could die with the
lock. So:

- The attempts at a task are the folders ``attempts/0001``, ``0002``, ... Number n begins by making its folder, which
  the file system grants to exactly one process on any node; start.json then says which (host, pid, when).
- While it works a thread touches ``alive`` every 10 s. Missing for ``STALE_S``, six beats, the attempt is
  stale. Ages are differences between two times of the storage's clock, as nodes' clocks differ. On the attempt's own
  host its process is looked up instead, so that one that was killed is known at once. A reader who may not write to
  the storage cannot ask for its clock, and takes its own node's.
- end.json says how it ended; a killed process leaves none.
- Whoever wants to run the task waits while the newest attempt is live, and takes over one that has ended or is stale
  by beginning the next number. Nothing is removed, and of several that try one succeeds.
- A result that is made again (``tanda submit --rerun``) goes on with the numbers, so that an attempt that survived
  finds a newer one, and an empty file ``former-<n>`` beside them says up to which they were at the former result.
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
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from jobs import gpu_use
from jobs.gpu_use import GpuUse
from jobs.task import Provenance
from sharedfs import lock
from sharedfs.clock import SYSTEM, Clock, storage_time
from sharedfs.documents import read_json, write_json
from sharedfs.faults import patient
from sharedfs.files import claim, plain_folder, touch
from sharedfs.typed_json import Json, Undecodable, decode

STALE_S = lock.STALE_S
_UNKNOWN = Provenance()
START, END, ALIVE = "start.json", "end.json", "alive"
FORMER = "former-"  # with a number, in attempts/: up to that one they made results that were since made again


class SupersededError(Exception):
    """A newer attempt at the same task has begun: this process must publish nothing more."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at the task in ``folder``; its own files are in ``path``, ``attempts/<n>``."""

    folder: Path
    number: int

    @property
    def path(self) -> Path:
        """The folder of this attempt's own files."""
        return self.folder / "attempts" / f"{self.number:04d}"

    @patient
    def check(self) -> None:
        """Raise SupersededError when a newer attempt has begun."""
        if Attempt(self.folder, self.number + 1).path.exists():
            raise SupersededError(f"attempt {self.number + 1} has taken over from attempt {self.number}")

    def end(
        self,
        *,
        state: str,
        ended: float,
        cause: str | None = None,
        message: str | None = None,
        running_s: float | None = None,
        peak_mb: float | None = None,
    ) -> None:
        """Write how the attempt ended, and when, in seconds since the epoch; what is None is left out."""
        facts = {"state": state, "ended": ended, "cause": cause, "message": message}
        facts |= {"running_s": running_s, "peak_mb": peak_mb}
        write_json(self.path / END, {name: fact for name, fact in facts.items() if fact is not None})

    def heartbeat(self) -> AbstractContextManager[None]:
        """Touch ``alive`` every 10 s from a thread, for as long as the block runs."""
        return lock.heartbeat(partial(touch, self.path / ALIVE))


def begin(folder: Path, about: Provenance = _UNKNOWN, *, clock: Clock = SYSTEM) -> Attempt:
    """Begin the next attempt; the caller has made sure that the one before is over (see ``live``)."""
    plain_folder(folder / "attempts")
    number = newest_number(folder)
    while (attempt := begin_after(folder, number, about, clock=clock)) is None:
        number += 1
    return attempt


def begin_after(
    folder: Path, after: int, about: Provenance, *, by: str | None = None, clock: Clock = SYSTEM
) -> Attempt | None:
    """Begin the attempt next to ``after``, for the task ``by``, if not its own; None when another process has."""
    attempt = Attempt(folder, after + 1)
    if not claim(attempt.path):
        return None
    start = {
        **asdict(about),
        "number": attempt.number,
        "started": clock.now(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        **({} if by is None else {"by": by}),
    }
    try:
        write_json(attempt.path / START, start)
    except OSError:
        # Left behind, a number that nobody began would keep others from going on.
        shutil.rmtree(attempt.path, ignore_errors=True)
        raise
    return attempt


def numbers(folder: Path) -> list[int]:
    """The numbers of all attempts begun so far, in order."""
    return sorted(int(name) for name in _names(folder) if name.isdigit())


def newest_number(folder: Path) -> int:
    """The number of the newest attempt, 0 before the first.

    Asked for by name as well: another node's attempt may be in no listing that this one has kept for a while, and was
    never looked for by its name.
    """
    number = max(numbers(folder), default=0)
    while Attempt(folder, number + 1).path.exists():
        number += 1
    return number


@patient
def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(f"{folder}/attempts") as entries:
            return [entry.name for entry in entries]
    except FileNotFoundError:
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFacts:
    """What an attempt's files say of it: times in seconds since the epoch, None for what they do not say.

    ``heartbeat`` is when ``alive`` was last touched. ``by`` is the id of the task whose process it was, where that was
    another's; ``slurm`` the job by the variables that Slurm set. ``ended``, ``state`` (done, failed, paused or
    superseded) and what follows are from end.json, and None where a killed process left none. ``gpu`` is what the GPU
    did meanwhile, None where that was not measured.
    """

    number: int
    heartbeat: float | None = None
    started: float | None = None
    host: str | None = None
    pid: int | None = None
    by: str | None = None
    gpus: int = 0
    slurm: Mapping[str, str] = field(default_factory=dict)
    ended: float | None = None
    state: str | None = None
    cause: str | None = None
    message: str | None = None
    running_s: float | None = None
    peak_mb: float | None = None
    gpu: GpuUse | None = None

    @property
    def last_heartbeat(self) -> float | None:
        """When it was last known to live: at its start, where it was killed before the first beat."""
        return self.started if self.heartbeat is None else self.heartbeat

    @property
    def ran_s(self) -> float:
        """How long it ran: until its end, or its last heartbeat where it left none."""
        ended = self.ended or self.last_heartbeat
        return max(0.0, ended - self.started) if self.started and ended else 0.0


def history(folder: Path) -> list[AttemptFacts]:
    """Every attempt at the present result, oldest first: those at a former one do not count."""
    names = _names(folder)
    notes = (name.removeprefix(FORMER) for name in names if name.startswith(FORMER))
    former = max((int(number) for number in notes if number.isdigit()), default=0)
    begun = sorted(int(name) for name in names if name.isdigit())
    return [_read_attempt(folder, number, START, END) for number in begun if number > former]


def mark_former(folder: Path) -> Path | None:
    """Note that the result is made again: the attempts so far were at the former one. The note, if there were any."""
    begun = numbers(folder)
    if not begun:
        return None
    # A name and not a content: numbers stay, since they keep an attempt that survived from publishing.
    note = folder / "attempts" / f"{FORMER}{begun[-1]:04d}"
    touch(note)
    return note


def newest(folder: Path) -> AttemptFacts | None:
    """The newest attempt, or None when none has begun."""
    number = newest_number(folder)
    return _read_attempt(folder, number, START, END) if number else None


def _read_attempt(folder: Path, number: int, *names: str) -> AttemptFacts:
    """An attempt by these of its files; one that is missing or damaged says nothing."""
    path = Attempt(folder, number).path
    try:
        heartbeat = os.stat(f"{path}/{ALIVE}").st_mtime  # noqa: PTH116 - of thousands half the time would be pathlib's
    except FileNotFoundError:
        heartbeat = None
    documents = [_read_document(f"{path}/{name}") for name in names]
    own = {"number": number, "heartbeat": heartbeat, "gpu": None}
    # Together, else the one that is sound alone, else none.
    for known in ({name: fact for document in documents for name, fact in document.items()}, *documents):
        with suppress(Undecodable):
            facts = decode(AttemptFacts, {**known, **own})
            return replace(facts, gpu=gpu_use.read(path)) if facts.gpus else facts
    return AttemptFacts(number=number, heartbeat=heartbeat)


def _read_document(path: str) -> dict[str, Json]:
    try:
        document = read_json(path)
    except (FileNotFoundError, ValueError):  # not written yet, or damaged: the attempt's other files count alone
        return {}
    return document if isinstance(document, dict) else {}


def live(folder: Path, clock: Clock = SYSTEM) -> bool:
    """Whether the newest attempt seems to be running: not ended, and with a heartbeat in the last 60 s.

    The age of a heartbeat is by the storage's clock, by this node's for a reader who may not write there.
    """
    number = newest_number(folder)
    if not number:
        return False
    path = Attempt(folder, number).path
    if (path / END).exists():
        return False
    facts = _read_attempt(folder, number, START)
    if facts.host == socket.gethostname() and facts.pid is not None and facts.started is not None:
        return facts.pid != os.getpid() and _is_process(facts.pid, facts.started)
    heartbeat = path.stat().st_mtime if facts.heartbeat is None else facts.heartbeat
    return storage_time(folder, clock) - heartbeat < STALE_S


def _is_process(pid: int, started: float) -> bool:
    """Whether the process that began an attempt then is there."""
    # A pid can be used again: the process must not be younger than the attempt that names it. proc(5): after the
    # command in parentheses, which may hold spaces, stat's first field is the state and the twentieth the start, in
    # clock ticks since boot; btime is when that was.
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        booted = next(
            int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
        )
    except (OSError, StopIteration):
        return False
    state, ticks = fields[0], int(fields[19])
    return state not in "ZX" and booted + ticks / os.sysconf("SC_CLK_TCK") <= started + 2
