"""A child for the tests of ``slurm``: does what ``<path>/plan`` says, a line for each start (the last one stays).

Words: ``exit N``, ``sleep S``, ``eat MB``, ``kill`` (itself), ``kill-element``, ``touch NAME``, ``save`` (from now
on: save and exit 75 when asked to stop), ``deaf`` (from now on: hear nothing).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

path = Path(sys.argv[1])


def note(word: str) -> int:
    """Add a line to ``<path>/notes``; how many begin with the word now."""
    with (path / "notes").open("a") as file:
        file.write(f"{word} {time.time():.3f} {os.environ.get('TANDA_CPUS')}\n")
    return sum(line.startswith(word) for line in (path / "notes").read_text().splitlines())


def save(number: int, frame: FrameType | None) -> None:
    # The warning and the end of the grace time come as two signals: saving once is enough.
    for other in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    note("saved")
    (path / "checkpoint.pt").write_text(str(time.time()))
    sys.exit(75)


def main() -> None:
    start = note("start")
    (path / "devices").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "not set"))
    (path / "mps").write_text(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", ""))
    (path / "gpus").write_text(os.environ.get("TANDA_GPUS", ""))
    (path / "warning").write_text(os.environ.get("TANDA_WARNING_S", ""))
    (path / "gpu_tasks").write_text(os.environ.get("TANDA_GPU_TASKS", ""))
    lines = (path / "plan").read_text().splitlines()
    words = lines[min(start, len(lines)) - 1].split()
    kept = []
    while words:
        word = words.pop(0)
        if word == "exit":
            note("end")
            sys.exit(int(words.pop(0)))
        elif word == "sleep":
            time.sleep(float(words.pop(0)))
        elif word == "eat":
            kept.append(bytearray(int(words.pop(0)) * 1024**2))
        elif word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "kill-element":
            os.kill(os.getppid(), signal.SIGKILL)
        elif word == "touch":
            (path / words.pop(0)).write_text(str(time.time()))
        elif word in ("save", "deaf"):
            for number in (signal.SIGUSR2, signal.SIGTERM):
                signal.signal(number, save if word == "save" else signal.SIG_IGN)
        else:
            sys.exit(f"unknown word {word}")
    note("end")


main()
