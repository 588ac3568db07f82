"""The state of one task, from what storage, the executor and its own process left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.context import Progress
    from jobs.gpu_use import GpuUse
    from jobs.task import Record
    from pipeline.element_log import LastWords
    from slurm.job_state import JobState

STATES = ("waiting", "running", "done", "failed", "lost", "unknown")
# What an executor says where a task has causes of its own: both mean that it was cut short and came no further.
# How a process ends that the storage did not let begin, or record its end, or read a mapped file (SIGBUS).
STORAGE_EXITS = (73, -7)
TASK_CAUSES = {"preempted": "preempted too often", "paused": "preempted too often"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """One task's state; ``cause`` is one of ``jobs.task.CAUSES`` where it failed, ``job`` is Slurm's id."""

    id: str
    state: str
    cause: str | None = None
    message: str | None = None
    attempts: int = 0
    gpu_hours: float | None = None
    progress: Progress | None = None
    job: str | None = None
    reason: str | None = None
    node: str | None = None
    peak_mem_gb: float | None = None
    waited_s: float | None = None
    planned_start: float | None = None  # by Slurm's backfill, of one that waits: seconds since the epoch
    executor: str | None = None
    cluster: str | None = None  # that has to be named to reach its element; None: this machine's
    mine: bool = True  # its element, if it has one, is this user's to cancel, release or wait for
    user: str | None = None  # who queued it, where that was not this user
    queued: bool = False  # live in an executor's queue, so that submitting again would run it twice
    shown: bool = False  # as live and ours by its executor: by a heartbeat alone, its element may be another's by now
    changed: tuple[str, ...] = ()  # in what the code that made its result was not what it is now, in words
    submission: str | None = None  # by which it was queued last
    gpu: GpuUse | None = None  # what its GPU did, over all attempts
    log: str | None = None  # its element's, where that ended before the task wrote a line of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEvidence:
    """One attempt: times in seconds since the epoch, None where its files do not say.

    ``heartbeat_age_s`` is how old its last heartbeat was when it was read.
    """

    number: int
    started: float | None = None
    ended: float | None = None
    last_heartbeat: float | None = None
    heartbeat_age_s: float | None = None
    gpus: float = 0
    peak_mb: float | None = None

    def is_alive(self, stale_s: float) -> bool:
        """Whether it did not end, and its last heartbeat is younger than ``stale_s``."""
        return self.ended is None and self.heartbeat_age_s is not None and self.heartbeat_age_s < stale_s

    @property
    def gpu_s(self) -> float:
        """GPU-seconds until its end, or until its last heartbeat where it has none."""
        ended = self.ended or self.last_heartbeat
        return self.gpus * max(0.0, ended - self.started) if self.started is not None and ended else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEvidence:
    """What an executor says of the element that a task was queued in last; ``packed`` tasks share it.

    ``user`` is who queued it, where that was not this user, ``submission`` by which submission.
    """

    executor: str
    job: JobState
    packed: int = 1
    user: str | None = None
    submission: str | None = None

    @property
    def is_live(self) -> bool:
        return self.job.state in ("waiting", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known of one task.

    ``pack`` is how many tasks share an allocation by the plan. ``record_error`` says why a record cannot be read;
    ``files_intact`` whether the files that the record names are there. ``superseded`` is a shard whose data set is
    done. ``exit_code`` is what the element wrote of the task's process, negative for a signal. ``held_note`` is why
    the task did not start when its turn came. ``continued`` is how the attempt stands that trains a stopped trial on,
    mostly in another task's process; its record is then the former one. ``changed`` says in what the code that made the
    record was not what it is now (``jobs.units``). ``last_words`` are the logs' of an element that is over, where no
    record tells of its end. ``gpu`` is what the GPU did, by the record of a task that is done, else by its attempts.
    """

    id: str
    pack: int = 1
    superseded: bool = False
    record: Record | None = None
    record_error: str | None = None
    files_intact: bool = False
    queue: QueueEvidence | None = None
    attempts: tuple[AttemptEvidence, ...] = ()
    exit_code: int | None = None
    held_note: str | None = None
    progress: Progress | None = None
    continued: str | None = None
    changed: tuple[str, ...] = ()
    last_words: LastWords | None = None
    gpu: GpuUse | None = None

    @property
    def is_done(self) -> bool:
        """Whether a record says done, all that it names is there, and no attempt goes on from it."""
        done = self.record is not None and self.record.state == "done"
        return done and self.files_intact and self.continued is None


def decide(evidence: Evidence, *, stale_s: float) -> TaskState:
    """The state of a task; an attempt whose last heartbeat is ``stale_s`` old is over.

    A result on storage counts first, then an element that is live, then the record of the newest attempt, then how
    the element and the process ended. Where the executor does not answer and nothing else does, the state is unknown.
    """
    record, queue = evidence.record, evidence.queue
    if record is not None and evidence.is_done:
        return _done(evidence, record)
    if evidence.superseded:
        return TaskState(id=evidence.id, state="done", message="its data set is whole")
    if queue is not None and queue.is_live:
        return _live(evidence, queue.job)
    if evidence.continued == "running":
        return _state(evidence, "running", progress=evidence.progress)
    if evidence.continued is not None:
        return _state(evidence, "lost", message="stopped by its search, then continued; that was interrupted")
    if evidence.record_error is not None:
        return _state(evidence, "failed", cause="error", message=evidence.record_error)
    if record is not None and record.state == "done":
        return _state(evidence, "lost", message="its record says done, but files that it names are gone")
    if record is not None and _newest_number(evidence) <= record.attempt:
        failed = _state(evidence, "failed", cause=record.cause, message=record.message)
        # Without accounting Slurm forgets a job minutes after its end, and with it where it ran.
        return replace(failed, node=failed.node or record.about.slurm.get("slurmd_nodename"))
    return _ended_without_record(evidence, stale_s)


