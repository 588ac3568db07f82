"""What this machine has for processes: cores, memory, GPUs."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from slurm.commands import warn_once

SPARE_MEMORY = 0.1  # of the machine, for everything else


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Cores this process may use, memory in GB, GPUs by their names for CUDA_VISIBLE_DEVICES."""

    cpus: int
    mem_gb: float
    gpus: tuple[str, ...]


def this_machine() -> Machine:
    """The machine as this process may use it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    mem_gb = _memory_limit(total) * (1 - SPARE_MEMORY) / 1024**3
    return Machine(cpus=len(os.sched_getaffinity(0)), mem_gb=mem_gb, gpus=list_gpus())


def _memory_limit(total: int) -> int:
    # In a container the limit of its control group counts, not the machine's memory.
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:  # the other version of control groups, or none
            continue
        if text.isdigit():
            return min(total, int(text))
    return total


def list_gpus(dev: Path = Path("/dev")) -> tuple[str, ...]:
    """The GPUs there are, by their names for CUDA_VISIBLE_DEVICES."""
    devices = list(dev.glob("nvidia[0-9]*"))
    if not devices:
        return ()
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # then they are counted
        listed = ""
    names = parse_gpu_list(listed)
    if listed.strip() and not names:
        warn_once(f"nvidia-smi printed a list that cannot be read: {listed.splitlines()[0]!r}: the device files count")
    # Not the device files' numbers: CUDA counts what it sees, in a container that has /dev/nvidia3 alone from 0.
    return names or tuple(map(str, range(len(devices))))


def parse_gpu_list(text: str) -> tuple[str, ...]:
    """The names for CUDA_VISIBLE_DEVICES of what ``nvidia-smi -L`` lists: numbers, and of MIG slices their ids.

    A GPU that is cut into slices can be used by a slice alone.
    """
    gpus: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("GPU "):
            gpus.append([])
        elif gpus and (slice_id := re.search(r"UUID: (MIG-[^)\s]+)", line)):
            gpus[-1].append(slice_id[1])
    return tuple(name for number, slices in enumerate(gpus) for name in slices or [str(number)])
