"""Where jobs stand, from Slurm's queue and its accounting together.

The rule: the queue is asked first, and a job that is live there is not finished, whatever the accounting says
(after a node failure or a preemption that shows only the old row for some seconds). Once a job is over or gone from
the queue, the newest row of the accounting for it counts. No answer changes nothing: that is unknown, not failed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from slurm import accounting
from slurm.accounting import Row, when
from slurm.commands import NoAccountingError, SlurmError, UnknownJobError, call
from slurm.identifiers import base, expand
from slurm.reasons import waits

WAITING, RUNNING, DONE, FAILED, GONE, UNKNOWN = STATES = ("waiting", "running", "done", "failed", "gone", "unknown")
CAUSES = (
    "error", "out of memory", "time limit", "node failure", "cancelled", "preempted", "killed", "paused",
)  # fmt: skip
PAUSED_CODE = 75  # the element saved, wants to be started again, and could not see to it itself
IDLE_CODE = 74  # the element was cut short again and again and got no further

# Elements cancelled one by one before they start vanish from queue and accounting alike; their array does not.
_NEVER_STARTED = "cancelled before it started"

_WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
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
_WIDTHS = {
    "JobArrayID": 240, "State": 20, "exit_code": 12, "Reason": 60, "NodeList": 64, "RestartCnt": 8,
    "SubmitTime": 24, "StartTime": 24, "EndTime": 24, "tres-alloc": 160,
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


def states(ids: Iterable[str], *, since: float | None = None) -> dict[str, JobState]:
    """Where each of these jobs stands, by at most two Slurm commands however many they are.

    ``since`` is when the oldest of them was submitted (seconds since the epoch), by this machine's clock.
    """
    asked = list(dict.fromkeys(ids))
    if not asked:
        return {}
    try:
        queue = queued(asked)
    except SlurmError as error:
        return {id_: JobState(id=id_, state=UNKNOWN, reason=str(error)) for id_ in asked}
    history: Mapping[str, list[Row]] = {}
    outage = None
    try:
        # A minute of grace: the clocks of two machines need not agree.
        history = accounting.rows(asked, since=None if since is None else since - 60)
    except NoAccountingError:
        pass
    except SlurmError as error:
        outage = str(error)
    found = {}
    arrays = {base(id_) for id_ in history}
    for id_ in asked:
        known, rows = queue.get(id_), history.get(id_, [])
        if known is None and not rows:
            # An array none of whose elements ever started stays one row under the array's own id. (While the
            # accounting lags, any element may be shown under it: it counts only for those seen nowhere else.)
            known, rows = queue.get(base(id_)), history.get(base(id_), [])
        if known is None and not rows and base(id_) in arrays:
            found[id_] = JobState(id=id_, state=FAILED, said="CANCELLED", cause="cancelled", reason=_NEVER_STARTED)
        else:
            found[id_] = judge(id_, known, rows, outage=outage)
    return found


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


def queued(ids: Iterable[str]) -> dict[str, Queued]:
    """What the controller knows of these jobs, by one call of squeue. Raises SlurmError."""
    arrays = ",".join(sorted({base(id_) for id_ in ids}, key=int))
    fields = ",".join(f"{name}:{width}" for name, width in _WIDTHS.items())
    try:
        text = call(
            ["squeue", "-h", "-r", "-t", "all", "-O", fields, "-j", arrays],
            environment={"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"},
        )
    except UnknownJobError:
        return {}
    return parse_queue(text)


def parse_queue(text: str) -> dict[str, Queued]:
    """Jobs by id from ``squeue -h -r -t all -O`` with this module's columns, which are fixed in width."""
    found = {}
    for line in text.splitlines():
        values, place = {}, 0
        for name, width in _WIDTHS.items():
            values[name] = line[place : place + width].strip()
            place += width
        # Elements that were cancelled before they started stay one row: 12_[0-3].
        with suppress(ValueError):  # a list too long for its column: the accounting has it whole
            found.update(dict.fromkeys(expand(values["JobArrayID"]), _queued(values)))
    return found


def _queued(values: Mapping[str, str]) -> Queued:
    exit_code, signal = _wait_status(int(values["exit_code"] or 0))
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
    )


def _wait_status(status: int) -> tuple[int, int]:
    # The controller shows a raw wait status; srun turns a signal into 128 + its number.
    code, signal = status >> 8, status & 0x7F
    return (0, code - 128) if code > 128 else (code, signal)


def judge(id_: str, queue: Queued | None, history: list[Row], *, outage: str | None = None) -> JobState:
    """The state of one job from what both sources said; ``outage`` is why the accounting did not answer."""
    if queue is not None and (queue.state in _WAITING or queue.state in _RUNNING):
        return _live(id_, queue, history)
    newest = history[-1] if history else None
    live = newest is not None and (newest.state in _WAITING or newest.state in _RUNNING)
    if queue is not None and (newest is None or (newest.state, newest.started) != (queue.state, queue.started)):
        # The accounting lags by seconds: what the controller says of an end is newer.
        return _ended(id_, _row_of(queue), history, restarts=queue.restarts)
    if newest is None:
        reason = outage or "neither the queue nor the accounting knows it"
        return JobState(id=id_, state=UNKNOWN if outage else GONE, reason=reason)
    if newest.state in _WAITING:
        return _state(id_, history, state=FAILED, said="CANCELLED", cause="cancelled", reason=_NEVER_STARTED)
    if live:
        # It ended a moment ago, or the accounting missed the end.
        return _state(
            id_, history, state=UNKNOWN, said=newest.state, reason="gone from the queue, no end on record yet"
        )
    return _ended(id_, newest, history, restarts=len(history) - 1)


def _live(id_: str, queue: Queued, history: list[Row]) -> JobState:
    waiting = queue.state in _WAITING
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
