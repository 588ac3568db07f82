"""What the executors say of the tasks that were handed to them: each task's newest element, and all of them in cost."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from jobs.storage import Storage
from pipeline.executors import observe
from pipeline.submission import Submission, read_all
from slurm.answers import Sent
from slurm.states import GONE, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
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
class Said:
    """What an executor says of a task's newest element, and where that is."""

    place: Place
    job: JobState

    @property
    def live(self) -> bool:
        return self.job.state in ("waiting", "running")


def ask(storage: Storage, wanted: Collection[str]) -> dict[str, Said]:
    """What the executors say of the newest element of each wanted task; tasks never queued are left out."""
    newest = {task: homes[-1] for task, homes in places(read_all(storage), wanted).items()} if wanted else {}
    said: dict[str, Said] = {}
    for executor, uid in {place.queue for place in newest.values()}:
        mine = {task: place for task, place in newest.items() if place.queue == (executor, uid)}
        by_time = sorted(mine.values(), key=lambda place: place.time)
        sent = {place.element: place.sent for place in by_time}
        jobs = observe(storage, executor, sent, uid)
        for task, place in mine.items():
            # A number that Slurm used again, for another submission of ours: the later one has it.
            again = JobState(id=place.element, state=GONE, reason="its number was used again")
            job = jobs[place.element] if sent[place.element] == place.sent else again
            said[task] = Said(place=place, job=job)
    return said


def places(submissions: Iterable[Submission], wanted: Collection[str]) -> dict[str, list[Place]]:
    """Every element that each wanted task was ever in, oldest first."""
    found: dict[str, list[Place]] = {}
    for submission in submissions:
        for array in submission.arrays:
            for element, tasks in array.elements.items():
                for task in tasks:
                    if task in wanted:
                        place = Place(
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


def closing(storage: Storage, manifest: str) -> bool:
    """Whether a closing job of the manifest's newest submission has still to run, or is at it."""
    mine = [submission for submission in read_all(storage) if submission.manifest == manifest]
    if not mine:
        return False
    sent = {job: mine[-1].sent(array) for array in mine[-1].arrays if array.stage == "close" for job in array.elements}
    states = observe(storage, mine[-1].executor, sent, mine[-1].uid)
    return any(state.state in ("waiting", "running") for state in states.values())
