"""What the model's controller and accounting have of jobs, and what squeue and sacct print of it, in both versions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NO_JOB = "slurm_load_jobs error: Invalid job id specified"
_OVER = ("COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "CANCELLED", "PREEMPTED", "DEADLINE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A row of the accounting: one start of an element, or its waiting for it."""

    state: str
    exit: str = "0:0"
    derived: str = "0:0"
    submit: float
    start: float | None = None
    end: float | None = None
    node: str = ""
    reason: str = "None"


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """An element of an array, or a plain job (``index`` None). ``ours`` is False for what others submitted."""

    number: int
    index: int | None
    raw: int
    name: str
    comment: str
    uid: int
    script: Path | None  # None: somebody else's
    text: str = ""  # Slurm's own copy of the script
    options: dict[str, str]
    state: str = "PENDING"
    reason: str = "None"
    exit: tuple[int, int] = (0, 0)
    queued: float = 0.0  # when it was first submitted
    submit: float = 0.0
    start: float | None = None
    end: float | None = None
    eligible: float = 0.0
    node: str = ""
    restarts: int = 0
    held: bool = False
    ours: bool = True
    dependency: list[tuple[str, list[Job]]] = field(default_factory=list)  # on what was there when it was submitted
    failed_parents: set[str] = field(default_factory=set)
    rows: list[Start] = field(default_factory=list)
    seen: list[tuple[float, tuple[Start, ...]]] = field(default_factory=list)
    run: Any = None  # what runs in it, as its owner gave it
    began: int = 0  # how often something began in it

    @property
    def id(self) -> str:
        return str(self.number) if self.index is None else f"{self.number}_{self.index}"

    @property
    def over(self) -> bool:
        return self.state in _OVER

    @property
    def live(self) -> bool:
        return self.state in ("RUNNING", "COMPLETING")


class CommandFailed(Exception):  # noqa: N818 - not an error of the model's
    """A program ended with status 1 and this on its standard error."""


def print_queue(every: Iterable[Job], words: Sequence[str], version: str) -> str:
    """What squeue prints of these jobs; raises CommandFailed."""
    if "-u" in words:
        every = [job for job in every if str(job.uid) == words[words.index("-u") + 1]]
    if "-o" in words:  # the number of the array, and what was submitted
        return "".join(f"{line}\n" for line in dict.fromkeys(f"{job.number}|{job.script}" for job in every))
    columns = [part.partition(":") for part in re.findall(r"[^,|]+:\d+\|?", words[words.index("-O") + 1])]
    jobs = list(every)
    if "-j" in words:
        asked = set(words[words.index("-j") + 1].split(","))
        jobs = [job for job in jobs if str(job.number) in asked or job.id in asked]
        if not jobs and len(asked) == 1:
            raise CommandFailed(NO_JOB)
    if "-n" in words:
        jobs = [job for job in jobs if job.name == words[words.index("-n") + 1]]
    rows = ("".join(_cut(_queue_field(job, name, version), width) for name, _, width in columns) for job in jobs)
    return "".join(f"{row}\n" for row in rows)


def _queue_field(job: Job, name: str, version: str) -> str:
    code, signal = job.exit
    # 22.05 prints the raw status of wait(2).
    exit_code = str(signal or code << 8) if version == "22.05" else f"{code}:{signal}"
    fields = {
        "jobarrayid": job.id, "state": job.state, "exit_code": exit_code, "reason": job.reason,
        "nodelist": job.node, "restartcnt": str(job.restarts), "submittime": _time(job.submit),
        "starttime": _time(job.start, "N/A"), "endtime": _time(job.end, "N/A"),
        "tres-alloc": "cpu=1,mem=256M,node=1", "cluster": "lab", "userid": str(job.uid), "name": job.name,
        "comment": job.comment or "(null)", "username": f"user{job.uid}",
    }  # fmt: skip
    return fields[name.lower()]


def print_accounting(accounted: Iterable[Job], words: Sequence[str], now: float) -> str:
    """What sacct prints of these jobs, as far as the accounting has heard of them by now."""
    names = words[words.index("-o") + 1].split(",")
    asked = set(words[words.index("-j") + 1].split(","))
    lines = []
    for shown, job, rows in _accounted_now(accounted, asked, now):
        lines += ["|".join(_accounted_field(shown, job, row, name) for name in names) + "\n" for row in rows]
    return "".join(lines)


def _accounted_now(
    accounted: Iterable[Job], asked: set[str], now: float
) -> Iterator[tuple[str, Job, tuple[Start, ...]]]:
    """Ids as they are shown, whose they are, and their rows."""
    bare: dict[int, list[tuple[Job, tuple[Start, ...]]]] = {}
    for job in accounted:
        if str(job.number) not in asked:
            continue
        heard = [rows for seen, rows in job.seen if seen <= now]
        if not heard:
            continue
        rows = heard[-1]
        if job.index is not None and rows[0].start is None and len(rows) == 1 and rows[0].state == "PENDING":
            bare.setdefault(job.number, []).append((job, rows))
        elif job.index is not None and len(rows) == 1 and rows[0].state.startswith("CANCELLED") and not job.began:
            continue  # never started: its array's own row alone is left
        else:
            yield job.id, job, rows
    for number, members in bare.items():
        indices = ",".join(str(job.index) for job, _ in members)
        yield f"{number}_[{indices}]", members[0][0], members[0][1]


def _cut(text: str, width: str) -> str:
    """A cell of squeue's: ``width`` is ``12|``, its characters and what follows them."""
    number = int(width.rstrip("|"))
    return text[:number].ljust(number) + "|" * width.endswith("|")


def _time(moment: float | None, none: str = "Unknown") -> str:
    return none if moment is None else str(int(moment))


def _accounted_field(shown: str, job: Job, row: Start, name: str) -> str:
    elapsed = int((row.end or row.start or 0) - (row.start or 0)) if row.end else 0
    fields = {
        "jobid": shown, "jobidraw": str(job.raw), "state": row.state, "exitcode": row.exit,
        "derivedexitcode": row.derived, "elapsedraw": str(elapsed), "timelimitraw": job.options.get("time", ""),
        "alloctres": "billing=1,cpu=1,mem=256M,node=1" if row.start else "", "maxrss": "", "reason": row.reason,
        "nodelist": row.node or "None assigned", "submit": _time(row.submit), "start": _time(row.start),
        "end": _time(row.end), "cluster": "lab", "uid": str(job.uid), "jobname": job.name, "comment": job.comment,
        "user": f"user{job.uid}",
    }  # fmt: skip
    return fields[name.lower()]
