"""Where jobs stand: Slurm's queue is asked first (squeue), then its accounting (sacct), one command each."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from slurm.array import array_id
from slurm.commands import (
    PRINT_WHOLE,
    SEPARATOR,
    Unreadable,
    call,
    on_cluster,
    read_count,
    read_exit,
    read_rows,
    read_text,
    read_time,
    warn_once,
)
from slurm.errors import (
    AccountingRefusedError,
    DeniedError,
    NoAccountingError,
    SlurmError,
    UnknownJobError,
    UnreachableError,
    UnusableError,
)
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
from slurm.limits import local_cluster

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
# What another's job is told by, and what people read: a part of it does as well.
_MAY_BE_CUT = ("reason", "node", "name", "comment")
_STATE = re.compile("([A-Z_]+)( by [0-9]+)?")  # CANCELLED by 1000
_TRES = re.compile(r"[\w/:.-]+=[^,=]+")
_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGTPE?]?)n?")  # n: for each node, of which there is one
_BYTES = {unit: 1024**power for power, unit in enumerate(("", *"KMGTPE"))}
_NO_MEMORY = 2**63  # bytes: from here on it is Slurm's mark for no value, or below zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Rows by job id, oldest first (the queue has one of each job); and what could not be read, by job or array.

    ``nameless`` is a row with no id: it may be any job's that has no other.
    """

    rows: dict[str, list[JobRow]] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)
    nameless: Unreadable | None = None


def states(
    ids: Iterable[str], *, sent: Mapping[str, JobIdentity] | None = None, cluster: str | None = None
) -> dict[str, JobState]:
    """Where each of these jobs stands, by at most two Slurm commands however many they are.

    ``cluster`` is the one that they were sent to by name, None for that of whoever submitted. ``sent`` is what we know
    of the jobs since they were submitted, by id: one that Slurm shows to be another's is not ours, whatever its number.
    What cannot be read is unknown, and warned of once.
    """
    known = {id_: (sent or {}).get(id_, JobIdentity()) for id_ in dict.fromkeys(ids)}
    found = _states_on(cluster, known)
    if cluster is not None:
        return found
    gone = [id_ for id_, state in found.items() if state.state == GONE and known[id_].cluster]
    try:
        elsewhere = _by_other_cluster(gone, known)
    except SlurmError as error:
        return found | {id_: JobState(id=id_, state=UNKNOWN, reason=str(error)) for id_ in gone}
    for other, jobs in elsewhere.items():
        found |= _states_on(other, jobs)
    return found


def _by_other_cluster(gone: Iterable[str], known: Mapping[str, JobIdentity]) -> dict[str, dict[str, JobIdentity]]:
    """Those of these jobs that were submitted on another cluster than this machine's, by its name.

    Two login nodes of one storage may be of two clusters: what the one does not know the other does.
    """
    jobs: dict[str, dict[str, JobIdentity]] = {}
    for id_ in gone:
        here, there = local_cluster(), known[id_].cluster
        if here and there and here.casefold() != there.casefold():
            jobs.setdefault(there, {})[id_] = known[id_]
    return jobs


def _states_on(cluster: str | None, sent: Mapping[str, JobIdentity]) -> dict[str, JobState]:
    """The states of these jobs as one cluster shows them."""
    if not sent:
        return {}
    try:
        queue = ask_queue(sent, cluster)
    except SlurmError as error:
        return {id_: JobState(id=id_, state=UNKNOWN, reason=str(error), named_cluster=cluster) for id_ in sent}
    history = Answer()
    outage = None
    try:
        history = ask_accounting(sent, cluster)
    except AccountingRefusedError as error:
        warn_once(f"{error}; a job that is gone from the queue and left no record counts as lost")
    except NoAccountingError:  # no outage: what the queue does not know is gone
        pass
    except SlurmError as error:
        outage = str(error)
    ours = {array_id(id_): identity for id_, identity in sent.items()}
    named = {*sent, *ours}
    queue, history = _with_nameless(queue, named), _with_nameless(history, named)
    for row in (*queue.unreadable.values(), *history.unreadable.values(), queue.nameless, history.nameless):
        if row is not None:
            warn_once(f"{row.reason}; that job's state is unknown")
    arrays = {
        array_id(id_)
        for id_, rows in history.rows.items()
        if any(row.identity.difference(ours.get(array_id(id_), JobIdentity())) is None for row in rows)
    }
    return {
        id_: replace(_state_of(id_, queue, history, arrays, identity, outage), named_cluster=cluster)
        for id_, identity in sent.items()
    }


