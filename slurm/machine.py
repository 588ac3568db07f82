"""What this machine carries, for running elements on it without Slurm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

SPARE_MEMORY = 0.1  # of the machine, for everything else


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Cores this process may use, memory in GB, GPUs by the number that CUDA_VISIBLE_DEVICES takes."""

    cpus: int
    mem_gb: float
    gpus: tuple[str, ...]


def this_machine() -> Machine:
    """The machine as this process may use it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cpus=len(os.sched_getaffinity(0)), mem_gb=_memory_limit(total) * (1 - SPARE_MEMORY) / 1024**3, gpus=_gpus()
    )


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, up to the first that is none, as ``jobs.context.visible_gpus`` does."""
    names = (name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(","))
    return tuple(takewhile(lambda name: name not in ("", "NoDevFiles") and not name.startswith("-"), names))


def _memory_limit(total: int) -> int:
    # In a container the limit of its control group counts, not the machine's memory.
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return min(total, int(text))
    return total


def _gpus() -> tuple[str, ...]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return visible_gpus(os.environ)
    devices = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return tuple(sorted(devices, key=int))
