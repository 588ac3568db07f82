"""Where jobs stand, from Slurm's queue and its accounting together.

The rule: the queue is asked first, and a job that is live there is not finished, whatever the accounting says
(after a node failure or a preemption that shows only the old row for some seconds). Once a job is over or gone from
the queue, the newest row of the accounting for it counts. No answer changes nothing: that is unknown, not failed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from slurm import accounting
from slurm.accounting import History, Row
from slurm.commands import NoAccountingError, SlurmError, UnknownJobError, call
from slurm.job_ids import base
from slurm.output import (
    RUNNING_STATES,
    SEPARATOR,
    UNSHOWN,
    WAITING_STATES,
    Sent,
    Shown,
    Unreadable,
    exit_status,
    read_rows,
    shown_text,
    warn_once,
    when,
)
from slurm.output import STATES as STATES_OF_JOBS
from slurm.reasons import waits

WAITING, RUNNING, DONE, FAILED, GONE, UNKNOWN = STATES = ("waiting", "running", "done", "failed", "gone", "unknown")
CAUSES = (
    "error", "out of memory", "time limit", "node failure", "cancelled", "preempted", "killed", "paused",
)  # fmt: skip
PAUSED_CODE = 75  # the element saved, wants to be started again, and could not see to it itself
IDLE_CODE = 74  # the element was cut short again and again and got no further

# Elements cancelled one by one before they start vanish from queue and accounting alike; their array does not.
_NEVER_STARTED = "cancelled before it started"

_CAUSE = {
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "OUT_OF_MEMORY": "out of memory",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "PREEMPTED": "preempted",
}
# Each field is followed by a separator. A name and a comment are anybody's words: they come last.
_WIDTHS = {
    "JobArrayID": 240, "State": 20, "exit_code": 12, "Reason": 60, "NodeList": 64, "RestartCnt": 8,
    "SubmitTime": 24, "StartTime": 24, "EndTime": 24, "tres-alloc": 160, "Cluster": 40, "UserID": 12,
    "Name": 256, "Comment": 256,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """Where one element stands. ``state`` is one of STATES; ``cause`` one of CAUSES where it is failed, else None.

    ``said`` is Slurm's word, ``reason`` why it waits or why nothing is known. ``exit_code`` or ``signal`` is how the
    element ended. Times are seconds since the epoch. ``elapsed_s``, ``waited_s`` and ``gpu_hours`` are sums over all
    its starts, ``max_rss_mb`` the most any of them used; ``mem_mb`` is what it was allotted.
    """

    id: str
    state: str
    said: str = ""
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
    mem_mb: float | None = None
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None

    @property
    def over(self) -> bool:
        """Whether the element has ended, as far as is known."""
        return self.state in (DONE, FAILED, GONE)


def states(ids: Iterable[str], *, sent: Mapping[str, Sent] | None = None) -> dict[str, JobState]:
    """Where each of these jobs stands, by at most two Slurm commands however many they are.

    ``sent`` is what we know of the jobs since they were submitted, by id: one that Slurm shows to be another's is not
    ours, whatever its number. What cannot be read is unknown, and told once.
    """
    asked = list(dict.fromkeys(ids))
    if not asked:
        return {}
    try:
        queue = queued(asked)
    except SlurmError as error:
        return {id_: JobState(id=id_, state=UNKNOWN, reason=str(error)) for id_ in asked}
    history = History()
    outage = None
    try:
        history = accounting.history(asked)
    except NoAccountingError:
        pass
    except SlurmError as error:
        outage = str(error)
    for row in (*queue.unreadable.values(), *history.unreadable.values()):
        warn_once(f"{row.reason}; that job's state is unknown")
    by_id = {id_: (sent or {}).get(id_, Sent()) for id_ in asked}
    ours = {base(id_): its for id_, its in by_id.items()}
    arrays = {
        base(id_)
        for id_, rows in history.rows.items()
        if any(row.shown.difference(ours.get(base(id_), Sent())) is None for row in rows)
    }
    return {id_: _state_of(id_, queue, history, arrays, by_id[id_], outage) for id_ in asked}


def _state_of(id_: str, queue: Queue, history: History, arrays: set[str], sent: Sent, outage: str | None) -> JobState:
    row, rows = queue.rows.get(id_), history.rows.get(id_, [])
    if row is None and not rows:
        # An array none of whose elements ever started stays one row under the array's own id. (While the
        # accounting lags, any element may be shown under it: it counts only for those seen nowhere else.)
        row, rows = queue.rows.get(base(id_)), history.rows.get(base(id_), [])
    shown = [shown for shown in (row.shown if row else None, *(its.shown for its in rows)) if shown is not None]
    foreign = next((difference for its in shown if (difference := its.difference(sent))), None)
    row = None if row and row.shown.difference(sent) else row
    rows = [its for its in rows if not its.shown.difference(sent)]
    unreadable = _unreadable(id_, queue, history, known=row is not None, rows=bool(rows))
    if unreadable is not None:
        return JobState(id=id_, state=UNKNOWN, reason=unreadable.reason)
    if row is None and not rows and foreign is not None:
        return JobState(id=id_, state=GONE, reason=f"under its number Slurm has {foreign}")
    if row is None and not rows and base(id_) in arrays:
        return JobState(id=id_, state=FAILED, said="CANCELLED", cause="cancelled", reason=_NEVER_STARTED)
    return merge_sources(id_, row, rows, outage=outage)


def _unreadable(id_: str, queue: Queue, history: History, *, known: bool, rows: bool) -> Unreadable | None:
    """The row for want of which nothing can be said of a job."""
    if id_ in queue.unreadable:
        return queue.unreadable[id_]
    if not known and id_ in history.unreadable:
        return history.unreadable[id_]
    if not known and not rows:
        # A list of elements that was cut short in the queue: the accounting has it whole, as a rule.
        return queue.unreadable.get(base(id_)) or history.unreadable.get(base(id_))
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A job as the controller has it, live or ended in the last minutes (MinJobAge)."""

    state: str
    exit_code: int
    signal: int
    reason: str | None
    node: str | None
    restarts: int
    submitted: float | None
    started: float | None
    ended: float | None
    gpus: int
    shown: Shown = UNSHOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Jobs by id as the controller has them; and what could not be read, by the id of its job or array."""

    rows: dict[str, Queued] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)


def queued(ids: Iterable[str]) -> Queue:
    """What the controller knows of these jobs, by one call of squeue. Raises SlurmError."""
    arrays = ",".join(sorted({base(id_) for id_ in ids}, key=int))
    fields = ",".join(f"{name}:{width}{SEPARATOR}" for name, width in _WIDTHS.items())
    try:
        text = call(
            ["squeue", "-h", "-r", "-t", "all", "-O", fields, "-j", arrays],
            environment={"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"},
        )
    except UnknownJobError:
        return Queue()
    return parse_queue(text)


def parse_queue(text: str) -> Queue:
    """Jobs from ``squeue -h -r -t all -O`` with this module's columns."""
    found: dict[str, Queued] = {}
    unreadable: dict[str, Unreadable] = {}
    for ids, _, row in read_rows("squeue", text, tuple(_WIDTHS), _queued):
        if isinstance(row, Unreadable):
            unreadable.update(dict.fromkeys(ids, row))
        else:
            # Elements that were cancelled before they started stay one row: 12_[0-3]. One's own row tells more.
            found.update({id_: row for id_ in ids if len(ids) == 1 or id_ not in found})
    return Queue(rows=found, unreadable=unreadable)


