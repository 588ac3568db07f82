"""Checks of GPUs: whether torch's build suits the driver, and what a process on a node sees of its GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from jobs.gpu_facts import GpuFacts
from pipeline.doctor import Finding
from pipeline.submission import HOME
from sharedfs.typed_json import Undecodable, decode
from slurm.array import Site
from slurm.errors import SlurmError
from slurm.srun import run_on_node

WAIT_S = 120
DRIVER = Path("/proc/driver/nvidia/version")
# The oldest driver of each major version of CUDA: minor versions are compatible (NVIDIA, CUDA Compatibility).
LEAST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580"}
IMPORTS = {"PYTHONPATH": str(HOME), "PYTHONSAFEPATH": "1"}  # this package, whatever the working directory holds
PROBE = (sys.executable, "-m", "jobs.gpu_facts")


def check_build(version_file: Path | None = None, driver_file: Path = DRIVER) -> Finding:
    """What torch is built for, read and not imported, against this machine's driver if it has one."""
    text = _torch_version() if version_file is None else version_file.read_text()
    version, cuda = (_assigned(text, name) for name in ("__version__", "cuda"))
    if cuda is None:
        return Finding(name="torch", ok=True, reason=f"{version} is built without CUDA: it computes on CPUs alone")
    least = LEAST_DRIVER.get(_major(cuda))
    needs = f"{version} is built for CUDA {cuda}" + (f": nodes need NVIDIA driver {least} or later" if least else "")
    driver = _driver(driver_file)
    if driver is None or least is None:
        return Finding(name="torch", ok=True, reason=needs)
    old = _is_older(driver, least)
    remedy = "; renew the driver, or install a torch for its CUDA" if old else ""
    return Finding(name="torch", ok=not old, reason=f"{needs}, this machine has {driver}{remedy}")


def _torch_version() -> str:
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    return file.read_text() if file and file.exists() else ""


def _assigned(text: str, name: str) -> str | None:
    match = re.search(rf"^{name}\b[^=\n]*= *'([^']+)'", text, re.MULTILINE)
    return match[1] if match else None


def _driver(file: Path) -> str | None:
    if not file.exists():
        return None
    match = re.search(r"\b(\d{3}\.\d+(\.\d+)?)\b", file.read_text())
    return match[1] if match else None


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _is_older(version: str, least: str) -> bool:
    return [int(part) for part in version.split(".")] < [int(part) for part in least.split(".")]


# What a process on a node sees.


def examine_gpu(site: Site | None) -> Iterator[Finding]:
    """Ask a node for a GPU through Slurm by a site's options, or with None this machine; what a process sees there."""
    where = "this machine" if site is None else "a node"
    try:
        printed = _ask_here() if site is None else _ask_node(site)
    except (SlurmError, OSError, subprocess.SubprocessError) as error:
        reason = f"{where} was not asked: {' '.join(str(error).split())}"
        yield Finding(name="GPU", ok=False, reason=reason)
        return
    facts = read_facts(printed)
    if facts is None:
        last = (printed.strip().splitlines() or ["nothing"])[-1]
        yield Finding(name="GPU", ok=False, reason=f"{where} answered what cannot be read: {last}")
        return
    yield from judge(facts)


def _ask_here() -> str:
    environment = {**os.environ, **IMPORTS}
    done = subprocess.run(PROBE, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["nothing printed"])[-1]
        raise subprocess.SubprocessError(f"status {done.returncode}: {last}")
    return done.stdout


def _ask_node(site: Site) -> str:
    words = (site.python_command, *PROBE[1:])
    return run_on_node(words, site, gpus=1, wait_s=WAIT_S, code=HOME, environment=IMPORTS)


def read_facts(printed: str) -> GpuFacts | None:
    """The facts in what the probe printed; None where there are none. Modules and logins print lines of their own."""
    for line in reversed(printed.splitlines()):
        if line.startswith("{"):
            try:
                return decode(GpuFacts, json.loads(line))
            except (Undecodable, ValueError):
                return None
    return None


def judge(facts: GpuFacts) -> Iterator[Finding]:
    """What facts mean for tasks on that node."""
    built = f"torch {facts.torch} for CUDA {facts.cuda}" if facts.cuda else f"torch {facts.torch} without CUDA"
    driver = f", driver {facts.driver}" if facts.driver else ""
    if facts.problem is not None:
        yield Finding(name=f"GPU of {facts.host}", ok=False, reason=f"{facts.problem} ({built}{driver})")
        return
    reason = f"{facts.name}, compute capability {facts.capability}{driver}, {built}, cuDNN {facts.cudnn}"
    yield Finding(name=f"GPU of {facts.host}", ok=True, reason=reason)
    known = has_kernels(facts.capability or "", facts.architectures)
    kernels = f"this torch has kernels for {', '.join(facts.architectures)}"
    missing = f": none for {facts.capability}; install a build of torch that has them"
    yield Finding(name="kernels", ok=known, reason=kernels if known else kernels + missing)
    yield _compute_mode(facts.compute_mode or "unknown")
    slices = "each task gets a slice of a GPU" if facts.mig == "Enabled" else "whole GPUs"
    yield Finding(name="MIG", ok=True, reason=f"{facts.mig or 'unknown'}: {slices}")
    shared = "can share a GPU by MPS" if facts.mps else "take turns on a GPU: nvidia-cuda-mps-control is not there"
    yield Finding(name="MPS", ok=True, reason=f"packed tasks {shared}")


def _compute_mode(mode: str) -> Finding:
    meanings = {
        "Exclusive_Process": "one process a GPU: a second task of a `pack` ends there as `GPU failure`",
        "Prohibited": "no process may compute on this GPU",
    }
    meaning = f": {meanings[mode]}" if mode in meanings else ""
    return Finding(name="compute mode", ok=mode != "Prohibited", reason=f"{mode}{meaning}")


def has_kernels(capability: str, architectures: tuple[str, ...]) -> bool:
    """Whether a GPU runs code for one of these architectures.

    Binaries (``sm_XY``) run on their major version from their minor one on, PTX (``compute_XY``) on every later one
    (CUDA C++ Programming Guide, "Binary compatibility" and "PTX compatibility").
    """
    major, _, minor = capability.partition(".")
    own = int(major) * 10 + int(minor)
    for name in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)([a-z]?)", name)
        if match is None:
            continue
        other, exact = int(match[2]), bool(match[3])
        if own == other or (not exact and other < own and (match[1] == "compute" or other // 10 == own // 10)):
            return True
    return False
