"""What a closing job does: which tasks are tried again, which trials are given up, what is cleared away."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.decisions.retry import RESUMED, Retry, retry_of
from pipeline.decisions.task_state import QueueEvidence, TaskState

if TYPE_CHECKING:
    from pipeline.plan import Planned
    from pipeline.queue import QueuedAs
    from pipeline.submission import Submission

CLOSE = "close"  # stage and group of a closing job
GIVEN_UP = "trials that it waited for are given up"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosingEvidence:
    """What a closing job goes by.

    ``submission`` is its own, ``submissions`` are all of the storage. ``queue_history`` has every element that a task
    was in, oldest first. ``progressed`` are tasks whose newest attempt got further (of those that ``resumable``
    names), ``unrecorded`` trials without a readable record (of those that ``lost_candidates`` names). ``retries`` is
    the manifest's budget.
    """

    tasks: Sequence[Planned]
    states: Mapping[str, TaskState]
    retries: int
    submission: Submission
    submissions: Sequence[Submission]
    queue_history: Mapping[str, Sequence[QueuedAs]]
    progressed: Collection[str] = ()
    unrecorded: Collection[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosingActions:
    """What a closing job carries out, in this order.

    ``lost_trials`` are recorded as failed, ``retries`` are submitted, submitit's own files of the submissions
    ``finished`` are removed, and the job ends with ``exit_status``.
    """

    lost_trials: tuple[str, ...]
    retries: Mapping[str, Retry]
    finished: tuple[str, ...]
    exit_status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoneClosing:
    """A closing job that did not do its work: how its job ended, None where none was queued, and where its log is.

    ``failed`` are tasks of its submission that it did not try again.
    """

    submission: str
    job: str | None
    reason: str | None
    log: str | None = None
    failed: tuple[str, ...] = ()

    def explained(self, reason: str | None, log: str | None) -> UndoneClosing:
        """The same with what a log says of it."""
        return replace(self, reason=reason or self.reason, log=log)

    @property
    def line(self) -> str:
        job = "no closing job was queued" if self.job is None else f"the closing job {self.job} failed"
        because = f" ({self.reason})" if self.reason else ""
        left = f", {len(self.failed)} failed and not tried again" if self.failed else ""
        log = f"; its log: {self.log}" if self.log else ""
        return f"{job}{because}: the report was not rebuilt{left}{log}; `tanda submit` makes up for it"


def undone_closing(
    submission: Submission, closing: QueueEvidence | None, states: Mapping[str, TaskState]
) -> UndoneClosing | None:
    """What is left undone of a submission whose closing job has not said that it is done; None while it still may.

    A job that ended well is taken at its word: on shared storage its note may be seen later.
    """
    if closing is None:
        # Being submitted, or that was cut short: as long as something is queued, nobody misses it.
        if any(state.queued for state in states.values()):
            return None
        job, reason = None, submission.held.get(CLOSE)
    elif not closing.job.over or closing.job.state == "done":
        return None
    else:
        job, reason = closing.job.id, closing.job.cause or closing.job.reason
    failed = tuple(
        task
        for task, state in states.items()
        if state.state in ("failed", "lost") and state.submission == submission.name
    )
    return UndoneClosing(submission=submission.name, job=job, reason=reason, failed=failed)


def closing_actions(evidence: ClosingEvidence) -> ClosingActions:
    """All that a closing job does about where its submission stands."""
    changes = retries(evidence)
    lost = tuple(
        planned.id
        for planned in evidence.tasks
        if planned.id in evidence.unrecorded and planned.id not in changes and _is_newest(planned.id, evidence)
    )
    changes |= retries_without(evidence.tasks, evidence.states, lost)
    return ClosingActions(
        lost_trials=lost,
        retries=changes,
        finished=finished_submissions(evidence.submission.manifest, evidence.submissions, evidence.states),
        exit_status=exit_status(evidence.states, changes),
    )


def retries(evidence: ClosingEvidence) -> dict[str, Retry]:
    """What of this submission is tried again, and everything that waits for it; a task's newest element decides.

    What a limit of the site kept from the queue before is tried too: there may be room for it now. A task that a
    later submission has taken over is left to that one.
    """
    own, states = evidence.submission, evidence.states
    changes: dict[str, Retry] = {}
    for planned in evidence.tasks:
        elements, state = evidence.queue_history.get(planned.id, ()), states[planned.id]
        if elements and elements[-1].time > own.time:
            continue
        if planned.id in own.held and not state.queued and state.state != "done":
            changes[planned.id] = Retry(reason=f"not queued before: {own.held[planned.id]}")
        if planned.id in changes or not _is_newest(planned.id, evidence):
            continue
        change = _retry(planned, evidence, changes)
        if change is not None:
            changes[planned.id] = change
    return changes


def _retry(planned: Planned, evidence: ClosingEvidence, changes: Mapping[str, Retry]) -> Retry | None:
    states, elements = evidence.states, evidence.queue_history[planned.id]
    state = states[planned.id]
    upstream = [need for need in (*planned.task.needs, *planned.after) if need in changes]
    ready = all(states[need].state == "done" for need in planned.task.needs if need in states)
    if upstream and state.state != "done":
        return Retry(reason=f"{upstream[0]} is retried")
    if state.cause == "upstream failed" and not ready:
        return None
    return retry_of(
        state,
        tries=len(elements),
        retries=evidence.retries,
        progressed=planned.id in evidence.progressed,
        memory_raised=elements[-1].mem_gb > planned.resources.mem_gb,
        packed=elements[-1].packed > 1,
    )


def _is_newest(task: str, evidence: ClosingEvidence) -> bool:
    """Whether a task was queued by the closing job's own submission, and by none since."""
    elements = evidence.queue_history.get(task, ())
    return bool(elements) and elements[-1].submission == evidence.submission.name


