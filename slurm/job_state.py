"""A job's state as a type, and how it follows from the rows of Slurm's queue and accounting.

The rule: a job that is live in the queue is not finished, whatever the accounting says (after a node failure or a
preemption that shows only the old row for some seconds). Once a job is over or gone from the queue, the newest row of
the accounting for it counts. No answer changes nothing: that is unknown, not failed.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from slurm.reasons import is_waiting_reason

WAITING, RUNNING, DONE, FAILED, GONE, UNKNOWN = STATES = ("waiting", "running", "done", "failed", "gone", "unknown")
CAUSES = (
    "error", "out of memory", "time limit", "node failure", "cancelled", "preempted", "killed", "paused", "storage",
)  # fmt: skip
PAUSED_CODE = 75  # the element saved, wants to be started again, and could not see to it itself
STORAGE_CODE = 73  # the storage was away: a task could not be begun, or its end not be recorded
IDLE_CODE = 74  # the element was cut short again and again and got no further

# The words for a job's state that a state here follows from; a row with any other cannot be read. So with REVOKED (it
# runs on another cluster of a federation) and with words that only mark a state: LAUNCH_FAILED, RECONFIG_FAIL.
SLURM_WAITING = frozenset(
    {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD"}
)
SLURM_RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
SLURM_ENDED = frozenset(
    {"COMPLETED", "FAILED", "TIMEOUT", "DEADLINE", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "CANCELLED",
     "PREEMPTED"}
)  # fmt: skip
_SLURM_STATES = SLURM_WAITING | SLURM_RUNNING | SLURM_ENDED
_CAUSE = {
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "OUT_OF_MEMORY": "out of memory",
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted",
}
# Elements cancelled one by one before they start vanish from queue and accounting alike; their array does not.
NEVER_STARTED = "cancelled before it started"
CLOCK_GRACE_S = 60.0  # the clocks of two machines need not agree
CUT_FROM_BYTES = 200  # a name of so many may have been longer
_NOT_ASCII = re.compile(r"(?:[^\x00-\x7f]|\?)+")
NAMED_GRACE_S = 1800.0  # nor by how much, where the job's own comment says that it is ours


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """Where one element stands. ``state`` is one of STATES; ``cause`` one of CAUSES where it is failed, else None.

    ``reason`` is why it waits or why nothing is known. ``exit_code`` or ``signal`` is how the element ended. Times are
    seconds since the epoch. ``elapsed_s``, ``waited_s`` and ``gpu_hours`` are sums over all its starts, ``max_rss_mb``
    the most any of them used. ``planned_start`` is when Slurm's backfill plans to start one that waits, None where it
    has planned nothing. ``named_cluster`` is the cluster that has to be named to reach the element, None for that of
    this machine.
    """

    id: str
    state: str
    reason: str | None = None
    cause: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    node: str | None = None
    restarts: int = 0
    elapsed_s: float = 0.0
    waited_s: float = 0.0
    gpus: int = 0
    gpu_hours: float = 0.0
    max_rss_mb: float | None = None
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    planned_start: float | None = None
    named_cluster: str | None = None

    @property
    def over(self) -> bool:
        """Whether the element has ended, as far as is known."""
        return self.state in (DONE, FAILED, GONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobIdentity:
    """Whose a job is, as it was submitted or as Slurm shows it; empty or None proves nothing.

    ``submitted`` is when it was submitted, in seconds since the epoch: by the submitter's clock that is at the latest
    what Slurm noted. ``uid`` is the number of the user who did.
    """

    submitted: float | None = None
    name: str | None = None
    comment: str | None = None
    uid: int | None = None
    cluster: str | None = None

    def difference(self, sent: JobIdentity) -> str | None:
        """How this job, as Slurm shows it, is not the one that we sent; None if nothing that is shown differs.

        A number of Slurm's is used again once its controller has lost its state, and by every other cluster. The
        submit time only ever moves forward (a requeue does so), as far as two clocks agree: further where a comment
        names our submission. A site may add to a comment.
        """
        if sent.cluster and self.cluster and self.cluster.casefold() != sent.cluster.casefold():
            return f"a job of cluster {self.cluster}"
        if sent.uid is not None and self.uid is not None and self.uid != sent.uid:
            return f"a job of user {self.uid}"
        if sent.name and self.name and not _shows(self.name, sent.name):
            return f"a job named {self.name!r}"
        named = sent.comment is not None and _shows_comment(self.comment or "", sent.comment)
        if sent.comment and self.comment and not named:
            return f"a job with the comment {self.comment!r}"
        grace_s = NAMED_GRACE_S if named else CLOCK_GRACE_S
        if sent.submitted is not None and self.submitted is not None and self.submitted < sent.submitted - grace_s:
            return "a job submitted before ours"
        return None


def _shows(shown: str, sent: str) -> bool:
    """Whether a name that Slurm shows is the one that was sent to it.

    The queue cuts it to a width in bytes, in the middle of a letter; the accounting's database may keep ASCII alone.
    """
    plain, wanted = _NOT_ASCII.sub("?", shown), _NOT_ASCII.sub("?", sent)
    return plain == wanted or (len(shown.encode()) >= CUT_FROM_BYTES and wanted.startswith(plain.rstrip("?")))


def _shows_comment(shown: str, sent: str) -> bool:
    """The same of a comment: a site may have added to it, a line be cut in it, and a banner follow it."""
    plain, wanted = _NOT_ASCII.sub("?", shown), _NOT_ASCII.sub("?", sent)
    first = plain.split("\n")[0].rstrip("?")
    return wanted in plain or (first != "" and wanted.startswith(first))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One start of one job, as the queue has it, or the accounting with the most memory that any step of it used.

    ``state`` is Slurm's word; ``exit_code`` and ``signal`` the job's own, ``worst_signal`` that of its worst step.
    ``steps`` are the steps' states. ``restarts`` are counted by the queue alone: in the accounting each is a row.
    Times are seconds since the epoch, None where there is none yet.
    """

    state: str
    exit_code: int
    signal: int
    worst_signal: int
    elapsed_s: float
    gpus: int
    reason: str | None
    node: str | None
    submitted: float | None
    started: float | None
    ended: float | None
    identity: JobIdentity
    restarts: int = 0
    memory_mb: float | None = None
    max_rss_mb: float | None = None
    steps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.state not in _SLURM_STATES:
            raise ValueError(f"{self.state!r}: no state of a job")

    @property
    def over(self) -> bool:
        return self.state in SLURM_ENDED

    @property
    def gpu_hours(self) -> float:
        return self.elapsed_s * self.gpus / 3600


