"""Which GPUs this process was given, by what its environment says; nothing is asked of a driver here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import takewhile


def visible(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, by index or id; CUDA reads it up to the first that is none.

    Its twin is ``slurm.machine.visible_gpus``: these two packages know nothing of each other.
    """
    names = (name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(","))
    # NoDevFiles is Slurm's word for none; a negative index is CUDA's.
    return list(takewhile(lambda name: name not in ("", "NoDevFiles") and not name.startswith("-"), names))


def allotted(environment: Mapping[str, str] = os.environ) -> int | None:
    """How many GPUs this process was allotted; None where nobody has said, as in a shell.

    TANDA_GPUS is what the task's element was given. A site that allots GPUs by an option of its own leaves it at 0 and
    names them in CUDA_VISIBLE_DEVICES.
    """
    counts = [int(count)] if (count := environment.get("TANDA_GPUS", "")).isdigit() else []
    if "CUDA_VISIBLE_DEVICES" in environment:
        counts.append(len(visible(environment)))
    return max(counts, default=None)