def _queued(values: Mapping[str, str]) -> Queued:
    if values["State"] not in STATES_OF_JOBS:
        raise ValueError(f"{values['State']!r}: no state of a job")
    exit_code, signal = _exit_status(values["exit_code"])
    tres = dict(part.split("=", 1) for part in values["tres-alloc"].split(",") if "=" in part)
    return Queued(
        state=values["State"],
        exit_code=exit_code,
        signal=signal,
        reason=values["Reason"] if values["Reason"] not in ("", "None") else None,
        node=values["NodeList"] or None,
        restarts=int(values["RestartCnt"] or 0),
        submitted=when(values["SubmitTime"]),
        started=when(values["StartTime"]),
        ended=when(values["EndTime"]),
        gpus=int(tres.get("gres/gpu", 0)),
        shown=Shown(
            name=shown_text(values["Name"]),
            comment=values["Comment"],
            uid=int(uid) if (uid := shown_text(values["UserID"])) else None,
            cluster=shown_text(values["Cluster"]),
            submitted=when(values["SubmitTime"]),
        ),
    )


def _exit_status(text: str) -> tuple[int, int]:
    """Exit code and signal: 24.11 prints ``3:0``, 22.05 the raw wait status; srun turns a signal into 128 + it."""
    status = 0 if ":" in text else int(text or 0)
    code, signal = exit_status(text) if ":" in text else (status >> 8, status & 0x7F)
    return (0, code - 128) if code > 128 else (code, signal)


