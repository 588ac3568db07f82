"""Arrays of children that do as they are told, and waiting for what becomes of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slurm.array import Array, Resources

CHILD = (sys.executable, str(Path(__file__).with_name("slurm_child.py")))
ROOT = Path(__file__).parents[1]
SMALL = Resources(mem_gb=0.25, time_min=5)


def make_array(folder: Path, *plans: str, name: str = "tanda-test", **facts: Any) -> Array:
    """An element for each plan, as tests/slurm_child.py reads it; ``facts`` are the array's own."""
    elements = []
    for number, plan in enumerate(plans):
        path = folder / "runs" / f"{name}-{number}"
        path.mkdir(parents=True)
        (path / "plan").write_text(plan)
        elements.append((path,))
    return Array(
        name=name, elements=tuple(elements), command=CHILD, folder=folder / "submission", code=ROOT,
        **{"resources": SMALL, **facts},
    )  # fmt: skip


def wait_for(ready: Callable[[], bool], limit_s: float = 60) -> None:
    """Ask ten times a second until it is so."""
    deadline = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)
