"""Slurm's own programs: called with a clean environment, and what they print read by name.

A row that cannot be read is handed on as it was printed, never dropped: its job is then unknown, not gone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from slurm.array import array_id, expand_ids
from slurm.errors import SlurmError, UnreachableError, classify_error

T = TypeVar("T")
TIMEOUT_S = 60.0
# What a job's environment says of that job alone; a job submitted from inside it must not inherit any.
_OURS = (
    "TANDA_CPUS",
    "TANDA_GPUS",
    "TANDA_GPU_TASKS",
    "TANDA_LOCAL_GPUS",
    "TANDA_ELEMENT",
    "TANDA_RESTART",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
)
_PREFIXES = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_", "SLURMD_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_")
# How times and lists of elements have to be printed for ``read_rows``: in seconds, and whole.
PRINT_WHOLE = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
SEPARATOR = "|"
# How a row begins: a job's id. What does not is no row of a job (a banner, the second line of a comment).
_ID = re.compile(r"\d+(_\d+|_\[[^\]|]*\]?)?([.+][^|]*)? *\|")
_NO_TIME = ("", "0", "N/A", "NONE", "None", "Unknown")
_NO_TEXT = ("", "(null)", "N/A", "None")


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what a surrounding job left in it; SLURM_CONF stays."""
    return {
        name: value
        for name, value in environment.items()
        if name == "SLURM_CONF" or not (name.startswith(_PREFIXES) or name in _OURS)
    }


def call(command: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S) -> str:
    """The standard output of a Slurm program; raises SlurmError or the kind of it that fits."""
    try:
        done = subprocess.run(
            command,
            env={**scrubbed(os.environ), **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]}: not found; is this a machine with Slurm?") from error
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"{command[0]} did not answer within {timeout_s:g} s") from error
    if done.returncode != 0:
        raise classify_error(done.stderr.strip() or f"{command[0]} ended with status {done.returncode}")
    return done.stdout


def on_cluster(program: str, cluster: str | None) -> list[str]:
    """The beginning of a call that asks the controller of that cluster; None for this machine's."""
    return [program] if cluster is None else [program, "-M", cluster]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A row that cannot be read: Slurm knows the job, but its state there is unknown."""

    program: str
    text: str

    @property
    def reason(self) -> str:
        return f"{self.program} printed what cannot be read: {self.text!r}"


def read_rows(
    program: str, text: str, fields: Sequence[str], parse: Callable[[dict[str, str]], T]
) -> Iterator[tuple[list[str], str, T | Unreadable]]:
    """Each row that a program printed: the jobs that it is about, the step (empty for a job's own), and its content.

    ``parse`` makes something of its fields by name, and raises ValueError for what it cannot read; such a row is
    given as it was printed, as is one of another number of fields. Of a list of elements that was cut short the array
    alone is known. The last field may hold separators and line breaks. A line that belongs to no job is warned of once.
    """
    rows: list[str] = []
    strays: list[str] = []
    for line in text.split("\n"):
        if _ID.match(line):
            rows.append(line)
        elif rows:
            rows[-1] += f"\n{line}"
        elif line.strip():
            strays.append(line.strip())
    if strays:
        more = f", and {len(strays) - 1} more of its kind" if len(strays) > 1 else ""
        warn_once(f"{program} printed a line that is no job's: {strays[0]!r}{more}")
    for row in rows:
        *values, last = row.split(SEPARATOR, len(fields) - 1)
        values = [*(value.strip() for value in values), _last_field(last)]
        job, _, step = values[0].partition(".")
        try:
            yield expand_ids(job), step, parse(dict(zip(fields, values, strict=True)))
        except ValueError:
            yield _readable_ids(job), step, Unreadable(program=program, text=SEPARATOR.join(values))


def _last_field(text: str) -> str:
    first, *more = text.split("\n")
    first = read_text(first.strip().removesuffix(SEPARATOR))
    # A line after a row that ends without a comment is a notice of the site's, and proves nothing.
    return "\n".join([first, *more]).rstrip().removesuffix(SEPARATOR).rstrip() if first else ""


def _readable_ids(job: str) -> list[str]:
    try:
        return expand_ids(job)
    except ValueError:
        return [array_id(job)]


def read_text(text: str) -> str:
    """A text that Slurm shows, empty where it prints a placeholder for none."""
    return "" if text.strip() in _NO_TEXT else text.strip()


def read_time(text: str) -> float | None:
    """Seconds since the epoch from a time that Slurm printed with SLURM_TIME_FORMAT=%s; None where there is none yet.

    Raises ValueError for anything else.
    """
    return None if text in _NO_TIME else float(text)


def read_exit(text: str) -> tuple[int, int]:
    """Exit code and signal from ``3:0``, as the accounting and the queue of 24.11 print them. Raises ValueError."""
    code, _, signal = text.partition(":")
    return int(code or 0), int(signal or 0)


@cache
def warn_once(message: str) -> None:
    """Print a warning to standard error, once in the life of this process."""
    print(f"tanda: {message}", file=sys.stderr, flush=True)
