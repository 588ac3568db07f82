"""Canary and brake: a task is held where the same error has shown itself in its neighbours already.

Failures are noted as empty files under the submission's folder, one writer each: ``failures/<group>/<error>/<id>``.
A later submission has a folder of its own, and so begins with a clean slate.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from jobs.storage import OWNER_WRITES, Storage, digest, write_json
from jobs.task import Task, read_record

HELD = "held.json"


def note_failure(task_id: str, cause: str, message: str, environment: Mapping[str, str] = os.environ) -> None:
    """Note that a task of this submission failed, under the error's own name."""
    home = _home(environment)
    if home is None:
        return
    folder = home / digest([cause, _normalise_error(message)])
    # Within a submission, where nobody else may write: not even as much as the umask would let them.
    for part in (home.parent, home, folder):
        part.mkdir(mode=0o755, exist_ok=True)
    if not (folder / "error.json").exists():
        write_json(folder / "error.json", {"cause": cause, "message": message}, permissions=OWNER_WRITES)
    (folder / task_id).touch(mode=OWNER_WRITES)


def held(task: Task, storage: Storage, environment: Mapping[str, str] = os.environ) -> str | None:
    """Why the task should not start, or None: a canary of its architecture failed, or one error repeats."""
    for canary in filter(None, environment.get("TANDA_CANARIES", "").split(",")):
        record = read_record(storage.run(canary))
        same = Task.read(storage.run(canary)).settings.get("architecture") == task.settings.get("architecture")
        if record is not None and record.state == "failed" and same and canary != task.id:
            return f"the canary {canary} failed ({record.cause}): {record.message}"
    return _repeated(environment)


def _repeated(environment: Mapping[str, str]) -> str | None:
    home, limit = _home(environment), environment.get("TANDA_BRAKE_AFTER", "")
    if home is None or not limit.isdigit() or not home.is_dir():
        return None
    for folder in sorted(home.iterdir()):
        count = sum(entry.name != "error.json" for entry in folder.iterdir() if not entry.name.startswith("."))
        if count >= int(limit) > 0:
            error = (folder / "error.json").read_text(encoding="utf-8")
            return f"the same error ended {count} tasks of this group: {' '.join(error.split())}"
    return None


def _home(environment: Mapping[str, str]) -> Path | None:
    submission, group = environment.get("TANDA_SUBMISSION"), environment.get("TANDA_GROUP")
    return Path(submission) / "failures" / group if submission and group else None


def _normalise_error(message: str) -> str:
    """An error without what differs from task to task: ids, numbers, paths."""
    words = message.splitlines()[0].split() if message else []
    return " ".join(word for word in words if not any(letter.isdigit() or letter == "/" for letter in word))