def _with_nameless(answer: Answer, asked: Container[str]) -> Answer:
    """A row of a job that nobody asked about, and that cannot be read, may have lost a part of its id."""
    stray = next((row for id_, row in answer.unreadable.items() if id_ not in asked), None)
    return replace(answer, nameless=answer.nameless or stray)


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
    if not live and (row := queue.nameless or history.unreadable.get(id_) or history.nameless):
        return row
    if not live and not past:
        # A list of elements that was cut short in the queue: the accounting has it whole, as a rule.
        return queue.unreadable.get(array_id(id_)) or history.unreadable.get(array_id(id_))
    return None


def _arrays_of(ids: Iterable[str]) -> str:
    return ",".join(sorted({array_id(id_) for id_ in ids}, key=int))


_COLUMNS = ",".join(f"{name}:{width}{SEPARATOR}" for name, width in SQUEUE_FIELDS.values())


def ask_queue(ids: Iterable[str], cluster: str | None = None) -> Answer:
    """What the controller knows of these jobs, live or ended in the last minutes (MinJobAge), by one call of squeue.

    Raises SlurmError.
    """
    command = [*on_cluster("squeue", cluster), "-h", "-r", "-t", "all", "-O", _COLUMNS, "-j", _arrays_of(ids)]
    try:
        return parse_queue(_whole("squeue", call(command, environment=PRINT_WHOLE)))
    except UnknownJobError:
        return Answer()


def find_live(sent: JobIdentity, cluster: str | None = None) -> list[str]:
    """The ids of the jobs in the queue that were sent so, by name and comment, and are not over. Raises SlurmError."""
    command = [*on_cluster("squeue", cluster), "-h", "-r", "-t", "all", "-O", _COLUMNS, "-u", str(sent.uid)]
    rows = parse_queue(_whole("squeue", call(command, environment=PRINT_WHOLE))).rows
    return [
        id_
        for id_, (row,) in rows.items()
        if not row.over and row.identity.name and row.identity.comment and row.identity.difference(sent) is None
    ]


def _whole(program: str, text: str) -> str:
    """An answer whose last row ends its line; raises UnreachableError for one that was cut: more may be missing."""
    if text and not text.endswith("\n"):
        raise UnreachableError(f"{program} was cut short in its answer: {text.splitlines()[-1]!r}")
    return text


def parse_queue(text: str) -> Answer:
    """Jobs from ``squeue -h -r -t all -O`` with SQUEUE_FIELDS."""
    rows: dict[str, list[JobRow]] = {}
    unreadable: dict[str, Unreadable] = {}
    nameless: Unreadable | None = None
    for ids, _, row in read_rows("squeue", text, tuple(SQUEUE_FIELDS), _queue_row, closed=True):
        if isinstance(row, Unreadable):
            unreadable.update(dict.fromkeys(ids, row))
            nameless = nameless or (None if ids else row)
        else:
            # Elements that were cancelled before they started stay one row: 12_[0-3]. One's own row tells more.
            rows.update({id_: [row] for id_ in ids if len(ids) == 1 or id_ not in rows})
    return Answer(rows=rows, unreadable=unreadable, nameless=nameless)


def ask_accounting(ids: Iterable[str], cluster: str | None = None) -> Answer:
    """Every start of these jobs, by one call of sacct; a job that it does not know is left out.

    Raises AccountingRefusedError where it may not be asked, or cannot be, NoAccountingError where there is none, and
    UnreachableError or SlurmError where it does not answer for the moment.
    """
    fields = ",".join(SACCT_FIELDS.values())
    command = [*on_cluster("sacct", cluster), "-P", "-D", "-n", "--noconvert", "-o", fields, "-j", _arrays_of(ids)]
    try:
        text = call(command, environment=PRINT_WHOLE)
    except (DeniedError, UnusableError) as error:
        raise AccountingRefusedError(f"the accounting is not for this user, or not here: {error}") from error
    return parse_accounting(_whole("sacct", text))


def parse_accounting(text: str) -> Answer:
    """What ``sacct -P -D -n`` with SACCT_FIELDS printed; a step's row follows its job's."""
    by_id: dict[str, list[JobRow]] = {}
    unreadable: dict[str, Unreadable] = {}
    nameless: Unreadable | None = None
    for ids, step, row in read_rows("sacct", text, tuple(SACCT_FIELDS), _accounting_row):
        if isinstance(row, Unreadable):
            unreadable.update({id_: row for id_ in ids if id_ not in unreadable})
            nameless = nameless or (None if ids else row)
            continue
        for id_ in ids:
            if not step:
                by_id.setdefault(id_, []).append(row)
            elif id_ in by_id:
                by_id[id_][-1] = _with_step(by_id[id_][-1], row)
            else:
                lone = Unreadable(program="sacct", text=f"{id_}.{step} and no row of {id_}")
                unreadable.setdefault(id_, lone)
    for rows in by_id.values():
        rows.sort(key=lambda row: (row.submitted or 0.0, row.started or float("inf")))
    return Answer(rows=by_id, unreadable=unreadable, nameless=nameless)


