"""What was handed to the executors: where each task was queued, and what is said of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path

from jobs.storage import Storage
from pipeline.manifest.model import Manifest
from pipeline.submission import Submission, read_all
from slurm.errors import SchedulerError
from slurm.executors import Executor, make
from slurm.output import Sent, warn_once
from slurm.owned import check_own
from slurm.query import GONE, UNKNOWN, JobState


def make_executor(name: str, manifest: Manifest) -> Executor:
    """The executor of that name for a manifest's cluster and storage; raises ValueError for an unknown one."""
    folder = local_folder(Storage(manifest.storage), os.geteuid())
    return make(name, folder=folder, site=manifest.cluster, entry=_run_here)


def observe(storage: Storage, name: str, sent: Mapping[str, Sent], uid: int | None) -> Mapping[str, JobState]:
    """What an executor says of the elements that the user ``uid`` ``sent`` to it; None stands for a submission of an
    earlier version, which had one local queue for everybody."""
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

    return run(path)


# What the executors say of the tasks that were handed to them: each task's newest element, and all of them in cost.


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedAs:
    """Where a task was queued: by which submission, in which element."""

    submission: str
    executor: str
    element: str
    time: float
    mem_gb: float
    packed: int
    sent: Sent

    @property
    def queue(self) -> tuple[str, int | None]:
        """The executor, and whose queue of it: local processes are each user's own."""
        return self.executor, self.sent.uid if self.executor == "local" else os.geteuid()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """What an executor says of a task's newest element, and where that is."""

    place: QueuedAs
    job: JobState

    @property
    def live(self) -> bool:
        return self.job.state in ("waiting", "running")


def query(storage: Storage, wanted: Collection[str]) -> dict[str, QueueStatus]:
    """What the executors say of the newest element of each wanted task; tasks never queued are left out."""
    newest = {task: homes[-1] for task, homes in queue_history(read_all(storage), wanted).items()} if wanted else {}
    said: dict[str, QueueStatus] = {}
    for executor, uid in {place.queue for place in newest.values()}:
        mine = {task: place for task, place in newest.items() if place.queue == (executor, uid)}
        by_time = sorted(mine.values(), key=lambda place: place.time)
        sent = {place.element: place.sent for place in by_time}
        jobs = _observe_or_unknown(storage, executor, sent, uid)
        for task, place in mine.items():
            # A number that Slurm used again, for another submission of ours: the later one has it.
            again = JobState(id=place.element, state=GONE, reason="its number was used again")
            job = jobs[place.element] if sent[place.element] == place.sent else again
            said[task] = QueueStatus(place=place, job=job)
    return said


def _observe_or_unknown(
    storage: Storage, executor: str, sent: Mapping[str, Sent], uid: int | None
) -> Mapping[str, JobState]:
    try:
        return observe(storage, executor, sent, uid)
    except (OSError, SchedulerError, JSONDecodeError) as error:
        # Somebody else's submission or queue that cannot be used must not hide how all the rest stands.
        warn_once(f"the {executor} queue of user {uid} cannot be asked: {error}")
        return {element: JobState(id=element, state=UNKNOWN, reason=str(error)) for element in sent}


def queue_history(submissions: Iterable[Submission], wanted: Collection[str]) -> dict[str, list[QueuedAs]]:
    """Every element that each wanted task was ever in, oldest first."""
    found: dict[str, list[QueuedAs]] = {}
    for submission in submissions:
        for array in submission.arrays:
            for element, tasks in array.elements.items():
                for task in tasks:
                    if task in wanted:
                        place = QueuedAs(
                            submission=submission.name,
                            executor=submission.executor,
                            element=element,
                            time=submission.time,
                            mem_gb=array.mem_gb,
                            packed=len(tasks),
                            sent=submission.sent(array),
                        )
                        found.setdefault(task, []).append(place)
    return found


def is_closing(storage: Storage, manifest: str) -> bool:
    """Whether a closing job of the manifest's newest submission has still to run, or is at it."""
    mine = [submission for submission in read_all(storage) if submission.manifest == manifest]
    if not mine:
        return False
    sent = {job: mine[-1].sent(array) for array in mine[-1].arrays if array.stage == "close" for job in array.elements}
    states = observe(storage, mine[-1].executor, sent, mine[-1].uid)
    return any(state.state in ("waiting", "running") for state in states.values())