def merge_sources(id_: str, queue: JobRow | None, history: list[JobRow], *, outage: str | None = None) -> JobState:
    """The state of one job from its row in the queue and its rows in the accounting, oldest first.

    ``outage`` is why the accounting did not answer.
    """
    if queue is not None and not queue.over:
        return _live(id_, queue, history)
    newest = history[-1] if history else None
    if queue is not None and (newest is None or (newest.state, newest.started) != (queue.state, queue.started)):
        # The accounting lags by seconds: what the controller says of an end is newer.
        return _ended(id_, queue, history or [queue], restarts=queue.restarts)
    if newest is None:
        reason = outage or "neither the queue nor the accounting knows it"
        return JobState(id=id_, state=UNKNOWN if outage else GONE, reason=reason)
    if newest.state in SLURM_WAITING:
        return _summed(id_, history, state=FAILED, cause="cancelled", reason=NEVER_STARTED)
    if newest.state in SLURM_RUNNING:
        # It ended a moment ago, or the accounting missed the end.
        return _summed(id_, history, state=UNKNOWN, reason="gone from the queue, no end on record yet")
    return _ended(id_, newest, history, restarts=len(history) - 1)


def _live(id_: str, queue: JobRow, history: list[JobRow]) -> JobState:
    waiting = queue.state in SLURM_WAITING
    if not history and queue.started and not waiting:
        elapsed_s = max(0.0, time.time() - queue.started)  # two machines' clocks
        return JobState(
            id=id_, state=RUNNING, node=queue.node, restarts=queue.restarts, gpus=queue.gpus, elapsed_s=elapsed_s,
            gpu_hours=elapsed_s * queue.gpus / 3600, submitted=queue.submitted, started=queue.started,
        )  # fmt: skip
    return _summed(
        id_, history, state=WAITING if waiting else RUNNING, reason=queue.reason, node=queue.node,
        restarts=queue.restarts, gpus=queue.gpus, submitted=queue.submitted,
        started=None if waiting else queue.started, planned_start=queue.started if waiting else None,
    )  # fmt: skip


def _ended(id_: str, row: JobRow, history: list[JobRow], *, restarts: int) -> JobState:
    done = row.state == "COMPLETED"
    signal = _signal(row)
    reason = None if is_waiting_reason(row.reason) else row.reason
    return _summed(
        id_, history, state=DONE if done else FAILED,
        reason="its log file could not be written" if row.signal == 53 else reason,
        cause=None if done else _cause(row), exit_code=None if signal else row.exit_code, signal=signal,
        node=row.node, restarts=restarts, gpus=row.gpus, submitted=row.submitted,
        started=row.started, ended=row.ended,
    )  # fmt: skip


def _summed(id_: str, history: list[JobRow], **facts: object) -> JobState:
    """A state with the sums over every start of the job."""
    peaks = [row.max_rss_mb for row in history if row.max_rss_mb is not None]
    waits = [row.started - row.submitted for row in history if row.started and row.submitted]
    sums = {
        "elapsed_s": sum(row.elapsed_s for row in history),
        "waited_s": sum(wait for wait in waits if wait > 0),
        "gpu_hours": sum(row.gpu_hours for row in history),
        "max_rss_mb": max(peaks, default=None),
    }
    return JobState(id=id_, **sums, **facts)  # type: ignore[arg-type]


def _signal(row: JobRow) -> int | None:
    if row.state in ("NODE_FAIL", "BOOT_FAIL", "DEADLINE"):  # the queue prints a signal 1 that nobody sent
        return None
    if row.signal in (53, 125):  # Slurm's own marks: a log path that can't be written, out of memory
        return None
    if row.signal:
        return row.signal
    # srun's status for a killed step is 128 + signal, and the accounting prints it without the 128.
    killed = row.worst_signal and row.exit_code in (row.worst_signal, row.worst_signal + 128)
    return row.worst_signal if killed else None


def _cause(row: JobRow) -> str:
    if row.state in _CAUSE:
        return _CAUSE[row.state]
    if row.signal == 125 or any(step.startswith("OUT_OF_ME") for step in row.steps):
        return "out of memory"
    if _signal(row) == 9:
        # A site without cgroups kills a step over its memory, and says no more than that it was cancelled.
        full = row.max_rss_mb is not None and row.memory_mb is not None and row.max_rss_mb >= 0.95 * row.memory_mb
        return "out of memory" if full else "killed"
    if _signal(row):
        return "killed"
    return {PAUSED_CODE: "paused", IDLE_CODE: "time limit", STORAGE_CODE: "storage"}.get(row.exit_code, "error")
