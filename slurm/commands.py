"""Slurm's own programs: run with a clean environment, and told apart when they fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from slurm.errors import SchedulerError

TIMEOUT_S = 60.0
# What a job's environment says of that job alone; a job submitted from inside it must not inherit any.
_OURS = (
    "TANDA_CPUS",
    "TANDA_GPUS",
    "TANDA_ELEMENT",
    "TANDA_RESTART",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
)
_PREFIXES = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_", "SLURMD_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_")


class SlurmError(SchedulerError):
    """A Slurm program failed; the text is what it said."""


class UnreachableError(SlurmError):
    """The controller or the accounting did not answer: what was asked about is unknown, not gone."""


class NoAccountingError(SlurmError):
    """This site keeps no accounting."""


class UnknownJobError(SlurmError):
    """The job is over, or the controller has forgotten it or never knew it."""


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what a surrounding job left in it; SLURM_CONF stays."""
    return {
        name: value
        for name, value in environment.items()
        if name == "SLURM_CONF" or not (name.startswith(_PREFIXES) or name in _OURS)
    }


@contextmanager
def scrubbed_process() -> Iterator[None]:
    """This process's own environment scrubbed for the length of the block, for libraries that call sbatch."""
    kept = dict(os.environ)
    clean = scrubbed(kept)
    for name in kept.keys() - clean.keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)


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


def classify_error(said: str) -> SlurmError:
    """The error that Slurm's words stand for."""
    low = said.lower()
    if "storage is disabled" in low or "accounting_storage/none" in low:
        return NoAccountingError(said)
    if any(words in low for words in ("invalid job id", "already finished", "already completing or completed")):
        return UnknownJobError(said)
    return (UnreachableError if any(words in low for words in _UNREACHABLE) else SlurmError)(said)


_UNREACHABLE = (
    "unable to contact slurm controller",
    "unable to connect to",
    "connection refused",
    "socket timed out",
    "problem talking to the database",
    "communication connection failure",
    "connection timed out",
    "zero bytes were transmitted",
    "sending persistconninit",
)
