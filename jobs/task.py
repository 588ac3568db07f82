"""A task: one stage with its resolved settings, known by a digest of what decides its result, and how it ended.

``runs/<id>/task.json`` is written before the task is queued and never changes; ``record.json`` says how it ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs import metrics_log
from jobs.errors import DamagedFileError
from jobs.storage import Storage, digest, plain_folder, read_json, write_json

STAGES = ("preprocess", "train", "trial", "evaluate", "close")
FORMAT = 1
CAUSES = (
    "error",
    "out of memory",
    "GPU out of memory",
    "time limit",
    "preempted too often",
    "node failure",
    "no GPU",
    "cancelled",
    "diverged",
    "at chance",
    "upstream failed",
    "killed",
)
# What training itself has shown of the settings: on another node, or tried again, it would end the same.
VERDICTS = ("diverged", "at chance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One stage to run once.

    ``settings`` decide the result and so the id; ``plumbing`` (paths, threads, shards, device) does not.
    ``needs`` are the ids of the tasks whose results this one reads.
    """

    stage: str
    settings: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    plumbing: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        # Once: a plan of thousands of tasks asks for it all the time.
        identity = {"format": FORMAT, "stage": self.stage, "settings": self.settings, "needs": self.needs}
        object.__setattr__(self, "id", digest(identity))

    def write(self, storage: Storage) -> Path:
        """Write task.json into the task's folder, made if missing; returns the folder."""
        folder = plain_folder(storage.run(self.id))
        write_json(folder / "task.json", asdict(self))
        return folder

    @classmethod
    def read(cls, folder: Path) -> Task:
        """Read task.json; raises ValueError when the folder's name and the settings disagree."""
        document = read_json(folder / "task.json")
        try:
            task = cls(
                stage=document["stage"],
                settings=dict(document["settings"]),
                needs=tuple(document["needs"]),
                plumbing=dict(document["plumbing"]),
            )
            stated_id = document["id"]
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{folder}/task.json: not a task: submit the manifest again") from error
        if not (task.id == stated_id == folder.name):
            raise DamagedFileError(
                f"{folder}/task.json: its settings digest to {task.id}, not to the folder's name; "
                "it was edited or written by another version: submit the manifest again"
            )
        return task


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How a task ended: ``state`` is done or failed; times are seconds since the epoch.

    ``result`` holds the stage's own figures; ``files`` maps paths relative to the storage to sizes in bytes.
    ``running_s`` is the time at work summed over all attempts. ``about`` says where and with what it ran
    (host, Slurm job, versions, git commit) and never decides anything.
    """

    id: str
    stage: str
    state: str
    cause: str | None = None
    message: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    started: float
    ended: float
    running_s: float
    attempt: int
    about: Mapping[str, Any] = field(default_factory=dict)

    def write(self, storage: Storage) -> None:
        write_json(storage.run(self.id) / "record.json", asdict(self))

    def files_intact(self, storage: Storage) -> bool:
        """Whether every file that the record names is there with its size; a metrics log may be longer by now.

        A stopped trial that is continued appends epochs to its log, and its former record holds meanwhile.
        """
        try:
            return all(_has_size(storage.root / name, size) for name, size in self.files.items())
        except OSError:
            return False


def _has_size(path: Path, size: int) -> bool:
    actual = path.stat().st_size
    return actual == size or (path.name == metrics_log.NAME and actual > size)


_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("id", "stage", "state"), str),
    **dict.fromkeys(("cause", "message"), str | None),
    **dict.fromkeys(("result", "files", "about"), dict),
    **dict.fromkeys(("started", "ended", "running_s"), int | float),
    "attempt": int,
}


def read_record(folder: Path | str) -> Record | None:
    """The record in a task's folder, or None; raises ValueError when the file is there and broken."""
    try:
        document = read_json(f"{folder}/record.json")
    except FileNotFoundError:
        return None
    try:
        record = Record(**document)
    except TypeError as error:
        raise DamagedFileError(f"{folder}/record.json: not a record: {error}") from error
    if wrong := [name for name, kind in _KINDS.items() if not isinstance(getattr(record, name), kind)]:
        raise DamagedFileError(f"{folder}/record.json: not a record: {', '.join(wrong)} of another kind")
    return record


def is_done(storage: Storage, task_id: str) -> bool:
    """Whether a task's record says done and the files it names are whole; a broken record is not done."""
    try:
        record = read_record(storage.run(task_id))
    except ValueError:
        return False
    return record is not None and record.state == "done" and record.files_intact(storage)