def _with_step(row: JobRow, step: JobRow) -> JobRow:
    peaks = [peak for peak in (row.max_rss_mb, step.max_rss_mb) if peak is not None]
    return replace(
        row,
        max_rss_mb=max(peaks, default=None),
        worst_signal=max(row.worst_signal, step.signal),
        steps=(*row.steps, step.state),
    )


def _queue_row(values: Mapping[str, str]) -> JobRow:
    for name, (_, width) in SQUEUE_FIELDS.items():
        if name not in _MAY_BE_CUT and len(values[name].encode()) >= width:
            raise ValueError(f"{name}: cut short")
    code, signal = _queue_exit(values["exit"])
    started, ended = read_time(values["started"]), read_time(values["ended"])
    # The end of what still runs is the one that its time limit allows.
    elapsed_s = ended - started if started and ended and values["state"] in SLURM_ENDED else 0.0
    return _row(
        values, _tres(values["tres"]), exit_code=code, signal=signal, worst_signal=signal,
        elapsed_s=max(0.0, elapsed_s), restarts=read_count(values["restarts"]),
    )  # fmt: skip


def _queue_exit(text: str) -> tuple[int, int]:
    """Exit code and signal: 24.11 prints ``3:0``, 22.05 the raw wait status; srun turns a signal into 128 + it."""
    status = 0 if ":" in text else read_count(text)
    code, signal = read_exit(text) if ":" in text else (status >> 8, status & 0x7F)
    if code > 255:
        raise ValueError(f"{text!r}: no exit code")
    if signal:
        return 0, signal
    return (0, code - 128) if code > 128 else (code, 0)


def _accounting_row(values: Mapping[str, str]) -> JobRow:
    # A step that was cancelled before its end was known has no exit code; a job always has one.
    code, signal = read_exit(values["exit"] or ("0:0" if "." in values["id"] else ""))
    tres = _tres(values["tres"])
    return _row(
        values, tres, exit_code=code, signal=signal,
        worst_signal=read_exit(values["derived_exit"] or "0:0")[1],  # a step has none
        # Below zero where the clock of the controller was put back.
        elapsed_s=0.0 if values["elapsed_s"].startswith("-") else float(read_count(values["elapsed_s"])),
        memory_mb=_mb(tres.get("mem", "")), max_rss_mb=_mb(values["max_rss"]),
    )  # fmt: skip


def _row(values: Mapping[str, str], tres: Mapping[str, str], **facts: Any) -> JobRow:
    """What both programs print alike, and ``facts``. Raises ValueError for what cannot be read."""
    state, submitted, uid = _STATE.fullmatch(values["state"]), read_time(values["submitted"]), read_text(values["uid"])
    if state is None or submitted is None:
        raise ValueError("no job is without a state and a time of submission")
    return JobRow(
        state=state[1],
        gpus=_gpus(tres),
        reason=read_text(values["reason"]) or None,
        node=read_text(values["node"]) or None,
        submitted=submitted,
        started=read_time(values["started"]),
        ended=read_time(values["ended"]),
        identity=JobIdentity(
            submitted=submitted,
            name=read_text(values["name"]),
            comment=values["comment"],
            uid=read_count(uid) if uid else None,
            cluster=read_text(values["cluster"]),
        ),
        **facts,
    )


@lru_cache(1024)  # thousands of elements were given the same
def _tres(text: str) -> Mapping[str, str]:
    text = read_text(text)
    parts = text.split(",") if text else []
    if not all(map(_TRES.fullmatch, parts)):
        raise ValueError(f"{text!r}: no list of resources")
    return dict(part.split("=", 1) for part in parts)


def _gpus(tres: Mapping[str, str]) -> int:
    """A site may count them by type alone: ``gres/gpu:a100=2``."""
    typed = sum(read_count(count) for name, count in tres.items() if name.startswith("gres/gpu:"))
    return read_count(tres["gres/gpu"]) if "gres/gpu" in tres else typed


def _mb(text: str) -> float | None:
    if not text:
        return None
    match = _MEMORY.fullmatch(text)
    if match is None or (match[2] == "?" and float(match[1])):
        raise ValueError(f"{text}: not an amount of memory")
    in_bytes = float(match[1]) * _BYTES.get(match[2], 0)
    return in_bytes / 1024**2 if in_bytes < _NO_MEMORY else None
