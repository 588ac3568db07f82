"""The circuit breaker: a task is held where the same error has already ended several others of its group.

The protocol, whole. A group's tasks run on many nodes without a server, so each looks for itself, before it begins an
attempt, at what the others left on the storage:

- A task that failed by an ``error`` leaves an empty file of its name in ``failures/<group>/<error>/`` of its
  submission's folder. ``<error>`` is a digest of the cause and of the message's first line without what differs between
  tasks. The number of these files is the count: no two tasks write the same one. error.json beside them holds the
  cause and the whole message of one of the first: it is written where there is none yet, and two may do so at once.
- A task is held when some error's count has reached TANDA_BRAKE_AFTER, or when one of TANDA_CANARIES (a training of
  each architecture, which runs before the others) has failed, by no fault of its node, and is of the same architecture.
- A held task begins no attempt: it writes ``held.json`` with the reason into its run's folder and exits with 1.
  ``tanda status`` shows that reason. The next submission, or the next start that is not held, removes it. The first of
  a group that is held tells it to the person whose command TANDA_NOTIFY is (``jobs.notice``).
- A later submission has a folder of its own, and so counts from zero.

A mistake in a manifest then costs a few tasks in place of all. Two tasks that look at the same moment may both begin:
the limit is passed by no more than what runs at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.notice import COMMAND, tell
from jobs.storage import Storage
from jobs.task import NODE_CAUSES, Task, read_record
from sharedfs.documents import digest, read_as, write_json
from sharedfs.errors import DamagedFileError
from sharedfs.files import OWNER_WRITES

HELD, ERROR = "held.json", "error.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """held.json: why a task did not start."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedError:
    """error.json: by which error tasks of a group failed, as one of the first of them had it."""

    cause: str
    message: str


def note_failure(task_id: str, cause: str, message: str, environment: Mapping[str, str] = os.environ) -> None:
    """Count a failed task of this submission under its error."""
    group = _group_folder(environment)
    if group is None:
        return
    error = group / digest([cause, _normalise_error(message)])
    # Within a submission, where nobody else may write: not even as much as the umask would let them.
    for folder in (group.parent, group, error):
        folder.mkdir(mode=0o755, exist_ok=True)
    if not (error / ERROR).exists():
        write_json(error / ERROR, RepeatedError(cause=cause, message=message), permissions=OWNER_WRITES)
    (error / task_id).touch(mode=OWNER_WRITES)


def hold(task: Task, storage: Storage, environment: Mapping[str, str] = os.environ) -> str | None:
    """Why the task must not start, which is then in its held.json too; None when it may."""
    reason = _failed_canary(task, storage, environment) or _repeated_error(environment)
    note = storage.run(task.id) / HELD
    if reason is None:
        note.unlink(missing_ok=True)
    else:
        write_json(note, Hold(reason=reason))
        _tell(reason, environment)
    return reason


def _tell(reason: str, environment: Mapping[str, str]) -> None:
    group, command = _group_folder(environment), environment.get(COMMAND)
    if group is None or not command:
        return
    submission = group.parent.parent
    text = (
        f"tanda: {submission.name}: {group.name} is held\n\n{reason}\n\n"
        "What has not begun of it stays held. Mend what is wrong, then `tanda submit` queues it again.\n"
    )
    tell(command, submission, f"held-{group.name}", text)


def held_reason(folder: Path) -> str | None:
    """Why the task of this folder did not start; None where it was not held, or the note can't be read."""
    try:
        return read_as(Hold, folder / HELD, "a reason").reason
    except (OSError, ValueError):  # it is for people to read: nothing is decided by it
        return None


def _failed_canary(task: Task, storage: Storage, environment: Mapping[str, str]) -> str | None:
    for canary in filter(None, environment.get("TANDA_CANARIES", "").split(",")):
        if canary == task.id:
            continue
        try:
            record = read_record(storage.run(canary))
            if record is None or record.state != "failed" or record.cause in NODE_CAUSES:
                continue
            architecture = Task.read(storage.run(canary)).settings.get("architecture")
        except (FileNotFoundError, DamagedFileError):  # it shows nothing of the settings: the others may run
            continue
        if architecture == task.settings.get("architecture"):
            return f"the canary {canary} failed ({record.cause}): {record.message}"
    return None


def _repeated_error(environment: Mapping[str, str]) -> str | None:
    group, limit = _group_folder(environment), environment.get("TANDA_BRAKE_AFTER", "")
    if group is None or not limit.isdigit() or not group.is_dir():
        return None
    for error in sorted(group.iterdir()):
        count = sum(entry.name != ERROR for entry in error.iterdir() if not entry.name.startswith("."))
        if count >= int(limit) > 0:
            return f"the same error ended {count} tasks of this group: {_message(error / ERROR)}"
    return None


def _message(path: Path) -> str:
    try:
        return " ".join(read_as(RepeatedError, path, "an error").message.split())
    except (FileNotFoundError, DamagedFileError) as problem:  # the count holds without it
        return f"its message can't be read ({problem})"


def _group_folder(environment: Mapping[str, str]) -> Path | None:
    submission, group = environment.get("TANDA_SUBMISSION"), environment.get("TANDA_GROUP")
    return Path(submission) / "failures" / group if submission and group else None


def _normalise_error(message: str) -> str:
    """An error without what differs from task to task: ids, numbers, paths."""
    words = message.splitlines()[0].split() if message else []
    return " ".join(word for word in words if not any(letter.isdigit() or letter == "/" for letter in word))
