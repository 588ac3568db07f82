"""What Slurm's accounting says of jobs: every start of each, its end, its memory, its GPUs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from slurm.commands import call
from slurm.identifiers import base, expand

FIELDS = (
    "JobID", "JobIDRaw", "State", "ExitCode", "DerivedExitCode", "ElapsedRaw", "AllocTRES", "MaxRSS",
    "Reason", "NodeList", "Submit", "Start", "End",
)  # fmt: skip
# Comment may hold the separator and SubmitLine newlines: they are not asked for.
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
    steps: tuple[str, ...] = ()

    @property
    def gpu_hours(self) -> float:
        return self.elapsed_s * self.gpus / 3600


def rows(ids: Iterable[str], *, since: float | None = None) -> dict[str, list[Row]]:
    """The rows of these jobs, oldest first, by one call of sacct; a job that it does not know is left out.

    ``since`` (seconds since the epoch) leaves out rows submitted earlier: a controller that lost its state gives
    ids a second time. Raises NoAccountingError, UnreachableError or SlurmError.
    """
    arrays = ",".join(sorted({base(id_) for id_ in ids}, key=int))
    text = call(
        ["sacct", "-P", "-D", "-n", "--noconvert", "-o", ",".join(FIELDS), "-j", arrays], environment=_ENVIRONMENT
    )
    found = parse(text)
    if since is None:
        return found
    kept = {id_: [row for row in its if row.submitted is None or row.submitted >= since] for id_, its in found.items()}
    return {id_: its for id_, its in kept.items() if its}


def parse(text: str) -> dict[str, list[Row]]:
    """Rows by element id from ``sacct -P -D -n`` with FIELDS; a step's row follows its job's."""
    found: dict[str, list[Row]] = {}
    current: list[str] = []
    for line in text.splitlines():
        values = line.split("|")
        if len(values) != len(FIELDS):
            continue
        named = dict(zip(FIELDS, values, strict=True))
        if "." in named["JobIDRaw"]:
            for id_ in current:
                found[id_][-1] = _with_step(found[id_][-1], named)
            continue
        current = expand(named["JobID"])
        for id_ in current:
            found.setdefault(id_, []).append(_row(named))
    for its in found.values():
        its.sort(key=lambda row: (row.submitted or 0.0, row.started or float("inf")))
    return found


def _row(named: dict[str, str]) -> Row:
    exit_code, signal = _status(named["ExitCode"])
    tres = dict(part.split("=", 1) for part in named["AllocTRES"].split(",") if "=" in part)
    return Row(
        state=named["State"].split()[0] if named["State"] else "",
        exit_code=exit_code,
        signal=signal,
        worst_signal=_status(named["DerivedExitCode"])[1],
        elapsed_s=float(named["ElapsedRaw"] or 0),
        gpus=int(tres.get("gres/gpu", 0)),
        memory_mb=_mb(tres.get("mem", "")),
        max_rss_mb=_mb(named["MaxRSS"]),
        reason=named["Reason"] if named["Reason"] not in ("", "None") else None,
        node=named["NodeList"] if named["NodeList"] not in ("", "None assigned") else None,
        submitted=when(named["Submit"]),
        started=when(named["Start"]),
        ended=when(named["End"]),
    )


def _with_step(row: Row, step: dict[str, str]) -> Row:
    most = max((value for value in (row.max_rss_mb, _mb(step["MaxRSS"])) if value is not None), default=None)
    signal = max(row.worst_signal, _status(step["ExitCode"])[1])
    return replace(row, max_rss_mb=most, worst_signal=signal, steps=(*row.steps, step["State"]))


def _status(text: str) -> tuple[int, int]:
    code, _, signal = text.partition(":")
    return int(code or 0), int(signal or 0)


def _mb(text: str) -> float | None:
    if not text:
        return None
    unit = text[-1].upper() if text[-1].isalpha() else ""
    return float(text[: len(text) - len(unit)] or 0) * _MB[unit]


def when(text: str) -> float | None:
    """Seconds since the epoch from a time that Slurm printed with SLURM_TIME_FORMAT=%s."""
    return float(text) if text.isdigit() and text != "0" else None
