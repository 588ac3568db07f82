"""Where jobs stand: Slurm's queue is asked first (squeue), then its accounting (sacct), one command each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from slurm.array import array_id
from slurm.commands import (
    PRINT_WHOLE,
    SEPARATOR,
    Unreadable,
    call,
    read_exit,
    read_rows,
    read_text,
    read_time,
    warn_once,
)
from slurm.errors import NoAccountingError, SlurmError, UnknownJobError
from slurm.job_state import (
    FAILED,
    GONE,
    NEVER_STARTED,
    SLURM_ENDED,
    UNKNOWN,
    JobIdentity,
    JobRow,
    JobState,
    merge_sources,
)

# What each program calls a field, by our name for it. A name and a comment are free text: they come last, where
# a separator in them does no harm. Each field of squeue's has a width, which cuts it.
SACCT_FIELDS = {
    "id": "JobID", "raw_id": "JobIDRaw", "state": "State", "exit": "ExitCode", "derived_exit": "DerivedExitCode",
    "elapsed_s": "ElapsedRaw", "tres": "AllocTRES", "max_rss": "MaxRSS", "reason": "Reason", "node": "NodeList",
    "submitted": "Submit", "started": "Start", "ended": "End", "cluster": "Cluster", "uid": "UID", "name": "JobName",
    "comment": "Comment",
}  # fmt: skip
SQUEUE_FIELDS = {
    "id": ("JobArrayID", 240), "state": ("State", 20), "exit": ("exit_code", 12), "reason": ("Reason", 60),
    "node": ("NodeList", 64), "restarts": ("RestartCnt", 8), "submitted": ("SubmitTime", 24),
    "started": ("StartTime", 24), "ended": ("EndTime", 24), "tres": ("tres-alloc", 160), "cluster": ("Cluster", 40),
    "uid": ("UserID", 12), "name": ("Name", 256), "comment": ("Comment", 256),
}  # fmt: skip
_MB = {"": 1 / 1024**2, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Rows by job id, oldest first (the queue has one of each job); and what could not be read, by job or array."""

    rows: dict[str, list[JobRow]] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)


def states(ids: Iterable[str], *, sent: Mapping[str, JobIdentity] | None = None) -> dict[str, JobState]:
    """Where each of these jobs stands, by at most two Slurm commands however many they are.

    ``sent`` is what we know of the jobs since they were submitted, by id: one that Slurm shows to be another's is not
    ours, whatever its number. What cannot be read is unknown, and warned of once.
    """
    asked = list(dict.fromkeys(ids))
    if not asked:
        return {}
    try:
        queue = ask_queue(asked)
    except SlurmError as error:
        return {id_: JobState(id=id_, state=UNKNOWN, reason=str(error)) for id_ in asked}
    history = Answer()
    outage = None
    try:
        history = ask_accounting(asked)
    except NoAccountingError:  # no outage: what the queue does not know is gone
        pass
    except SlurmError as error:
        outage = str(error)
    for row in (*queue.unreadable.values(), *history.unreadable.values()):
        warn_once(f"{row.reason}; that job's state is unknown")
    by_id = {id_: (sent or {}).get(id_, JobIdentity()) for id_ in asked}
    ours = {array_id(id_): identity for id_, identity in by_id.items()}
    arrays = {
        array_id(id_)
        for id_, rows in history.rows.items()
        if any(row.identity.difference(ours.get(array_id(id_), JobIdentity())) is None for row in rows)
    }
    return {id_: _state_of(id_, queue, history, arrays, by_id[id_], outage) for id_ in asked}


