"""Checks of a site: Slurm, versions, space, and what the storage's file system promises."""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from sharedfs.clock import SYSTEM
from sharedfs.files import claim, publish_folder, write_whole
from slurm.errors import AccountingRefusedError, NoAccountingError, SlurmError
from slurm.limits import Limits, read
from slurm.query import ask_accounting

CLAIMANTS = 4
ROUNDS = 25
CLOCK_S = 5.0
PACKAGES = ("torch", "numpy", "polars", "pandas", "scikit-learn", "mlflow", "hyperopt", "submitit", "pydantic")
LEAST_FREE_GB = 10.0


# What the storage's file system promises: the few guarantees that everything else is built on.


class _BrokenPromiseError(Exception):
    """What was seen, and what follows from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: ``reason`` says what was seen, and where it failed what follows from it."""

    name: str
    ok: bool
    reason: str


def check_filesystem(root: Path) -> Iterator[Finding]:
    """Try every promise in a temporary folder under ``root``, one after the other; the folder is removed again."""
    checks: tuple[tuple[str, Callable[[Path], str]], ...] = (
        ("exclusive folders", _exclusive_folders),
        ("exclusive files", _exclusive_files),
        ("rename replaces a file", _rename_file),
        ("rename refuses a full folder", _rename_folder),
        ("fsync of files and folders", _fsync),
        ("a fresh name is seen at once", _fresh_name),
        ("the clock", _clock),
    )
    with _scratch(root) as folder:
        for number, (name, check) in enumerate(checks):
            yield _try(name, check, folder / str(number))


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _try(name: str, check: Callable[[Path], str], folder: Path) -> Finding:
    folder.mkdir()
    try:
        return Finding(name=name, ok=True, reason=check(folder))
    except (_BrokenPromiseError, OSError) as error:
        return Finding(name=name, ok=False, reason=str(error))


def _claim_all(folders: list[Path]) -> int:
    return sum(claim(folder) for folder in folders)


def _open_all(paths: list[Path]) -> int:
    won = 0
    for path in paths:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            won += 1
        except FileExistsError:
            continue
    return won


def _race(work: Callable[[list[Path]], int], folder: Path) -> str:
    names = [folder / str(number) for number in range(ROUNDS)]
    # Not forked: whoever calls this may have threads, and a lock that one of them holds stays held in a fork.
    with multiprocessing.get_context("spawn").Pool(CLAIMANTS) as pool:
        won = sum(pool.map(work, [names] * CLAIMANTS))
    if won != ROUNDS:
        raise _BrokenPromiseError(f"{CLAIMANTS} processes won {won} of {ROUNDS} claims: two would run the same task")
    return f"{CLAIMANTS} processes, {ROUNDS} claims, each won once"


def _exclusive_folders(folder: Path) -> str:
    return _race(_claim_all, folder)


def _exclusive_files(folder: Path) -> str:
    return _race(_open_all, folder)


def _rename_file(folder: Path) -> str:
    path = folder / "record.json"
    for text in (b"old", b"new"):
        write_whole(path, text)
    if path.read_bytes() != b"new" or len(list(folder.iterdir())) != 1:
        raise _BrokenPromiseError("a renamed file did not replace the old one: records could be read half written")
    return "a new file takes the old one's place"


def _rename_folder(folder: Path) -> str:
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "part").write_text(name)
    first, second = publish_folder(folder / "one", folder / "final"), publish_folder(folder / "two", folder / "final")
    if not first or second or (folder / "final" / "part").read_text() != "one":
        raise _BrokenPromiseError("a second folder took a published one's place: a data set could change under a run")
    return "the first published folder stands"


def _fsync(folder: Path) -> str:
    started = time.perf_counter()
    write_whole(folder / "synced", b"x")
    return f"one whole write takes {1000 * (time.perf_counter() - started):.0f} ms"


