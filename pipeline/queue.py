"""What was handed to the executors: where each task was queued, and what they show of it."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jobs.storage import Storage
from pipeline.decisions.closing import CLOSE
from pipeline.decisions.task_state import QueueEvidence
from pipeline.manifest.model import Manifest
from pipeline.submission import Queued, Submission, newest, read_all
from sharedfs.errors import DamagedFileError
from sharedfs.files import read_plain
from sharedfs.typed_json import decode
from slurm.array import Site, array_id
from slurm.commands import warn_once
from slurm.element import EXITS, Exit
from slurm.errors import SchedulerError
from slurm.executors import Executor, make
from slurm.job_state import GONE, UNKNOWN, WAITING, JobIdentity, JobState
from slurm.owned import check_own


def make_executor(name: str, manifest: Manifest) -> Executor:
    """The executor of that name for a manifest's cluster and storage; raises ValueError for an unknown one."""
    folder = local_folder(Storage(manifest.storage), os.geteuid())
    return make(name, folder=folder, site=manifest.cluster, entry=_run_here)


def observe(
    storage: Storage, name: str, sent: Mapping[str, JobIdentity], uid: int | None, cluster: str | None = None
) -> Mapping[str, JobState]:
    """What an executor shows of the elements that the user ``uid`` sent to it, on the cluster that was named to it.

    No user stands for a submission of an earlier version, which had one local queue for all users.
    """
    if uid is None and name == "local":
        reason = "queued by an earlier version of tanda"
        return {element: JobState(id=element, state=GONE, reason=reason) for element in sent}
    folder = local_folder(storage, os.geteuid() if uid is None else uid)
    if name == "local" and folder.exists():
        check_own(folder, uid)
    return make(name, folder=folder, site=Site(clusters=cluster), entry=_run_here).states(sent, sent=sent)


def local_folder(storage: Storage, uid: int) -> Path:
    """The queue of one user's local processes on this machine."""
    # Process ids mean something on their own machine only.
    return storage.local / socket.gethostname() / str(uid)


def _run_here(path: Path) -> int:
    from jobs.entry import run

    # A task takes these signals and saves; in a notebook, or between two tasks, Ctrl-C is this process's again.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)}
    try:
        return run(path)
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # one that was not set from Python cannot be set again
                signal.signal(number, handler)


# The element of each task, and what its executor shows of it: of each task the newest, and all of them.


class Queue(NamedTuple):
    """Where ids of elements are unique: an executor, and of it one user's local processes or one cluster.

    ``named_cluster`` is there where the cluster has to be named; ``cluster`` is what it is called in any case.
    """

    executor: str
    uid: int | None
    named_cluster: str | None
    cluster: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedAs:
    """Where a task was queued: by which submission, in which element."""

    submission: str
    executor: str
    element: str
    time: float
    mem_gb: float
    packed: int
    sent: JobIdentity
    named_cluster: str | None = None

    @classmethod
    def of(cls, submission: Submission, array: Queued, element: str) -> QueuedAs:
        """An element of an array of a submission."""
        return cls(
            submission=submission.name,
            executor=submission.executor,
            element=element,
            time=submission.time,
            mem_gb=array.mem_gb,
            packed=len(array.elements[element]),
            sent=submission.sent(array),
            named_cluster=array.named_cluster,
        )

    @property
    def queue(self) -> Queue:
        uid = self.sent.uid if self.executor == "local" else os.geteuid()
        return Queue(self.executor, uid, self.named_cluster, self.sent.cluster)


def query(storage: Storage, wanted: Collection[str], closing: QueuedAs | None = None) -> dict[str, QueueEvidence]:
    """What the executors show of the newest element of each wanted task; tasks never queued are left out.

    A ``closing`` job is asked about by the same commands, and found under CLOSE.
    """
    last = {task: every[-1] for task, every in queue_history(read_all(storage), wanted).items()} if wanted else {}
    if closing is not None:
        last[CLOSE] = closing
    evidence: dict[str, QueueEvidence] = {}
    for queue in {queued.queue for queued in last.values()}:
        tasks = {task: queued for task, queued in last.items() if queued.queue == queue}
        sent = {queued.element: queued.sent for queued in sorted(tasks.values(), key=lambda queued: queued.time)}
        jobs = _observe_or_unknown(storage, queue, sent)
        for task, queued in tasks.items():
            job = jobs[queued.element]
            if sent[queued.element] is not queued.sent and sent[queued.element] != queued.sent:
                # Slurm used the number again, for a later submission of ours: the job is that one's.
                job = JobState(id=queued.element, state=GONE, reason="its number was used again")
            evidence[task] = QueueEvidence(
                executor=queued.executor,
                job=job,
                packed=queued.packed,
                user=_other_user(queued.sent.uid),
                submission=queued.submission,
            )
    return evidence