def _state_of(
    id_: str, queue: Answer, history: Answer, arrays: set[str], sent: JobIdentity, outage: str | None
) -> JobState:
    """``arrays`` are those of which the accounting shows a row of ours."""
    live, past = queue.rows.get(id_, []), history.rows.get(id_, [])
    if not live and not past:
        # An array none of whose elements ever started stays one row under the array's own id. (While the
        # accounting lags, any element may be shown under it: it counts only for those seen nowhere else.)
        live, past = queue.rows.get(array_id(id_), []), history.rows.get(array_id(id_), [])
    differences = [difference for row in (*live, *past) if (difference := row.identity.difference(sent))]
    live = [row for row in live if row.identity.difference(sent) is None]
    past = [row for row in past if row.identity.difference(sent) is None]
    unreadable = _unreadable(id_, queue, history, live, past)
    if unreadable is not None:
        return JobState(id=id_, state=UNKNOWN, reason=unreadable.reason)
    if not live and not past and differences:
        return JobState(id=id_, state=GONE, reason=f"under its number Slurm has {differences[0]}")
    if not live and not past and array_id(id_) in arrays:
        return JobState(id=id_, state=FAILED, cause="cancelled", reason=NEVER_STARTED)
    return merge_sources(id_, live[-1] if live else None, past, outage=outage)


def _unreadable(id_: str, queue: Answer, history: Answer, live: list[JobRow], past: list[JobRow]) -> Unreadable | None:
    """The unreadable row without which a job's state cannot be known."""
    if id_ in queue.unreadable:
        return queue.unreadable[id_]
    if not live and id_ in history.unreadable:
        return history.unreadable[id_]
    if not live and not past:
        # A list of elements that was cut short in the queue: the accounting has it whole, as a rule.
        return queue.unreadable.get(array_id(id_)) or history.unreadable.get(array_id(id_))
    return None


def _arrays_of(ids: Iterable[str]) -> str:
    return ",".join(sorted({array_id(id_) for id_ in ids}, key=int))


def ask_queue(ids: Iterable[str]) -> Answer:
    """What the controller knows of these jobs, live or ended in the last minutes (MinJobAge), by one call of squeue.

    Raises SlurmError.
    """
    columns = ",".join(f"{name}:{width}{SEPARATOR}" for name, width in SQUEUE_FIELDS.values())
    command = ["squeue", "-h", "-r", "-t", "all", "-O", columns, "-j", _arrays_of(ids)]
    try:
        return parse_queue(call(command, environment=PRINT_WHOLE))
    except UnknownJobError:
        return Answer()


def find_queued(name: str, comment: str) -> list[str]:
    """The ids of all elements of this user's jobs of that name and comment that are queued. Raises SlurmError."""
    columns = ",".join(f"{field}:{width}{SEPARATOR}" for field, width in SQUEUE_FIELDS.values())
    command = ["squeue", "-h", "-r", "-t", "all", "-O", columns, "-u", str(os.geteuid()), "-n", name]
    answer = parse_queue(call(command, environment=PRINT_WHOLE))
    return [id_ for id_, rows in answer.rows.items() if rows[-1].identity.comment == comment]


def parse_queue(text: str) -> Answer:
    """Jobs from ``squeue -h -r -t all -O`` with SQUEUE_FIELDS."""
    rows: dict[str, list[JobRow]] = {}
    unreadable: dict[str, Unreadable] = {}
    for ids, _, row in read_rows("squeue", text, tuple(SQUEUE_FIELDS), _queue_row):
        if isinstance(row, Unreadable):
            unreadable.update(dict.fromkeys(ids, row))
        else:
            # Elements that were cancelled before they started stay one row: 12_[0-3]. One's own row tells more.
            rows.update({id_: [row] for id_ in ids if len(ids) == 1 or id_ not in rows})
    return Answer(rows=rows, unreadable=unreadable)


def ask_accounting(ids: Iterable[str]) -> Answer:
    """Every start of these jobs, by one call of sacct; a job that it does not know is left out.

    Raises NoAccountingError, UnreachableError or SlurmError.
    """
    command = ["sacct", "-P", "-D", "-n", "--noconvert", "-o", ",".join(SACCT_FIELDS.values()), "-j", _arrays_of(ids)]
    return parse_accounting(call(command, environment=PRINT_WHOLE))


