"""From a process's start to its first training step, against importing torch and opening the data set.

Claimed: at most 1.5 times. Both are whole processes, run in turn; the ratio is that of the medians.

    python benchmarks/startup.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from _made import recipe_of, storage_with, task_of

from jobs.storage import Storage

FLOOR = """
import os
import sys
from dataclasses import replace
from pathlib import Path
import torch
from jobs.data.dataset import Dataset
Dataset.open(Path(sys.argv[1])).splits
os._exit(0)
"""
# The real entry point; the process ends as its first step does.
STEP = """
import os, sys
from dataclasses import replace
from pathlib import Path
from jobs import entry
from jobs.training import loop
step = loop.Stepper.step
def first(self, batch):
    step(self, batch)
    os._exit(7)
loop.Stepper.step = first
entry.run(Path(sys.argv[1]))
"""


def seconds(program: str, folder: Path, status: int) -> float:
    """How long a Python process with this program takes; raises RuntimeError when it ends otherwise."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != status:
        raise RuntimeError(f"ended with {done.returncode}: {done.stderr}")
    return time.perf_counter() - began


def task_folder(storage: Storage, made: str) -> Path:
    return task_of(replace(recipe_of("mlp", epochs=1), dataset=made)).write(storage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with storage_with(20_000) as (storage, made):
        folder, dataset = task_folder(storage, made), storage.dataset(made)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds + 1):
            times[0].append(seconds(FLOOR, dataset, 0))
            times[1].append(seconds(STEP, folder, 7))
    # The first round reads files from the disk.
    floor, step = (statistics.median(each[1:]) for each in times)
    print(f"import torch and open the data set {floor:.2f} s, first step after {step:.2f} s: {step / floor:.2f} times")


if __name__ == "__main__":
    main()