def with_upstream_cause(state: TaskState, needs: tuple[str, ...], states: Mapping[str, TaskState]) -> TaskState:
    """A task that Slurm cancelled because what it waits for failed has that cause, not a person's cancellation."""
    if state.cause != "cancelled":
        return state
    failed = [need for need in needs if need in states and states[need].state in ("failed", "lost")]
    if not failed:
        return state
    return replace(state, cause="upstream failed", message=f"needs {', '.join(failed)}, which failed")


def _done(evidence: Evidence, record: Record) -> TaskState:
    """A finished task, from its record alone: of thousands, nothing else has to be opened."""
    peak_mb = record.about.peak_mb
    return TaskState(
        id=evidence.id,
        state="done",
        attempts=record.attempt - record.former_attempts,
        gpu_hours=record.running_s * record.about.gpus / 3600 / evidence.pack,
        peak_mem_gb=round(peak_mb / 1024, 3) if peak_mb else None,
        changed=evidence.changed,
        gpu=evidence.gpu,
    )


def _state(evidence: Evidence, state: str, **facts: Any) -> TaskState:
    queue = evidence.queue
    job = queue.job if queue else None
    return TaskState(
        id=evidence.id,
        state=state,
        attempts=len(evidence.attempts),
        gpu_hours=_gpu_hours(evidence),
        job=job.id if job else None,
        executor=queue.executor if queue else None,
        submission=queue.submission if queue else None,
        cluster=job.named_cluster if job else None,
        mine=queue is None or queue.user is None,
        user=queue.user if queue else None,
        node=job.node if job else None,
        peak_mem_gb=_peak_gb(evidence),
        waited_s=job.waited_s if job else None,
        gpu=evidence.gpu,
        # Of an element that may still be there, a second one must not be queued.
        queued=queue is not None and (queue.is_live or queue.job.state == "unknown"),
        shown=queue is not None and queue.is_live,
        **facts,
    )


def _live(evidence: Evidence, job: JobState) -> TaskState:
    if job.state == "running":
        return _state(evidence, "running", reason=job.reason, progress=evidence.progress)
    return _state(evidence, "waiting", reason=evidence.held_note or job.reason, planned_start=job.planned_start)


def _newest_number(evidence: Evidence) -> int:
    return evidence.attempts[-1].number if evidence.attempts else 0


def _ended_without_record(evidence: Evidence, stale_s: float) -> TaskState:
    """Not live, and no record of the newest attempt: the executor's answer counts, then the exit code."""
    if evidence.held_note is not None:
        return _state(evidence, "waiting", reason=f"held: {evidence.held_note}")
    if evidence.queue is None:
        return _state(evidence, "waiting", reason="not submitted")
    job = evidence.queue.job
    alive = bool(evidence.attempts) and evidence.attempts[-1].is_alive(stale_s)
    if job.state in ("unknown", "gone") and alive:
        return _state(evidence, "running", reason=job.reason, progress=evidence.progress)
    if job.state == "unknown":
        # Slurm or its accounting is silent, or cannot be understood: nothing says that the task ended.
        return _state(evidence, "unknown", reason=job.reason or "its state is not known at the moment")
    cause = _cause(job, evidence.exit_code)
    words = evidence.last_words
    log = words.log if words else None
    # Of a task that had begun, the last line tells why only where the task ended by itself.
    reason = words.reason if words and (words.log or cause == "error") and cause in (None, "error", "killed") else None
    if cause is None:
        return _state(evidence, "lost", message=reason or job.reason or "it ended without a record", log=log)
    return _state(evidence, "failed", cause=cause, message=reason or job.reason, log=log)


def _cause(job: JobState, exit_code: int | None) -> str | None:
    cause = TASK_CAUSES.get(job.cause or "", job.cause)
    if cause not in (None, "error"):
        return cause
    # One of several packed side by side: the element's status is not this task's.
    if exit_code in STORAGE_EXITS:
        return "storage"
    if exit_code is not None and exit_code < 0:
        return "killed"
    return cause if exit_code is None else "error"


def _gpu_hours(evidence: Evidence) -> float:
    """Every attempt counted, each task its share of an allocation: Slurm's sum, or else from the attempts."""
    if evidence.queue is not None and evidence.queue.job.gpu_hours:
        return evidence.queue.job.gpu_hours / evidence.queue.packed
    return sum(attempt.gpu_s for attempt in evidence.attempts) / 3600 / evidence.pack


def _peak_gb(evidence: Evidence) -> float | None:
    peaks = [attempt.peak_mb for attempt in evidence.attempts if attempt.peak_mb is not None]
    if evidence.queue is not None and evidence.queue.job.max_rss_mb is not None:
        peaks.append(evidence.queue.job.max_rss_mb)
    return round(max(peaks) / 1024, 3) if peaks else None
