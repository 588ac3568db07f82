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
from pathlib import Path
from typing import TypeVar

from slurm.array import expand_ids
from slurm.errors import UnreachableError, UnusableError, classify_error

T = TypeVar("T")
TIMEOUT_S = 60.0
PACKAGES = Path(__file__).resolve().parents[1]  # the folder that this package is imported from
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
# Where a client finds its cluster, and who it is there: the configuration or the server that has it, a token, and the
# socket of the daemon that signs for it.
_CLIENT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_SACK_SOCKET")
_PREFIXES = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_", "SLURMD_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_")
# How times and lists of elements have to be printed for ``read_rows``: in seconds, and whole.
PRINT_WHOLE = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
SEPARATOR = "|"
# How a row begins: a job's id. What does not is no row of a job (a banner, the second line of a comment).
_ID = re.compile(r"\s*[0-9][0-9_\[\],%:+.-]*([.+][^|]*)?\s*\|")
_CUT_ID = re.compile(r"\s*[0-9]+([_.+][^|\s]*)?\s*")  # all that is left of a row, and perhaps of its id
_ERROR = re.compile(r"^\w+: (error|fatal): ", re.MULTILINE)
NO_VALUE = 2**32 - 2  # Slurm's mark in a number of 32 bits; one more is its infinite
_COUNT = re.compile("[0-9]{1,10}")
_EXIT = re.compile("([0-9]{1,3}):([0-9]{1,3})")
_NO_TIME = ("", "0", "N/A", "NONE", "None", "Unknown", "(null)")
_NO_TEXT = ("", "(null)", "N/A", "None", "None assigned")


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what a surrounding job left in it, or would change what is asked of Slurm.

    This package's folder goes from PYTHONPATH, where a job's script put it: each job is given its own in front.
    """
    clean = {
        name: value
        for name, value in environment.items()
        if name in _CLIENT or not (name.startswith(_PREFIXES) or name in _OURS)
    }
    if "PYTHONPATH" in clean:
        folders = [folder for folder in clean.pop("PYTHONPATH").split(os.pathsep) if folder != str(PACKAGES)]
        clean.update({"PYTHONPATH": os.pathsep.join(folders)} if folders else {})
    return clean


def call(command: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S) -> str:
    """The standard output of a Slurm program; raises SlurmError or the kind of it that fits."""
    return answer(command, environment=environment, timeout_s=timeout_s)[0]


def answer(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> tuple[str, str]:
    """What a Slurm program printed, to standard output and to standard error; raises as ``call`` does.

    One that prints nothing but an error has failed, whatever its status says: sacct ends with that of the last call
    of the system, which may be 0.
    """
    try:
        done = subprocess.run(
            command,
            env={**scrubbed(os.environ), **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",  # whatever the locale: names are sent so
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise UnusableError(f"{command[0]}: not found; is this a machine with Slurm?") from error
    except OSError as error:  # it may not be run, or is no program
        raise UnusableError(f"{command[0]}: {error.strerror}; is this a machine with Slurm?") from error
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"{command[0]} did not answer within {timeout_s:g} s") from error
    silent = not done.stdout.strip() and _ERROR.search(done.stderr) is not None
    if done.returncode != 0 or silent:
        raise classify_error(done.stderr.strip() or f"{command[0]} ended with status {done.returncode}")
    return done.stdout, done.stderr


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
    program: str, text: str, fields: Sequence[str], parse: Callable[[dict[str, str]], T], *, closed: bool = False
) -> Iterator[tuple[list[str], str, T | Unreadable]]:
    """Each row that a program printed: the jobs that it is about, the step (empty for a job's own), and its content.

    ``parse`` makes something of its fields by name, and raises ValueError for what it cannot read; such a row is
    given as it was printed, as is one of another number of fields. Of a list of elements that was cut short the array
    alone is known; of a row with no id not even that. The last field may hold separators and line breaks; where rows
    are ``closed`` by a separator, as those of squeue, no line breaks. A line that belongs to no job is warned of once.
    """
    rows: list[tuple[str, list[str]]] = []
    strays: list[str] = []
    for line in text.split("\n"):
        if _ID.match(line) or _CUT_ID.fullmatch(line) or line.count(SEPARATOR) >= len(fields) - 1:
            rows.append((line, []))
        elif rows:
            rows[-1][1].append(line)
        elif line.strip():
            strays.append(line.strip())
    if strays:
        more = f", and {len(strays) - 1} more of its kind" if len(strays) > 1 else ""
        warn_once(f"{program} printed a line that is no job's: {strays[0]!r}{more}")
    for row, following in rows:
        *values, last = row.split(SEPARATOR, len(fields) - 1)
        values = [*(value.strip() for value in values), _last_field(last, following)]
        job, _, step = values[0].partition(".")
        try:
            if closed and row.count(SEPARATOR) < len(fields):
                raise ValueError("its end is missing")
            yield expand_ids(job), step, parse(dict(zip(fields, values, strict=True)))
        except ValueError:
            ids = _readable_ids(job) if SEPARATOR in row else []
            yield ids, step, Unreadable(program=program, text=SEPARATOR.join(values))


def _last_field(first: str, following: Sequence[str]) -> str:
    first = read_text(first.strip().removesuffix(SEPARATOR))
    # A line after a row that ends without a comment is a notice of the site's, and proves nothing.
    return "\n".join([first, *following]).rstrip().removesuffix(SEPARATOR).rstrip() if first else ""


def _readable_ids(job: str) -> list[str]:
    try:
        return expand_ids(job)
    except ValueError:
        number = re.match("[0-9]+", job)  # of a job of several components, too: 12+0
        return [number[0]] if number else []


def read_text(text: str) -> str:
    """A text that Slurm shows, empty where it prints a placeholder for none."""
    return "" if text.strip() in _NO_TEXT else text.strip()


def read_count(text: str) -> int:
    """A whole number in digits. Raises ValueError for anything else, and for what stands for no value."""
    if not _COUNT.fullmatch(text) or int(text) >= NO_VALUE:
        raise ValueError(f"{text!r}: no number")
    return int(text)


def read_time(text: str) -> float | None:
    """Seconds since the epoch from a time that Slurm printed with SLURM_TIME_FORMAT=%s; None where there is none yet.

    Raises ValueError for anything else.
    """
    return None if text in _NO_TIME else float(read_count(text))


def read_exit(text: str) -> tuple[int, int]:
    """Exit code and signal from ``3:0``, as the accounting and the queue of 24.11 print them. Raises ValueError."""
    match = _EXIT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r}: no exit code")
    return int(match[1]), int(match[2])


@cache
def warn_once(message: str) -> None:
    """Print a warning to standard error, once in the life of this process."""
    print(f"tanda: {message}", file=sys.stderr, flush=True)
