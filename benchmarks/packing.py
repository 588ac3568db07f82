"""Runs side by side on one device against one alone: what `pack: k` gains in titles a second.

Claimed on a GPU: four at batch 128 train at least 2.5 times as many titles a second as one. On a CPU the cores are
shared out, and the program says what that gives.

    python benchmarks/packing.py [--pack 4] [--titles 200000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from _made import settings_of, storage_with

from jobs import journal
from jobs.storage import Storage
from jobs.task import Task


def start(storage: Storage, seed: int, cpus: int, architecture: str) -> tuple[Path, subprocess.Popen[bytes]]:
    """Start a whole task of two epochs with so many cores."""
    settings = settings_of(architecture, epochs=2, batch_size=128, seed=seed, patience_chance=99)
    folder = Task(stage="train", settings=settings).write(storage)
    environment = {**os.environ, "TANDA_CPUS": str(cpus)}
    with (folder / "log.txt").open("ab") as log:
        return folder, subprocess.Popen([sys.executable, "-m", "jobs", folder], stdout=log, stderr=log, env=environment)


def titles_per_s(storage: Storage, seeds: range, cpus: int, architecture: str) -> float:
    """The sum over runs side by side of what each did in its second epoch; raises RuntimeError if one failed."""
    running = [start(storage, seed, cpus, architecture) for seed in seeds]
    for folder, process in running:
        if process.wait() != 0:
            raise RuntimeError((folder / "log.txt").read_text())
    return sum(float(journal.read(folder)[-1]["titles_per_s"]) for folder, _ in running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=int, default=4)
    parser.add_argument("--titles", type=int, default=200_000)
    parser.add_argument("--architecture", default="mlp")
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    if not torch.cuda.is_available():
        print("no GPU is present: this shows how cores are shared, not what packing is for")
    with storage_with(given.titles) as (storage, _):
        alone = titles_per_s(storage, range(1), cores, given.architecture)
        cpus = max(1, cores // given.pack)
        packed = titles_per_s(storage, range(1, 1 + given.pack), cpus, given.architecture)
    print(f"one: {alone:,.0f} titles/s; {given.pack} side by side: {packed:,.0f} titles/s; {packed / alone:.2f} times")


if __name__ == "__main__":
    main()
