"""The closing job of a manifest's newest submission: whether it did its work, and what is left where it failed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs import notice
from jobs.storage import LOG, Storage
from jobs.task import RECORD
from pipeline.decisions.closing import CLOSE, UndoneClosing, chain, undone_closing
from pipeline.decisions.task_state import QueueEvidence, TaskState
from pipeline.element_log import read_last_words
from pipeline.queue import QueuedAs
from pipeline.submission import Submission, newest, read_all
from sharedfs.documents import write_json
from sharedfs.files import OWNER_WRITES

CLOSED = "closed.json"  # in a submission's folder, once its closing job has done all there was to do


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSubmission:
    """A submission whose closing job has not said that it is done; ``closing`` is None where none was queued."""

    submission: Submission
    closing: QueuedAs | None


def write_closed(folder: Path, exit_status: int) -> None:
    """Note in a submission's folder that its closing job has done its work."""
    write_json(folder / CLOSED, {"exit_status": exit_status, "ended": time.time()}, permissions=OWNER_WRITES)


def open_submission(storage: Storage, manifest: str) -> OpenSubmission | None:
    """The newest submission of a manifest, unless its closing job has done its work, or is of a version that keeps no
    note of that."""
    submission = newest(storage, manifest)
    if submission is None or not submission.notes_closing or submission.executor == "inline":
        return None
    if (storage.submissions / submission.name / CLOSED).exists():
        return None
    array = next((array for array in submission.arrays if array.stage == CLOSE and array.elements), None)
    closing = None if array is None else QueuedAs.of(submission, array, next(iter(array.elements)))
    return OpenSubmission(submission=submission, closing=closing)


def failed_notices(storage: Storage, manifest: str) -> tuple[str, ...]:
    """A line for each message to a person that was not sent, of a manifest's newest submission and those before it
    that it continues."""
    own = newest(storage, manifest)
    links = () if own is None else chain(own, read_all(storage) if own.continues else ())
    return tuple(line for link in reversed(links) for line in notice.failures(storage.submissions / link.name))


def find_undone(
    storage: Storage, unclosed: OpenSubmission, queue: QueueEvidence | None, states: Mapping[str, TaskState]
) -> UndoneClosing | None:
    """What the closing job of a submission left undone, None where nothing; ``queue`` is what is shown of its job."""
    undone = undone_closing(unclosed.submission, queue, states)
    if undone is None:
        return None
    folder = storage.submissions / unclosed.submission.name
    if queue is not None:
        words = read_last_words(storage, folder, folder.name, queue.job.id, start=queue.job.restarts + 1)
        undone = undone.explained(words.reason, words.log or (str(folder / LOG) if (folder / LOG).exists() else None))
    from pipeline.report.results_csv import CSV  # here: a status without a failed closing job needs nothing of it

    behind = _is_behind(storage.reports / unclosed.submission.manifest / CSV, _record_times(storage, states))
    return undone if behind or undone.failed else None


def _is_behind(report: Path, records: Iterable[float]) -> bool:
    """Whether a report is older than some record, both by the storage's clock, or is not there."""
    try:
        built = report.stat().st_mtime
    except FileNotFoundError:
        return True
    return any(written > built for written in records)


def _record_times(storage: Storage, states: Mapping[str, TaskState]) -> Iterable[float]:
    for task in states:
        try:
            yield (storage.runs / task / RECORD).stat().st_mtime
        except FileNotFoundError:
            continue
