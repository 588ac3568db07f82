"""A task: one stage with its resolved settings, known by a digest of what decides its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.errors import DamagedFileError
from jobs.storage import Storage, digest, plain_folder, read_json, write_json

STAGES = ("preprocess", "train", "trial", "evaluate", "close")
FORMAT = 1


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
        document = {
            "id": self.id,
            "stage": self.stage,
            "settings": self.settings,
            "needs": self.needs,
            "plumbing": self.plumbing,
        }
        write_json(folder / "task.json", document)
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
            said = document["id"]
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{folder}/task.json: not a task: submit the manifest again") from error
        if not (task.id == said == folder.name):
            raise DamagedFileError(
                f"{folder}/task.json: its settings digest to {task.id}, not to the folder's name; "
                "it was edited or written by another version: submit the manifest again"
            )
        return task