def _fresh_name(folder: Path) -> str:
    (folder / "fresh").touch()
    if not (folder / "fresh").exists():
        raise _BrokenPromiseError("a file just made is not seen: attempts could not tell that they are overtaken")
    return "seen"


def _clock(folder: Path) -> str:
    skew_s = SYSTEM.on(folder) - SYSTEM.now()
    if abs(skew_s) > CLOCK_S:
        raise _BrokenPromiseError(f"the storage's clock is {skew_s:+.0f} s from this machine's: set both by NTP")
    return f"{skew_s:+.1f} s from this machine's"


# What tanda depends on: versions, Slurm, GPUs, the storage's guarantees and its free space.


def examine(storage: Path, cluster: str | None = None) -> Iterator[Finding]:
    """Every finding as it is made, in the order in which to fix them; makes a missing storage's folder.

    ``cluster`` is the one that is asked, None this machine's.
    """
    yield _versions()
    yield from _slurm(cluster)
    yield from check_filesystem(storage)
    yield _free(storage)


def _versions() -> Finding:
    missing = []
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        return Finding(name="versions", ok=False, reason=f"missing: {', '.join(missing)}; run `make setup`")
    return Finding(name="versions", ok=True, reason=", ".join(found))


def _slurm(cluster: str | None = None) -> list[Finding]:
    if shutil.which("sbatch") is None:
        return [Finding(name="Slurm", ok=True, reason="no sbatch here: `tanda run` works, `--executor slurm` does not")]
    try:
        limits = read(cluster)
    except SlurmError as error:
        reason = f"the controller does not answer: {_last_line(str(error))}: is this a machine of the cluster?"
        return [Finding(name="Slurm", ok=False, reason=reason)]
    return [_cluster(limits), _accounting(limits, cluster), _gpus(limits)]


def _last_line(output: str) -> str:
    """The last line of what a Slurm program printed, without its name: lines before it say what it tried."""
    return re.sub(r"^(\w+: )?(error|fatal): ", "", output.rpartition("; ")[2]).rstrip(".")


def _cluster(limits: Limits) -> Finding:
    most = limits.max_submit_jobs if limits.max_submit_jobs is not None else "no limit on"
    reason = (
        f"Slurm {limits.version}, cluster {limits.cluster}: arrays of up to {limits.max_array_size} elements, "
        f"{most} queued elements a user"
    )
    return Finding(name="Slurm", ok=True, reason=reason)


def _accounting(limits: Limits, cluster: str | None = None) -> Finding:
    none = Finding(
        name="accounting", ok=True, reason="none: states come from squeue and the records, GPU-hours from the tasks"
    )
    if not limits.accounting:
        return none
    try:
        ask_accounting(["1"], cluster)  # any job: whether there is an answer counts
    except AccountingRefusedError as error:
        reason = f"sacct does not answer: {_last_line(str(error))}: a job gone from the queue without a record is lost"
        return Finding(name="accounting", ok=False, reason=reason)
    except NoAccountingError:
        return none
    except SlurmError as error:
        reason = f"sacct does not answer: {_last_line(str(error))}: states of jobs gone from the queue are unknown"
        return Finding(name="accounting", ok=False, reason=reason)
    return Finding(name="accounting", ok=True, reason="sacct answers: GPU-hours and peak memory are measured")


def _gpus(limits: Limits) -> Finding:
    lines = [
        f"{partition.name}: {sum(partition.gpus.values())} GPUs"
        + (f", at most {partition.time_limit_min} min" if partition.time_limit_min else "")
        for partition in limits.partitions
    ]
    return Finding(name="partitions", ok=bool(lines), reason="; ".join(lines) or "there is no partition")


def _free(storage: Path) -> Finding:
    free_gb = shutil.disk_usage(storage).free / 1e9
    reason = f"{free_gb:.0f} GB free on {storage}"
    if free_gb < LEAST_FREE_GB:
        return Finding(name="free space", ok=False, reason=f"{reason}: `tanda gc` shows what can be removed")
    return Finding(name="free space", ok=True, reason=reason)
