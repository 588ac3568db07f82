"""The shared storage: its layout, what to say when it is full or away, and how long a task waits for it."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sharedfs.clock import SYSTEM, Clock
from sharedfs.faults import AWAY, FULL, fault_of

LOG = "log.txt"  # in a task's folder, written by its element

# A disk that fills up is often emptied again soon, and a server that went down comes up: a node is not held for longer
# than this, all waits of a task added.
MAX_WAIT_S = 300.0
POLL_S = 5.0
PROBE_BYTES = bytes(1 << 20)

_REFUSED = {errno.EACCES, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Storage:
    """The folders of one shared storage; nothing is made until it is written to."""

    root: Path

    @property
    def datasets(self) -> Path:
        """Published data sets, and spools of shards beside them."""
        return self.root / "datasets"

    @property
    def vectors(self) -> Path:
        """Word vectors kept for a vocabulary."""
        return self.root / "vectors"

    @property
    def runs(self) -> Path:
        """A folder for each task."""
        return self.root / "runs"

    @property
    def searches(self) -> Path:
        """A folder for each search."""
        return self.root / "searches"

    @property
    def plugins(self) -> Path:
        """What is recorded of the plugins of submitted manifests (``pipeline.manifest.plugins``)."""
        return self.root / "plugins"

    @property
    def submissions(self) -> Path:
        """A folder for each ``tanda submit``, its owner's alone."""
        return self.root / "submissions"

    @property
    def local(self) -> Path:
        """Queues of local processes, by host and user."""
        return self.root / "local"

    @property
    def locks(self) -> Path:
        """Where locks are: anybody may break one that is stale, so not where nobody can remove what others made."""
        return self.root / "locks"

    @property
    def reports(self) -> Path:
        """A folder for each manifest's report."""
        return self.root / "reports"

    def run(self, task_id: str) -> Path:
        """The folder of one task, whatever its stage."""
        return self.runs / task_id

    def log(self, task_id: str) -> Path:
        """What a task printed, over all attempts."""
        return self.run(task_id) / LOG

    def dataset(self, task_id: str) -> Path:
        """The published data set of a preprocess task."""
        return self.datasets / task_id

    def search(self, search_id: str) -> Path:
        """The folder of one search."""
        return self.searches / search_id

    def sizes(self, files: Iterable[Path]) -> dict[str, int]:
        """Files as a record lists them: path relative to the storage -> size in bytes."""
        return {str(path.relative_to(self.root)): path.stat().st_size for path in files}


# When the storage is full or away (``sharedfs.faults`` says which errors those are): the message, and the wait.


def is_transient(error: BaseException) -> bool:
    """Whether the storage is full or away for now: the same may go well later."""
    return fault_of(error) is not None


def describe_error(error: BaseException, root: Path) -> str | None:
    """One line for an error of the storage (or of a file that may not be read): what, where, and what to do.

    None for every other error.
    """
    number = fault_of(error)
    of_system = next((fault for fault in (error, error.__cause__) if isinstance(fault, OSError)), None)
    where = (of_system and of_system.filename) or root
    if number is not None:
        kept = "what was saved is kept"
        if number in AWAY:
            return f"{where}: {AWAY[number]}; {kept}: once the storage answers, `tanda submit` again goes on from it"
        advice = "`tanda gc` lists what can go" if number != errno.EROFS else "mount it for writing"
        return f"{where}: {FULL[number]}; {kept}: {advice}, then `tanda submit` again goes on from it"
    if of_system is not None and of_system.errno == errno.ELOOP:
        return f"{where}: {of_system.strerror}"
    if of_system is not None and of_system.errno in _REFUSED:
        return f"{where}: user {os.getuid()} may not do that here; grant it, then `tanda submit` again goes on"
    return None


class WaitBudget:
    """How much waiting for the storage is left to this process."""

    def __init__(self, interrupted: Callable[[], bool], total_s: float | None = None, *, clock: Clock = SYSTEM) -> None:
        self._interrupted, self._clock = interrupted, clock
        self._left_s = MAX_WAIT_S if total_s is None else total_s
        self._pause_s = POLL_S

    def wait(self, folder: Path) -> bool:
        """Wait until something can be written to the folder again; False when asked to stop, or out of time.

        What comes back although it can is waited for longer each time: a file that cannot be read, say.
        """
        look_at = self._clock.monotonic() + self._pause_s
        while self._left_s > 0 and not self._interrupted():
            began = self._clock.monotonic()
            self._clock.sleep(min(POLL_S, self._left_s))
            writable = self._clock.monotonic() >= look_at and _writable(folder)
            self._left_s -= self._clock.monotonic() - began
            if writable:
                self._pause_s *= 2
                return True
        return False


def _writable(folder: Path) -> bool:
    probe = folder / f".room-{uuid.uuid4().hex[:12]}.tmp"
    try:
        with probe.open("xb") as file:
            file.write(PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # whichever it is: what waits for room waits on, within its budget
        return False
    finally:
        with suppress(OSError):  # a leftover is hidden and small
            probe.unlink(missing_ok=True)
    return True
