"""A task: one stage with its resolved settings, known by a digest of what decides its result, and how it ended.

``runs/<id>/task.json`` is written before the task is queued and never changes; ``record.json`` says how it ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from jobs import metrics_log
from jobs.gpu_use import GpuUse
from jobs.storage import Storage
from jobs.units import Made
from sharedfs.documents import decode_as, digest, read_as, read_json, write_json
from sharedfs.errors import DamagedFileError
from sharedfs.files import plain_folder
from sharedfs.typed_json import Json

T = TypeVar("T")
STAGES = ("preprocess", "train", "trial", "evaluate", "close")
TASK, RECORD = "task.json", "record.json"
FORMAT = 1
Cause = Literal[
    "error",
    "out of memory",
    "GPU out of memory",
    "time limit",
    "preempted too often",
    "node failure",
    "no GPU",
    "GPU failure",
    "GPU idle",
    "storage",
    "cancelled",
    "diverged",
    "at chance",
    "upstream failed",
    "killed",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
# What training itself has shown of the settings: on another node, or tried again, it would end the same.
TRAINING_FAILURES: tuple[Cause, ...] = ("diverged", "at chance")
# What a node has shown of itself, or of its mount of the storage, and nothing of the task: it may well end as done
# on another.
NODE_CAUSES: tuple[Cause, ...] = ("node failure", "no GPU", "GPU failure", "storage")


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

    def settings_as(self, kind: type[T]) -> T:
        """The settings typed, as the class of settings of the stage has them; raises DamagedFileError."""
        return decode_as(kind, self.settings, f"{self.id}/{TASK}", f"the settings of {self.stage}")

    def plumbing_as(self, kind: type[T]) -> T:
        """The plumbing typed, as ``settings_as`` does it; raises DamagedFileError."""
        return decode_as(kind, self.plumbing, f"{self.id}/{TASK}", f"the plumbing of {self.stage}")

    def write(self, storage: Storage) -> Path:
        """Write task.json into the task's folder, made if missing; returns the folder."""
        folder = plain_folder(storage.run(self.id))
        write_json(folder / TASK, asdict(self))
        return folder

    @classmethod
    def read(cls, folder: Path) -> Task:
        """Read task.json; raises FileNotFoundError, or ValueError when the folder's name and the settings disagree."""
        document = read_json(folder / TASK)
        try:
            task = decode_as(cls, document, folder / TASK, "a task")
        except (DamagedFileError, TypeError) as error:  # TypeError: nested too deeply for a digest
            raise DamagedFileError(f"{error}: submit the manifest again") from error
        if not (task.id == document.get("id") == folder.name):
            raise DamagedFileError(
                f"{folder}/{TASK}: its settings digest to {task.id}, not to the folder's name; "
                "it was edited or written by another version: submit the manifest again"
            )
        return task


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where and with what a task ran; None for what is not known, as a version of what it never imported.

    ``cpus`` is the number of threads, ``gpus`` how many GPUs it could see, ``gpu`` the name of the one it computed on,
    ``slurm`` the job by the variables that Slurm set, ``peak_mb`` the most memory that the process had,
    ``cores`` how many cores it used on average.
    """

    host: str | None = None
    python: str | None = None
    cpus: int | None = None
    git_commit: str | None = None
    gpus: int = 0
    slurm: Mapping[str, str] = field(default_factory=dict)
    peak_mb: float | None = None
    cores: float | None = None
    torch: str | None = None
    cuda: str | None = None
    cudnn: int | None = None
    numpy: str | None = None
    transformers: str | None = None
    gpu: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How a task ended: ``state`` is done or failed; times are seconds since the epoch.

    ``result`` holds the stage's own figures; ``files`` maps paths relative to the storage to sizes in bytes.
    ``running_s`` is the time at work summed over all attempts, of which ``former_attempts``, the first ones, were at a
    result that was since made again, and count for nothing here. ``about`` says where and with what it ran, ``made`` by
    which units of code, by name, ``gpu`` what its GPU did in these attempts, as far as it was measured by then; none of
    them decides anything.
    """

    id: str
    stage: str
    state: Literal["done", "failed"]
    cause: str | None = None
    message: str | None = None
    result: Mapping[str, Json] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    started: float
    ended: float
    running_s: float
    attempt: int
    former_attempts: int = 0
    about: Provenance = Provenance()
    made: Mapping[str, Made] = field(default_factory=dict)
    gpu: GpuUse | None = None

    def write(self, storage: Storage) -> None:
        """Write record.json into the task's folder."""
        write_json(storage.run(self.id) / RECORD, asdict(self))

    def figure(self, name: str) -> float | None:
        """A number of the result; None where there is none of that name."""
        value = self.result.get(name)
        return value if type(value) in (int, float) else None  # type: ignore[return-value]

    def files_intact(self, storage: Storage) -> bool:
        """Whether every file that the record names is there with its size; a metrics log may be longer by now.

        A stopped trial that is continued appends epochs to its log, and its former record holds meanwhile. Raises
        OSError where the storage does not answer: that says nothing about the files.
        """
        try:
            return all(_has_size(storage.root / name, size) for name, size in self.files.items())
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name that no file can have
            return False


def _has_size(path: Path, size: int) -> bool:
    actual = path.stat().st_size
    return actual == size or (path.name == metrics_log.NAME and actual > size)


def read_record(folder: Path | str) -> Record | None:
    """The record in a task's folder, or None; raises ValueError when the file is there and broken."""
    path = f"{folder}/{RECORD}"
    try:
        return read_as(Record, path, "a record")
    except FileNotFoundError:
        return None


def is_done(storage: Storage, task_id: str) -> bool:
    """Whether a task's record says done and the files it names are whole; a broken record is not done.

    Raises OSError where the storage does not answer.
    """
    try:
        record = read_record(storage.run(task_id))
    except DamagedFileError:  # there is none to believe: the task is run again, and writes one
        return False
    return record is not None and record.state == "done" and record.files_intact(storage)