def merge_sources(id_: str, queue: Queued | None, history: list[Row], *, outage: str | None = None) -> JobState:
    """The state of one job from what both sources said; ``outage`` is why the accounting did not answer."""
    if queue is not None and (queue.state in WAITING_STATES or queue.state in RUNNING_STATES):
        return _live(id_, queue, history)
    newest = history[-1] if history else None
    live = newest is not None and (newest.state in WAITING_STATES or newest.state in RUNNING_STATES)
    if queue is not None and (newest is None or (newest.state, newest.started) != (queue.state, queue.started)):
        # The accounting lags by seconds: what the controller says of an end is newer.
        return _ended(id_, _row_of(queue), history, restarts=queue.restarts)
    if newest is None:
        reason = outage or "neither the queue nor the accounting knows it"
        return JobState(id=id_, state=UNKNOWN if outage else GONE, reason=reason)
    if newest.state in WAITING_STATES:
        return _state(id_, history, state=FAILED, said="CANCELLED", cause="cancelled", reason=_NEVER_STARTED)
    if live:
        # It ended a moment ago, or the accounting missed the end.
        return _state(
            id_, history, state=UNKNOWN, said=newest.state, reason="gone from the queue, no end on record yet"
        )
    return _ended(id_, newest, history, restarts=len(history) - 1)


def _live(id_: str, queue: Queued, history: list[Row]) -> JobState:
    waiting = queue.state in WAITING_STATES
    now = time.time()
    if not history and queue.started and not waiting:
        gpu_hours = (now - queue.started) * queue.gpus / 3600
        return JobState(
            id=id_, state=RUNNING, said=queue.state, node=queue.node, restarts=queue.restarts, gpus=queue.gpus,
            elapsed_s=now - queue.started, gpu_hours=gpu_hours, submitted=queue.submitted, started=queue.started,
        )  # fmt: skip
    return _state(
        id_, history, state=WAITING if waiting else RUNNING, said=queue.state, reason=queue.reason,
        node=queue.node, restarts=queue.restarts, gpus=queue.gpus, submitted=queue.submitted,
        started=None if waiting else queue.started,
    )  # fmt: skip


def _ended(id_: str, row: Row, history: list[Row], *, restarts: int) -> JobState:
    done = row.state == "COMPLETED"
    signal = _signal(row)
    return _state(
        id_, history or [row], state=DONE if done else FAILED, said=row.state,
        reason="its log file could not be written" if row.signal == 53 else None if waits(row.reason) else row.reason,
        cause=None if done else _cause(row), exit_code=None if signal else row.exit_code, signal=signal,
        node=row.node, restarts=restarts, gpus=row.gpus, submitted=row.submitted,
        started=row.started, ended=row.ended,
    )  # fmt: skip


def _state(id_: str, history: list[Row], **facts: object) -> JobState:
    """A state with the sums over every start of the job."""
    peaks = [row.max_rss_mb for row in history if row.max_rss_mb is not None]
    waits = [row.started - row.submitted for row in history if row.started and row.submitted]
    summed = {
        "elapsed_s": sum(row.elapsed_s for row in history),
        "waited_s": sum(wait for wait in waits if wait > 0),
        "gpu_hours": sum(row.gpu_hours for row in history),
        "max_rss_mb": max(peaks, default=None),
        "mem_mb": history[-1].memory_mb if history else None,
    }
    return JobState(id=id_, **summed, **facts)  # type: ignore[arg-type]


def _row_of(queue: Queued) -> Row:
    elapsed_s = queue.ended - queue.started if queue.ended and queue.started else 0.0
    return Row(
        state=queue.state, exit_code=queue.exit_code, signal=queue.signal, worst_signal=queue.signal,
        elapsed_s=max(0.0, elapsed_s), gpus=queue.gpus, memory_mb=None, max_rss_mb=None, reason=queue.reason,
        node=queue.node, submitted=queue.submitted, started=queue.started, ended=queue.ended,
    )  # fmt: skip


def _signal(row: Row) -> int | None:
    if row.signal in (53, 125):  # Slurm's own marks: a log path that can't be written, out of memory
        return None
    if row.signal:
        return row.signal
    # srun's status for a killed step is 128 + signal, and the accounting prints it without the 128.
    return (
        row.worst_signal if row.worst_signal and row.exit_code in (row.worst_signal, row.worst_signal + 128) else None
    )


def _cause(row: Row) -> str:
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
    return {PAUSED_CODE: "paused", IDLE_CODE: "time limit"}.get(row.exit_code, "error")
