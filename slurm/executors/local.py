"""Processes on this machine, looked after by a detached supervisor: the caller may end, or its terminal close."""

# The protocol between those who submit and the supervisor, whole. One folder for one machine and one user: what is in
# it is run as that user, so nobody else may write there, and what another made is refused. Others may read it, to see
# where elements stand.
#
# - A submitter, holding queue.lock, adds arrays/<n>.json, or orders/<id>.json (cancel, hold, release; each is carried
#   out once and removed), and starts a supervisor if none holds supervisor.lock.
# - The supervisor (slurm.local_supervisor) alone writes states.json, with the process of what runs, and runs the
#   elements until nothing is left. It ends holding queue.lock, so that no array is overlooked.
# - The supervisor inherits supervisor.lock with the open file: there is no moment in which nobody holds it. Whoever
#   asks whether there is a supervisor holds it, too, shared and for a moment, hence ``_lock_soon``.
# - One that was killed leaves its elements running. The next one, started by the next submission or order, takes over
#   by states.json: what waited still waits, what runs is watched by its process and is gone, not done, when that
#   ends, since nobody saw its exit status. Until then a reader shows what waits as gone.
# - What ended a week ago is forgotten, but for the newest array: its number must not be given a second time.

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from sharedfs.errors import DamagedFileError
from sharedfs.files import OWNER_WRITES, open_plain, write_whole
from sharedfs.typed_json import decode
from slurm.array import Array, Site, Submitted, array_id, element_index
from slurm.commands import PACKAGES, scrubbed
from slurm.element import PROGRESS_FILES, visible_gpus
from slurm.job_state import GONE, RUNNING, WAITING, JobIdentity, JobState
from slurm.owned import check_own, own_folder, read_own

LOCK_TRIES, LOCK_PAUSE_S = 3, 0.01
LOCAL_GPUS = "TANDA_LOCAL_GPUS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The process of a started element and the GPUs it was given; ``ticks`` is when it began, since the machine did.

    A process's number is used again, with its start it is not. None is what an earlier version did not write.
    """

    pid: int | None = None
    ticks: int | None = None
    devices: tuple[str, ...] = ()

    def is_alive(self) -> bool:
        """Whether that very process is there, and not just another of its number."""
        state, ticks = _process_stat(self.pid)
        return state not in _OVER and self.ticks in (None, ticks)

    def is_replaced(self) -> bool:
        """Whether its number is another process's by now: nothing of it may be signalled."""
        _, ticks = _process_stat(self.pid)
        return None not in (ticks, self.ticks) and ticks != self.ticks


_OVER = ("", "Z", "X")  # a process's state: there is none, or only what is left of it


def process_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did; None where there is none."""
    return _process_stat(pid)[1]


def _process_stat(pid: int | None) -> tuple[str, int | None]:
    # proc(5): after the command in parentheses, which may hold spaces, come the state and, as the twentieth, the start.
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:  # there is no such process
        return "", None
    return fields[0], int(fields[19])


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """The ``local`` executor: see ``slurm.executors.Executor``. Ids are unique in ``folder``, one user's."""

    folder: Path

    @property
    def _queue(self) -> LocalQueue:
        return LocalQueue(self.folder.absolute())

    def submit(self, array: Array) -> Submitted:
        number = self._queue.add(array)
        return Submitted(ids=tuple(f"{number}_{index}" for index in range(len(array.elements))))

    def states(self, ids: Iterable[str], *, sent: Mapping[str, JobIdentity] | None = None) -> Mapping[str, JobState]:
        del sent
        asked = list(dict.fromkeys(ids))
        if not asked or not (self.folder / "arrays").exists():
            return {id_: _gone(id_) for id_ in asked}
        queue = self._queue
        # Asked before the states are read: a supervisor writes the last of them before it ends.
        supervised = queue.supervised()
        states, started = queue.states()
        arrays = set(queue.numbers())
        shown: dict[str, JobState] = {}
        for id_ in asked:
            if id_ in states:
                shown[id_] = _shown_state(states[id_], started.get(id_), supervised)
            elif supervised and int(array_id(id_)) in arrays and element_index(id_) is not None:
                shown[id_] = JobState(id=id_, state=WAITING)
            else:
                shown[id_] = _gone(id_)
        return shown

    def cancel(self, ids: Iterable[str]) -> None:
        self._queue.order("cancel", list(ids))

    def hold(self, ids: Iterable[str]) -> None:
        self._queue.order("hold", list(ids))

    def release(self, ids: Iterable[str]) -> None:
        self._queue.order("release", list(ids))

    def scripts(self, array: Array) -> tuple[str, ...]:
        """The commands that would be run, one a line for each path."""
        return (array.command_lines,)


def _shown_state(state: JobState, started: Started | None, supervised: bool) -> JobState:
    alive = state.state == RUNNING and started is not None and started.is_alive()
    if supervised or state.over or alive:
        return state
    return replace(state, state=GONE, reason="its supervisor was killed; submit again")


def _gone(id_: str) -> JobState:
    return JobState(id=id_, state=GONE, reason="not in this machine's queue")


