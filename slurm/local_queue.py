"""The queue of the local executor on disk: arrays, orders and states as JSON, and who looks after them.

One folder for one machine. A submitter adds ``arrays/<n>.json`` and ``orders/<n>.json``; the supervisor, a detached
process, alone writes ``states.json`` and runs the elements until nothing is left, then ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from slurm.array import Array, Dependency, Resources
from slurm.commands import scrubbed
from slurm.states import JobState


@dataclass(frozen=True, slots=True)
class LocalQueue:
    """The folder; every method may be called by any process of this machine."""

    folder: Path

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
            order = json.loads(path.read_text())
            path.unlink()
            yield order["what"], order["ids"]

    def numbers(self) -> list[int]:
        """The numbers of all arrays ever queued here."""
        return sorted(int(path.stem) for path in (self.folder / "arrays").iterdir() if path.stem.isdigit())

    def array(self, number: int) -> Array:
        """An array by its number."""
        return _array(json.loads((self.folder / "arrays" / f"{number}.json").read_text()))

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop arrays for good."""
        for number in numbers:
            (self.folder / "arrays" / f"{number}.json").unlink(missing_ok=True)

    def states(self) -> dict[str, dict[str, Any]]:
        """The states last written, by element; with each the process's id while it runs."""
        try:
            document: dict[str, dict[str, Any]] = json.loads((self.folder / "states.json").read_text())
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
        with (self.folder / "supervisor.lock").open("a") as file:
            return not _lock_now(file.fileno())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the queue: a supervisor ends only in here, and arrays are added only in here."""
        for name in ("arrays", "orders"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        with (self.folder / "queue.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _ensure_supervisor(self) -> None:
        with (self.folder / "supervisor.lock").open("a") as lock, (self.folder / "supervisor.log").open("a") as log:
            if not _lock_now(lock.fileno()):
                return
            # The supervisor inherits the lock with the open file: there is no moment in which nobody holds it.
            # The shell ends at once, so that it is no child of ours and leaves no zombie with us.
            supervisor = [sys.executable, "-m", "slurm.supervisor", str(self.folder), str(lock.fileno())]
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


def import_path(code: Path | None) -> dict[str, str]:
    """The environment in which a child finds this package: in the submitted code, or where it is now."""
    return {"PYTHONPATH": str(code or Path(__file__).parents[1]), "PYTHONSAFEPATH": "1"}


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write a JSON document whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    temporary.write_text(json.dumps(value, indent=indent))
    temporary.replace(path)


def _lock_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