def still_waiting(storage: Storage, wanted: Collection[str]) -> frozenset[str]:
    """Those of these tasks that were in an array of this user's of which any element waits, theirs or another.

    What depends on them waits for the whole array, as a rule, and may have been queued before their newest element.
    """
    submissions = read_all(storage) if wanted else []
    arrays = {
        task: {(each.queue, array_id(each.element)) for each in elements if _other_user(each.sent.uid) is None}
        for task, elements in queue_history(submissions, wanted).items()
    }
    asked: dict[Queue, dict[str, JobIdentity]] = {}
    for submission in submissions:
        for array in submission.arrays:
            for each in (QueuedAs.of(submission, array, element) for element in array.elements):
                if any((each.queue, array_id(each.element)) in theirs for theirs in arrays.values()):
                    asked.setdefault(each.queue, {})[each.element] = each.sent
    waiting = {
        (queue, array_id(job.id))
        for queue, sent in asked.items()
        for job in _observe_or_unknown(storage, queue, sent).values()
        if job.state == WAITING
    }
    return frozenset(task for task, theirs in arrays.items() if not theirs.isdisjoint(waiting))


def _observe_or_unknown(storage: Storage, queue: Queue, sent: Mapping[str, JobIdentity]) -> Mapping[str, JobState]:
    try:
        return observe(storage, queue.executor, sent, queue.uid, queue.named_cluster)
    except (OSError, SchedulerError, DamagedFileError) as error:
        # Another user's submission or queue that cannot be used must not hide the state of all the rest.
        warn_once(f"the {queue.executor} queue of user {queue.uid} cannot be read: {error}")
        return {element: JobState(id=element, state=UNKNOWN, reason=str(error)) for element in sent}


def _other_user(uid: int | None) -> str | None:
    """The name of another user; None for this one, and where a submission of an earlier version does not say."""
    if uid is None or uid == os.geteuid():
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def queue_history(submissions: Iterable[Submission], wanted: Collection[str]) -> dict[str, list[QueuedAs]]:
    """Every element that each wanted task was in, oldest first, since its result was last made again."""
    history: dict[str, list[QueuedAs]] = {}
    for submission in submissions:
        for task in submission.remade:
            history.pop(task, None)
        for array in submission.arrays:
            for element, tasks in array.elements.items():
                queued = QueuedAs.of(submission, array, element)
                for task in tasks:
                    if task in wanted:
                        history.setdefault(task, []).append(queued)
    return history


def is_closing(storage: Storage, manifest: str) -> bool:
    """Whether the manifest's newest closing job waits or runs: while that one queues what is tried again, the newest
    submission has none yet."""
    made = newest(storage, manifest, CLOSE)
    if made is None:
        return False
    closing = next(array for array in made.arrays if array.stage == CLOSE)
    sent = dict.fromkeys(closing.elements, made.sent(closing))
    states = observe(storage, made.executor, sent, made.uid, closing.named_cluster)
    return any(state.state in ("waiting", "running") for state in states.values())


def last_exit_code(path: Path, element: str) -> int | None:
    """The status with which a path's newest child of that element ended, if the child could not record it itself."""
    files = [(file.stem.rpartition("-")[2], file) for file in (path / EXITS).glob(f"{element}-*.json")]
    starts = {int(start): file for start, file in files if start.isdigit()}
    codes = (_exit_code(starts[start]) for start in sorted(starts, reverse=True))
    return next((code for code in codes if code is not None), None)


def _exit_code(file: Path) -> int | None:
    try:
        return decode(Exit, json.loads(read_plain(file))).exit_code
    except (OSError, ValueError):
        return None
