"""Runs side by side on one machine, and what they do together while all of them train."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _made import recipe_of, task_of

from jobs import metrics_log
from jobs.metrics_log import EpochMetrics
from jobs.models import Recipe
from jobs.storage import Storage

EPOCHS_TO_SEE = 2  # of each run, whole, inside the window
MOST_EPOCHS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The time in which all of some runs trained: ``titles_per_s`` of all together, ``epochs`` that each was given."""

    titles_per_s: float
    window_s: float
    epochs: int
    told: tuple[str, ...]  # what the runs said of `compile`


def common_window(runs: Sequence[Sequence[EpochMetrics]], titles: int) -> tuple[float, float, float]:
    """(titles a second of all runs together, seconds, the fewest epochs of one run) while every run trained.

    Processes begin seconds apart, and an epoch may last a tenth of one: each run's own rate, added up, would be that
    of runs which had the machine to themselves. First epochs are left out: graphs are captured in them. An epoch's
    titles are spread evenly over its ``seconds``, validation included. Without such a time all three are 0.
    """
    begin = max(run[0]["ended"] for run in runs)
    end = min(run[-1]["ended"] for run in runs)
    if end <= begin:
        return 0.0, 0.0, 0.0
    epochs = [sum(_share(line, begin, end) for line in run) for run in runs]
    return titles * sum(epochs) / (end - begin), end - begin, min(epochs)


def _share(line: EpochMetrics, begin: float, end: float) -> float:
    """How much of an epoch lies between these times."""
    inside = min(end, line["ended"]) - max(begin, line["ended"] - line["seconds"])
    return max(0.0, inside) / line["seconds"]


def side_by_side(
    storage: Storage, count: int, *, cpus: int, architecture: str, titles: int, epochs: int = 4, **given: Any
) -> Window:
    """Train so many runs at once, with more epochs until each spends two of them beside all others.

    Each is given so many cores: the same for one alone as for each of many, as `pack` has it. Raises RuntimeError with
    the log of one that failed.
    """
    while True:
        folders = _run(storage, count, cpus, recipe_of(architecture, epochs=epochs, patience_chance=10_000, **given))
        rate, window_s, seen = common_window([metrics_log.read(folder) for folder in folders], titles)
        if seen >= EPOCHS_TO_SEE:
            logs = [line for folder in folders for line in (folder / "log.txt").read_text().splitlines()]
            told = tuple(sorted({line.partition(" ")[2] for line in logs if "compile" in line}))
            return Window(titles_per_s=rate, window_s=window_s, epochs=epochs, told=told)
        if epochs >= MOST_EPOCHS:
            raise RuntimeError(f"{count} runs of {epochs} epochs never trained at the same time: give more titles")
        epochs *= 2


def cores_each(count: int) -> int:
    """This machine's cores shared out among so many runs."""
    return max(1, len(os.sched_getaffinity(0)) // count)


def _run(storage: Storage, count: int, cpus: int, recipe: Recipe) -> list[Path]:
    environment = {**os.environ, "TANDA_CPUS": str(cpus), "OMP_NUM_THREADS": str(cpus)}
    running = []
    for seed in range(count):
        # A run that is done is not run again: so many at once have seeds of their own.
        folder = task_of(recipe.with_seed(1000 * count + seed)).write(storage)
        with (folder / "log.txt").open("ab") as log:
            command = [sys.executable, "-m", "jobs", str(folder)]
            running.append((folder, subprocess.Popen(command, stdout=log, stderr=log, env=environment)))
    statuses = [process.wait() for _, process in running]
    for (folder, _), status in zip(running, statuses, strict=True):
        if status != 0:
            raise RuntimeError((folder / "log.txt").read_text())
    return [folder for folder, _ in running]