def parse_accounting(text: str) -> Answer:
    """What ``sacct -P -D -n`` with SACCT_FIELDS printed; a step's row follows its job's."""
    by_id: dict[str, list[JobRow]] = {}
    unreadable: dict[str, Unreadable] = {}
    for ids, step, row in read_rows("sacct", text, tuple(SACCT_FIELDS), _accounting_row):
        for id_ in ids:
            if isinstance(row, Unreadable):
                unreadable.setdefault(id_, row)
            elif not step:
                by_id.setdefault(id_, []).append(row)
            elif id_ in by_id:
                by_id[id_][-1] = _with_step(by_id[id_][-1], row)
    for rows in by_id.values():
        rows.sort(key=lambda row: (row.submitted or 0.0, row.started or float("inf")))
    return Answer(rows=by_id, unreadable=unreadable)


def _with_step(row: JobRow, step: JobRow) -> JobRow:
    peaks = [peak for peak in (row.max_rss_mb, step.max_rss_mb) if peak is not None]
    return replace(
        row,
        max_rss_mb=max(peaks, default=None),
        worst_signal=max(row.worst_signal, step.signal),
        steps=(*row.steps, step.state),
    )


def _queue_row(values: Mapping[str, str]) -> JobRow:
    code, signal = _queue_exit(values["exit"])
    started, ended = read_time(values["started"]), read_time(values["ended"])
    # The end of what still runs is the one that its time limit allows.
    elapsed_s = ended - started if started and ended and values["state"] in SLURM_ENDED else 0.0
    return _row(
        values, _tres(values), exit_code=code, signal=signal, worst_signal=signal, elapsed_s=max(0.0, elapsed_s),
        restarts=int(values["restarts"] or 0),
    )  # fmt: skip


def _queue_exit(text: str) -> tuple[int, int]:
    """Exit code and signal: 24.11 prints ``3:0``, 22.05 the raw wait status; srun turns a signal into 128 + it."""
    status = 0 if ":" in text else int(text or 0)
    code, signal = read_exit(text) if ":" in text else (status >> 8, status & 0x7F)
    return (0, code - 128) if code > 128 else (code, signal)


def _accounting_row(values: Mapping[str, str]) -> JobRow:
    code, signal = read_exit(values["exit"])
    tres = _tres(values)
    return _row(
        values, tres, exit_code=code, signal=signal, worst_signal=read_exit(values["derived_exit"])[1],
        elapsed_s=float(values["elapsed_s"] or 0), memory_mb=_mb(tres.get("mem", "")),
        max_rss_mb=_mb(values["max_rss"]),
    )  # fmt: skip


def _row(values: Mapping[str, str], tres: Mapping[str, str], **facts: Any) -> JobRow:
    """What both programs print alike, and ``facts``. Raises ValueError for what cannot be read."""
    submitted, uid = read_time(values["submitted"]), read_text(values["uid"])
    return JobRow(
        state=values["state"].split(" ")[0],  # CANCELLED by 1000
        gpus=int(tres.get("gres/gpu", 0)),
        reason=values["reason"] if values["reason"] not in ("", "None") else None,
        node=values["node"] if values["node"] not in ("", "None assigned") else None,
        submitted=submitted,
        started=read_time(values["started"]),
        ended=read_time(values["ended"]),
        identity=JobIdentity(
            submitted=submitted,
            name=read_text(values["name"]),
            comment=values["comment"],
            uid=int(uid) if uid else None,
            cluster=read_text(values["cluster"]),
        ),
        **facts,
    )


def _tres(values: Mapping[str, str]) -> dict[str, str]:
    return dict(part.split("=", 1) for part in values["tres"].split(",") if "=" in part)


def _mb(text: str) -> float | None:
    if not text:
        return None
    unit = text[-1].upper() if text[-1].isalpha() else ""
    if unit not in _MB:
        raise ValueError(f"{text}: not an amount of memory")
    return float(text[: len(text) - len(unit)] or 0) * _MB[unit]
