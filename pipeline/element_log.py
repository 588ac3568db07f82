"""The log of an element, which the scheduler writes: all there is of what went wrong before a task's own first line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jobs.storage import LOG, Storage
from pipeline.submission import SOURCE
from sharedfs.documents import read_json
from sharedfs.errors import DamagedFileError
from sharedfs.files import open_plain, read_tail

TAIL_LINES = 40
LONGEST_REASON = 300
# What is there of every element, or tells that a step ended and not why.
_NO_REASON = re.compile(
    r"submitit (INFO|WARNING)|srun: (Job step|Terminating|launch/|error: \S+: tasks? )|(srun|slurmstepd): error: \*\*\*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastWords:
    """What the logs say of a task that ended without a record.

    ``reason`` is the last line that tells why. ``log`` is the element's log, where the task's own has nothing of that
    start: then the element ended before its task began.
    """

    reason: str | None = None
    log: str | None = None


def find_log(storage: Storage, submission: str, element: str) -> Path | None:
    """The log of an element: of Slurm's, or of local processes; None where there is none, or nothing in it."""
    folder = storage.submissions / submission
    names = (f"*/{element}_0_log.out", f"*/{element}.log")
    found = (path for name in names for path in sorted(folder.glob(name)) if path.stat().st_size)
    return next(found, None)


def has_begun(task: Path, element: str, start: int | None = None) -> bool:
    """Whether a task's own log has the header that its element writes before the task, of that start or of any."""
    header = f"job {re.escape(element)} start {r'[0-9]+' if start is None else start}\\b"
    try:
        with open_plain(task / LOG) as file:
            text: bytes = file.read()
    except FileNotFoundError:
        return False
    return re.search(header.encode(), text) is not None


def read_last_words(storage: Storage, task: Path, submission: str, element: str, start: int) -> LastWords:
    """What the logs say of an element's last start, the number ``start``, that left no record of a task."""
    try:
        if has_begun(task, element, start):
            return LastWords(reason=last_reason(read_tail(task / LOG, TAIL_LINES)))
        log = find_log(storage, submission, element)
        return LastWords() if log is None else LastWords(reason=last_reason(read_tail(log, TAIL_LINES)), log=str(log))
    except OSError as error:
        # A link in its place, or no right to read it: that must not hide the state of all the other tasks.
        return LastWords(reason=f"its log cannot be read: {error}")


def last_reason(text: str) -> str | None:
    """The last line of a log that says why something ended, shortened; None where none does."""
    lines = (line.strip() for line in reversed(text.splitlines()))
    reason = next((line for line in lines if line and not _NO_REASON.match(line)), None)
    return reason if reason is None or len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 3] + "..."


def submitted_python(storage: Storage, submission: str) -> str | None:
    """The Python of the profile that a submission went by, as it keeps it; None where it has none."""
    try:
        document = read_json(storage.submissions / submission / SOURCE)
    except (OSError, DamagedFileError):  # nothing depends on it: the command shown is then this Python's
        return None
    cluster = document.get("cluster") if isinstance(document, dict) else None
    python = cluster.get("python") if isinstance(cluster, dict) else None
    return python if isinstance(python, str) else None
