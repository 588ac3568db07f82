"""What was handed to the executors: where each task was queued, and what they show of it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.storage import Storage
from pipeline.decisions.task_state import QueueEvidence
from pipeline.manifest.model import Manifest
from pipeline.submission import CLOSE, Submission, read_all
from sharedfs.errors import DamagedFileError
from slurm.commands import warn_once
from slurm.errors import SchedulerError
from slurm.executors import Executor, make
from slurm.job_state import GONE, UNKNOWN, WAITING, JobIdentity, JobState
from slurm.owned import check_own


def make_executor(name: str, manifest: Manifest) -> Executor:
    """The executor of that name for a manifest's cluster and storage; raises ValueError for an unknown one."""
    folder = local_folder(Storage(manifest.storage), os.geteuid())
    return make(name, folder=folder, site=manifest.cluster, entry=_run_here)


def observe(storage: Storage, name: str, sent: Mapping[str, JobIdentity], uid: int | None) -> Mapping[str, JobState]:
    """What an executor shows of the elements that the user ``uid`` sent to it.

    None stands for a submission of an earlier version, which had one local queue for all users.
    """
    if uid is None and name == "local":
        reason = "queued by an earlier version of tanda"
        return {element: JobState(id=element, state=GONE, reason=reason) for element in sent}
    folder = local_folder(storage, os.geteuid() if uid is None else uid)
    if name == "local" and folder.exists():
        check_own(folder, uid)
    return make(name, folder=folder, entry=_run_here).states(sent, sent=sent)


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

    @property
    def queue(self) -> tuple[str, int | None]:
        """The executor, and the user whose queue of it: local processes are each user's own."""
        return self.executor, self.sent.uid if self.executor == "local" else os.geteuid()


def query(storage: Storage, wanted: Collection[str]) -> dict[str, QueueEvidence]:
    """What the executors show of the newest element of each wanted task; tasks never queued are left out."""
    newest = {task: every[-1] for task, every in queue_history(read_all(storage), wanted).items()} if wanted else {}
    evidence: dict[str, QueueEvidence] = {}
    for queue in {queued.queue for queued in newest.values()}:
        tasks = {task: queued for task, queued in newest.items() if queued.queue == queue}
        sent = {queued.element: queued.sent for queued in sorted(tasks.values(), key=lambda queued: queued.time)}
        jobs = _observe_or_unknown(storage, *queue, sent)
        for task, queued in tasks.items():
            job = jobs[queued.element]
            if sent[queued.element] is not queued.sent and sent[queued.element] != queued.sent:
                # Slurm used the number again, for a later submission of ours: the job is that one's.
                job = JobState(id=queued.element, state=GONE, reason="its number was used again")
            mine = queued.sent.uid in (None, os.geteuid())
            evidence[task] = QueueEvidence(executor=queued.executor, job=job, packed=queued.packed, mine=mine)
    return evidence


def still_waiting(storage: Storage, wanted: Collection[str]) -> frozenset[str]:
    """Those of these tasks of which any element of this user's waits in a queue, not the newest alone."""
    history = queue_history(read_all(storage), wanted) if wanted else {}
    every = [queued for elements in history.values() for queued in elements if queued.sent.uid in (None, os.geteuid())]
    waiting: set[tuple[str, str]] = set()
    for executor, uid in {queued.queue for queued in every}:
        sent = {queued.element: queued.sent for queued in every if queued.queue == (executor, uid)}
        jobs = _observe_or_unknown(storage, executor, uid, sent)
        waiting |= {(executor, element) for element, job in jobs.items() if job.state == WAITING}
    return frozenset(
        task for task, elements in history.items() if any((each.executor, each.element) in waiting for each in elements)
    )


def _observe_or_unknown(
    storage: Storage, executor: str, uid: int | None, sent: Mapping[str, JobIdentity]
) -> Mapping[str, JobState]:
    try:
        return observe(storage, executor, sent, uid)
    except (OSError, SchedulerError, DamagedFileError) as error:
        # Another user's submission or queue that cannot be used must not hide the state of all the rest.
        warn_once(f"the {executor} queue of user {uid} cannot be read: {error}")
        return {element: JobState(id=element, state=UNKNOWN, reason=str(error)) for element in sent}


def queue_history(submissions: Iterable[Submission], wanted: Collection[str]) -> dict[str, list[QueuedAs]]:
    """Every element that each wanted task was in, oldest first, since its result was last made again."""
    history: dict[str, list[QueuedAs]] = {}
    for submission in submissions:
        for task in submission.remade:
            history.pop(task, None)
        for array in submission.arrays:
            sent = submission.sent(array)
            for element, tasks in array.elements.items():
                queued = QueuedAs(
                    submission=submission.name,
                    executor=submission.executor,
                    element=element,
                    time=submission.time,
                    mem_gb=array.mem_gb,
                    packed=len(tasks),
                    sent=sent,
                )
                for task in tasks:
                    if task in wanted:
                        history.setdefault(task, []).append(queued)
    return history


def is_closing(storage: Storage, manifest: str) -> bool:
    """Whether the closing job of the manifest's newest submission waits or runs."""
    newest = next((made for made in reversed(read_all(storage)) if made.manifest == manifest), None)
    if newest is None:
        return False
    sent = {job: newest.sent(array) for array in newest.arrays if array.stage == CLOSE for job in array.elements}
    states = observe(storage, newest.executor, sent, newest.uid)
    return any(state.state in ("waiting", "running") for state in states.values())