def resumable(states: Mapping[str, TaskState]) -> tuple[str, ...]:
    """The tasks of which it matters whether their newest attempt got further."""
    return tuple(task for task, state in states.items() if state.cause in RESUMED)


def lost_candidates(tasks: Iterable[Planned], states: Mapping[str, TaskState]) -> tuple[str, ...]:
    """The trials that ended without a result: those of them that have no record left none."""
    return tuple(
        planned.id for planned in tasks if planned.stage == "trial" and states[planned.id].state in ("failed", "lost")
    )


def retries_without(
    tasks: Iterable[Planned], states: Mapping[str, TaskState], lost: Collection[str]
) -> dict[str, Retry]:
    """What may be tried again because trials that it waited for are given up, and what needs that in turn."""
    changes: dict[str, Retry] = {}
    for planned in tasks:
        waited = not set(lost).isdisjoint(planned.after) or not changes.keys().isdisjoint(planned.task.needs)
        if waited and states[planned.id].cause == "upstream failed":
            changes[planned.id] = Retry(reason=GIVEN_UP)
    return changes


def finished_submissions(
    manifest: str, submissions: Iterable[Submission], states: Mapping[str, TaskState]
) -> tuple[str, ...]:
    """Submissions of a manifest whose tasks are all done.

    A task that the plan does not have (the manifest was edited since, or another group was submitted) may be live, and
    what submitit keeps there is what it starts from: such a submission is left to its own closing job.
    """
    return tuple(
        submission.name
        for submission in submissions
        if submission.manifest == manifest
        and not submission.by_hand  # whose scripts may still be submitted
        and all(task in states and states[task].state == "done" for task in submission.tasks)
    )


def chain(own: Submission, submissions: Iterable[Submission]) -> tuple[Submission, ...]:
    """A submission, and those that it continues, the newest first."""
    known = {submission.name: submission for submission in submissions}
    links = [own]
    # By names that begin with the time, one is older than what continues it: a file that says otherwise ends the chain.
    while (earlier := known.get(links[-1].continues or "")) is not None and earlier.name < links[-1].name:
        links.append(earlier)
    return tuple(links)


def tells_end(own: Submission, submissions: Sequence[Submission], told: Collection[str]) -> bool:
    """Whether the closing job of a submission tells a person that it is over; ``told`` are those of which it was told.

    Not where a later one goes on with it, which tells it then; nor where it makes up for another closing job alone,
    which had told it.
    """
    if any(later.continues == own.name and any(array.elements for array in later.arrays) for later in submissions):
        return False
    for link in chain(own, submissions):
        if link.name in told:
            return False
        if link.tasks:
            break
    return True


def exit_status(states: Mapping[str, TaskState], changes: Collection[str]) -> int:
    """0 when all that failed or is lost is tried again, else 1."""
    return int(any(state.state in ("failed", "lost") for task, state in states.items() if task not in changes))
