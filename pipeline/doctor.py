"""Looks at what tanda stands on: versions, Slurm, GPUs, the storage's promises and its free space."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pipeline.filesystem import Finding, check_filesystem
from slurm.commands import SlurmError
from slurm.limits import Limits, read

PACKAGES = ("torch", "numpy", "polars", "pandas", "scikit-learn", "mlflow", "hyperopt", "submitit", "pydantic")
LEAST_FREE_GB = 10.0


def examine(storage: Path) -> Iterator[Finding]:
    """Every finding as it is made, in the order in which they would be mended; makes a missing storage's folder."""
    yield _versions()
    yield from _slurm()
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


def _slurm() -> list[Finding]:
    if shutil.which("sbatch") is None:
        return [Finding(name="Slurm", ok=True, reason="no sbatch here: `tanda run` works, `--executor slurm` does not")]
    try:
        limits = read()
    except SlurmError as error:
        reason = f"the controller does not answer: {_last_line(str(error))}: is this a machine of the cluster?"
        return [Finding(name="Slurm", ok=False, reason=reason)]
    return [_cluster(limits), _accounting(limits), _gpus(limits)]


def _last_line(said: str) -> str:
    """What a Slurm program ended on, without its own name: the lines before it tell what it tried."""
    lines = [line for line in said.splitlines() if line.strip()] or ["no reason given"]
    return re.sub(r"^(\w+: )?(error|fatal): ", "", lines[-1].strip()).rstrip(".")


def _cluster(limits: Limits) -> Finding:
    most = limits.max_submit_jobs if limits.max_submit_jobs is not None else "no limit on"
    reason = (
        f"Slurm {limits.version}, cluster {limits.cluster}: arrays of up to {limits.max_array_size} elements, "
        f"{most} queued elements a user"
    )
    return Finding(name="Slurm", ok=True, reason=reason)


def _accounting(limits: Limits) -> Finding:
    if limits.accounting:
        return Finding(name="accounting", ok=True, reason="sacct answers: GPU-hours and peak memory are measured")
    return Finding(
        name="accounting", ok=True, reason="none: states come from squeue and the records, GPU-hours from the tasks"
    )


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
        return Finding(name="free space", ok=False, reason=f"{reason}: `tanda gc` shows what can go")
    return Finding(name="free space", ok=True, reason=reason)
