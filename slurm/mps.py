"""NVIDIA's MPS of an element's own: without it, tasks that share a GPU take turns on it and never compute at once.

Nothing but the standard library is imported here, as in ``slurm.element``. What the daemon is asked: NVIDIA's
"Multi-Process Service", "nvidia-cuda-mps-control".
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
ANSWER_S, SERVER_S = 20.0, 10.0
# A signal for the whole allocation is for the tasks, which still have to save: it must not end the daemon first.
DETACH = ("/bin/sh", "-c", f"trap '' INT TERM USR2; exec {CONTROL} -d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mps:
    """A daemon that runs: ``folder`` holds its pipes, ``environment`` leads its own programs there."""

    folder: str
    environment: Mapping[str, str]

    def for_task(self, environment: Mapping[str, str], of: tuple[str, ...]) -> dict[str, str]:
        """What a task needs to find it: its GPUs by their place among the element's, as the daemon counts its own.

        A UUID stays one: only numbers are counted anew.
        """
        changed, gpus = {PIPES: self.folder}, environment.get("CUDA_VISIBLE_DEVICES")
        if gpus:
            places = [str(of.index(name)) if name.isdigit() and name in of else name for name in gpus.split(",")]
            changed["CUDA_VISIBLE_DEVICES"] = ",".join(places)
        return changed

    def end(self) -> None:
        """End the daemon with its server and remove its folder; the tasks must be over."""
        try:
            _ask("quit", self.environment)
        except (OSError, subprocess.SubprocessError) as error:
            _say(f"not ended: {error}")
        shutil.rmtree(self.folder, ignore_errors=True)


def start(tasks: int, gpus: int) -> Mps | None:
    """Start it where tasks share a GPU; None where none do, the site has one already, or, once said why, it cannot."""
    if not gpus or tasks <= gpus or os.environ.get(PIPES):
        return None
    if shutil.which(CONTROL) is None:
        _say(f"{CONTROL} is not on PATH: {_turns(tasks)}")
        return None
    # A socket's path is short, and must be on a disk of the node's: /tmp, whatever TMPDIR says.
    folder = tempfile.mkdtemp(prefix="tanda-mps-", dir="/tmp")
    mps = Mps(folder=folder, environment={**os.environ, PIPES: folder, "CUDA_MPS_LOG_DIRECTORY": folder})
    try:
        _detach(mps)
        # The daemon starts where no server can, and every task would fail on it: one is tried before the tasks start.
        _ask(f"start_server -uid {os.getuid()}", mps.environment)
        _wait_for_server(mps.environment)
    except (OSError, subprocess.SubprocessError) as error:
        _say(f"not started: {error}: {_turns(tasks)}")
        _quit_quietly(mps)
        return None
    return mps


def _detach(mps: Mps) -> None:
    # Into a file: the daemon keeps its output open, and a pipe would not end.
    with Path(mps.folder, "output").open("w+", encoding="utf-8", errors="replace") as output:
        done = subprocess.run(
            DETACH, env=mps.environment, timeout=ANSWER_S, check=False,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        output.seek(0)
        if done.returncode:
            raise OSError(" ".join(output.read().split()) or f"{CONTROL} ended with status {done.returncode}")


def _wait_for_server(environment: Mapping[str, str]) -> None:
    deadline = time.monotonic() + SERVER_S
    while not any(word.isdigit() for word in _ask("get_server_list", environment).split()):
        if time.monotonic() > deadline:
            raise OSError("its daemon runs, and starts no server")
        time.sleep(0.1)


def _ask(line: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [CONTROL], input=f"{line}\n", env=environment, timeout=ANSWER_S, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"{line}: {' '.join(done.stderr.split()) or f'status {done.returncode}'}")
    return done.stdout


def _quit_quietly(mps: Mps) -> None:
    with suppress(OSError, subprocess.SubprocessError):  # there may be none: why it was not started is said
        _ask("quit", mps.environment)
    shutil.rmtree(mps.folder, ignore_errors=True)


def _turns(tasks: int) -> str:
    return f"{tasks} tasks take turns on their GPU"


def _say(line: str) -> None:
    print(f"mps: {line}", file=sys.stderr, flush=True)
