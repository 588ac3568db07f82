"""The queue of the local executor on disk: arrays, orders and states as JSON, and who looks after them.

One folder for one machine and one user: what is in it is run as that user, so nobody else may write there, and what
another made is refused. Others may read it, to see where elements stand. A submitter adds ``arrays/<n>.json`` and
``orders/<n>.json``; the supervisor, a detached process, alone writes ``states.json`` and runs the elements until
nothing is left, then ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from slurm.array import Array, Dependency, Resources
from slurm.commands import scrubbed
from slurm.owned import READABLE, check_own, open_plain, own_folder, read_own
from slurm.query import JobState

LOOKS, LOOK_S = 3, 0.01


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
        with self.locked():
            number = max(self.numbers(), default=0) + 1
            write_json(self.folder / "arrays" / f"{number}.json", _document(array))
            self._ensure_supervisor()
        return number

    def order(self, what: str, ids: list[str]) -> None:
        """Ask the supervisor to ``cancel``, ``hold`` or ``release`` elements."""
        with self.locked():
            write_json(self.folder / "orders" / f"{uuid.uuid4().hex}.json", {"what": what, "ids": ids})
            self._ensure_supervisor()

    def take_orders(self) -> Iterator[tuple[str, list[str]]]:
        """Orders not yet taken, each once."""
        for path in sorted((self.folder / "orders").glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            order = json.loads(read_own(path))
            path.unlink()
            yield order["what"], order["ids"]

    def numbers(self) -> list[int]:
        """The numbers of all arrays ever queued here."""
        return sorted(int(path.stem) for path in (self.folder / "arrays").iterdir() if path.stem.isdigit())

    def array(self, number: int) -> Array:
        """An array by its number."""
        return _array(json.loads(read_own(self.folder / "arrays" / f"{number}.json")))

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop arrays for good."""
        for number in numbers:
            (self.folder / "arrays" / f"{number}.json").unlink(missing_ok=True)

    def states(self) -> dict[str, dict[str, Any]]:
        """The states last written, by element; with each the process's id while it runs."""
        try:
            document: dict[str, dict[str, Any]] = json.loads(read_own(self.folder / "states.json", self.owner))
        except FileNotFoundError:
            return {}
        return document

    def write_states(self, states: Mapping[str, JobState], pids: Mapping[str, int]) -> None:
        """Replace the states; only the supervisor may."""
        names = [field.name for field in fields(JobState)]
        document = {
            id_: {**{name: getattr(state, name) for name in names}, "pid": pids.get(id_)}
            for id_, state in states.items()
        }
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
            # The supervisor inherits the lock with the open file: there is no moment in which nobody holds it.
            # The shell ends at once, so that it is no child of ours and leaves no zombie with us.
            supervisor = [sys.executable, "-m", "slurm.local_supervisor", str(self.folder), str(lock.fileno())]
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *supervisor],
                env={**scrubbed(os.environ), **import_path(None)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                check=True,
            )

    def _open(self, name: str) -> IO[Any]:
        return open_plain(self.folder / name, "a", permissions=READABLE)


def import_path(code: Path | None) -> dict[str, str]:
    """The environment in which a child finds this package: in the submitted code, or where it is now."""
    return {"PYTHONPATH": str(code or Path(__file__).parents[1]), "PYTHONSAFEPATH": "1"}


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write a JSON document, which this user alone can change, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    with open_plain(temporary, "x", permissions=READABLE) as file:
        file.write(json.dumps(value, indent=indent))
    temporary.replace(path)


def _lock_soon(descriptor: int) -> bool:
    """The lock, unless it is kept: whoever asks whether there is a supervisor holds it, too, for a moment."""
    for _ in range(LOOKS):
        if _lock_now(descriptor):
            return True
        time.sleep(LOOK_S)
    return False


def _lock_now(descriptor: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _document(array: Array) -> dict[str, Any]:
    return {
        **asdict(array),
        "elements": [[str(path) for path in paths] for paths in array.elements],
        "folder": str(array.folder),
        "code": str(array.code) if array.code else None,
        "environment": dict(array.environment),
    }


def _array(document: dict[str, Any]) -> Array:
    return Array(
        **{
            **document,
            "elements": tuple(tuple(Path(path) for path in paths) for paths in document["elements"]),
            "command": tuple(document["command"]),
            "folder": Path(document["folder"]),
            "code": Path(document["code"]) if document["code"] else None,
            "resources": Resources(**document["resources"]),
            "after": tuple(Dependency(way=d["way"], jobs=tuple(d["jobs"])) for d in document["after"]),
            "exclude": tuple(document["exclude"]),
            "signs": tuple(document["signs"]),
        }
    )
