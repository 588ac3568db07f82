"""The processes beside an element's children: started once, told of each child, ended when the children are over.

Nothing but the standard library is imported here, as in ``slurm.element``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

SIDECARS = "TANDA_BESIDE"  # commands, a JSON list of lists; the children's paths are added to each
CHILDREN = "TANDA_CHILDREN"  # for a sidecar: a ``Child`` for each of these paths, as a JSON list
LAST_S = 5.0  # in which they may send or write what they still have


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A child as a sidecar knows it: ``gpus`` is its CUDA_VISIBLE_DEVICES, None where that is not set."""

    path: str
    pid: int
    cpus: int
    gpus: str | None


def start(children: Sequence[Child]) -> list[subprocess.Popen[bytes]]:
    """Start what the environment names; what cannot be started is said, and changes nothing for the children."""
    processes: list[subprocess.Popen[bytes]] = []
    named = os.environ.get(SIDECARS)
    if not named or not children:
        return processes
    told = json.dumps([asdict(child) for child in children])
    try:
        for command in json.loads(named):
            words = [*command, *(child.path for child in children)]
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", CHILDREN: told}
            processes.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment))
    except (OSError, ValueError) as error:
        print(f"not started beside the tasks: {error}", file=sys.stderr, flush=True)
    return processes


def end(processes: Sequence[subprocess.Popen[bytes]], limit_s: float) -> None:
    """Ask all to end, and kill those that have not within the limit."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + limit_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
