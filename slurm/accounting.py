"""What Slurm's accounting says of jobs: every start of each, its end, its memory, its GPUs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from slurm.commands import call
from slurm.job_ids import base
from slurm.output import STATES, UNSHOWN, Shown, Unreadable, exit_status, read_rows, shown_text, when

# A name and a comment are anybody's words: they come last, where a separator in them does no harm.
FIELDS = (
    "JobID", "JobIDRaw", "State", "ExitCode", "DerivedExitCode", "ElapsedRaw", "AllocTRES", "MaxRSS",
    "Reason", "NodeList", "Submit", "Start", "End", "Cluster", "UID", "JobName", "Comment",
)  # fmt: skip
_ENVIRONMENT = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
_MB = {"": 1 / 1024**2, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One start of one job, as ``sacct -D`` has it, with the most memory that any step of it used.

    ``state`` is Slurm's word; ``exit_code`` and ``signal`` the job's own, ``worst_signal`` that of its worst step.
    ``steps`` are the steps' states. Times are seconds since the epoch, None where there is none yet.
    """

    state: str
    exit_code: int
    signal: int
    worst_signal: int
    elapsed_s: float
    gpus: int
    memory_mb: float | None
    max_rss_mb: float | None
    reason: str | None
    node: str | None
    submitted: float | None
    started: float | None
    ended: float | None
    shown: Shown = UNSHOWN
    steps: tuple[str, ...] = ()

    @property
    def gpu_hours(self) -> float:
        return self.elapsed_s * self.gpus / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Rows by job id, oldest first; and what could not be read, by the id of its job or array."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)


def history(ids: Iterable[str]) -> History:
    """The rows of these jobs, by one call of sacct; a job that it does not know is left out.

    Raises NoAccountingError, UnreachableError or SlurmError.
    """
    arrays = ",".join(sorted({base(id_) for id_ in ids}, key=int))
    command = ["sacct", "-P", "-D", "-n", "--noconvert", "-o", ",".join(FIELDS), "-j", arrays]
    return parse(call(command, environment=_ENVIRONMENT))


def parse(text: str) -> History:
    """What ``sacct -P -D -n`` with FIELDS printed; a step's row follows its job's."""
    found: dict[str, list[Row]] = {}
    unreadable: dict[str, Unreadable] = {}
    for ids, step, row in read_rows("sacct", text, FIELDS, _row):
        for id_ in ids:
            if isinstance(row, Unreadable):
                unreadable.setdefault(id_, row)
            elif not step:
                found.setdefault(id_, []).append(row)
            elif id_ in found:
                found[id_][-1] = _with_step(found[id_][-1], row)
    for rows in found.values():
        rows.sort(key=lambda row: (row.submitted or 0.0, row.started or float("inf")))
    return History(rows=found, unreadable=unreadable)


def _row(named: dict[str, str]) -> Row:
    exit_code, signal = exit_status(named["ExitCode"])
    state = named["State"].split(" ")[0]  # CANCELLED by 1000
    if state not in STATES:
        raise ValueError(f"{state!r}: no state of a job")
    tres = dict(part.split("=", 1) for part in named["AllocTRES"].split(",") if "=" in part)
    return Row(
        state=state,
        exit_code=exit_code,
        signal=signal,
        worst_signal=exit_status(named["DerivedExitCode"])[1],
        elapsed_s=float(named["ElapsedRaw"] or 0),
        gpus=int(tres.get("gres/gpu", 0)),
        memory_mb=_mb(tres.get("mem", "")),
        max_rss_mb=_mb(named["MaxRSS"]),
        reason=named["Reason"] if named["Reason"] not in ("", "None") else None,
        node=named["NodeList"] if named["NodeList"] not in ("", "None assigned") else None,
        submitted=when(named["Submit"]),
        started=when(named["Start"]),
        ended=when(named["End"]),
        shown=Shown(
            name=shown_text(named["JobName"]),
            comment=named["Comment"],
            uid=int(named["UID"]) if named["UID"] else None,
            cluster=shown_text(named["Cluster"]),
            submitted=when(named["Submit"]),
        ),
    )


def _with_step(row: Row, step: Row) -> Row:
    peaks = [peak for peak in (row.max_rss_mb, step.max_rss_mb) if peak is not None]
    return replace(
        row,
        max_rss_mb=max(peaks, default=None),
        worst_signal=max(row.worst_signal, step.signal),
        steps=(*row.steps, step.state),
    )


def _mb(text: str) -> float | None:
    if not text:
        return None
    unit = text[-1].upper() if text[-1].isalpha() else ""
    if unit not in _MB:
        raise ValueError(f"{text}: not an amount of memory")
    return float(text[: len(text) - len(unit)] or 0) * _MB[unit]