@dataclass(frozen=True, slots=True)
class LocalQueue:
    """The folder; every method may be called by any process of its user on this machine, and by others those that
    read. Raises PermissionError where somebody else made, or can change, the folder or a file in it."""

    folder: Path

    @property
    def owner(self) -> int:
        """The id of the user whose queue it is; raises PermissionError where others can write to it."""
        uid = self.folder.lstat().st_uid
        check_own(self.folder, uid)
        return uid

    def add(self, array: Array) -> int:
        """Queue an array; its number."""
        # A supervisor of an earlier version, still at work here, reads the progress files from the array.
        document = {**asdict(array), "signs": PROGRESS_FILES, "visible_gpus": visible_here()}
        with self.locked():
            number = max(self.numbers(), default=0) + 1
            write_json(self.folder / "arrays" / f"{number}.json", document)
            self._ensure_supervisor()
        return number

    def order(self, order: str, ids: list[str]) -> None:
        """Ask the supervisor to ``cancel``, ``hold`` or ``release`` elements."""
        with self.locked():
            write_json(self.folder / "orders" / f"{uuid.uuid4().hex}.json", {"what": order, "ids": ids})
            self._ensure_supervisor()

    def take_orders(self) -> Iterator[tuple[str, list[str]]]:
        """Orders not yet taken, each once."""
        for path in sorted((self.folder / "orders").glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            order = json.loads(read_own(path))
            path.unlink()
            yield order["what"], order["ids"]

    def numbers(self) -> list[int]:
        """The numbers of all arrays that are kept here."""
        return sorted(int(path.stem) for path in (self.folder / "arrays").iterdir() if path.stem.isdigit())

    def array(self, number: int) -> Array:
        """An array by its number."""
        return decode(Array, json.loads(read_own(self._array_file(number))))

    def submitted(self, number: int) -> float:
        """When an array was queued, in seconds since the epoch."""
        return self._array_file(number).stat().st_mtime

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop arrays for good."""
        for number in numbers:
            self._array_file(number).unlink(missing_ok=True)

    def _array_file(self, number: int) -> Path:
        return self.folder / "arrays" / f"{number}.json"

    def states(self) -> tuple[dict[str, JobState], dict[str, Started]]:
        """The states last written, by element; and the processes of those that run. Raises DamagedFileError."""
        path = self.folder / "states.json"
        try:
            document = json.loads(read_own(path, self.owner))
            states = decode(dict[str, JobState], document)
            started = decode(dict[str, Started], document)
        except FileNotFoundError:
            return {}, {}
        except ValueError as error:
            raise DamagedFileError(f"{path}: not the states of a local queue: {error}") from error
        return states, {id_: process for id_, process in started.items() if process.pid is not None}

    def write_states(self, states: Mapping[str, JobState], started: Mapping[str, Started]) -> None:
        """Replace the states; only the supervisor may."""
        none = Started()
        document = {id_: {**asdict(state), **asdict(started.get(id_, none))} for id_, state in states.items()}
        write_json(self.folder / "states.json", document, indent=None)

    def supervised(self) -> bool:
        """Whether a supervisor is at work."""
        try:
            with open_plain(self.folder / "supervisor.lock") as file:
                return not _lock_now(file.fileno(), fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the queue: a supervisor ends only in here, and arrays are added only in here."""
        for folder in (self.folder, self.folder / "arrays", self.folder / "orders"):
            own_folder(folder)
        with self._open("queue.lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _ensure_supervisor(self) -> None:
        with self._open("supervisor.lock") as lock, self._open("supervisor.log") as log:
            if not _lock_soon(lock.fileno()):
                return
            # The shell ends at once, so that the supervisor is no child of ours and leaves no zombie with us.
            supervisor = [sys.executable, "-m", "slurm.local_supervisor", str(self.folder), str(lock.fileno())]
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *supervisor],
                env=child_environment(None),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                check=True,
            )

    def _open(self, name: str) -> IO[Any]:
        return open_plain(self.folder / name, "a", permissions=OWNER_WRITES)


def visible_here() -> tuple[str, ...] | None:
    """The GPUs that whoever submits may use: by CUDA_VISIBLE_DEVICES, as the person or a surrounding job set it.

    In an element, which has its own share there, LOCAL_GPUS says what its array may use. None: all of the machine.
    """
    names = os.environ.get(LOCAL_GPUS, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return None if names is None else visible_gpus({"CUDA_VISIBLE_DEVICES": names})


def child_environment(code: Path | None, changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, changed, for a child that finds this package in the submitted code, or where it is
    now; the rest of PYTHONPATH, by which modules may deliver packages, comes after it."""
    environment = {**scrubbed(os.environ), **(changes or {})}
    path = [str(code or PACKAGES), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write a JSON document, which this user alone can change, whole or not at all."""
    text = json.dumps(value, indent=indent, default=str)  # a path as text
    write_whole(path, text.encode(), permissions=OWNER_WRITES)


def _lock_soon(descriptor: int) -> bool:
    """Take the lock, unless it is held for longer than a reader holds it."""
    for _ in range(LOCK_TRIES):
        if _lock_now(descriptor):
            return True
        time.sleep(LOCK_PAUSE_S)
    return False


def _lock_now(descriptor: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make(*, folder: Path, site: Site, entry: Callable[[Path], int] | None) -> LocalProcesses:
    """Called by ``slurm.executors.make``."""
    del site, entry
    return LocalProcesses(folder)
