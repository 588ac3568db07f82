"""A preprocess task split over several: each shard reads some of the files, and the task itself merges.

A shard leaves a spool beside the data sets. The task takes what it finds there and reads the other files itself, so
that a shard that failed costs time and nothing else; its id and its bytes are the same with and without shards.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jobs.storage import Storage
from jobs.task import Task

Files = dict[str, list[int]]  # part -> positions of its files


def shard_tasks(task: Task, count: int) -> tuple[Task, ...]:
    """The tasks that read a preprocess task's files beforehand: at most one a file, none when one would do it all."""
    count = min(count, sum(map(len, task.settings["sources"].values())))
    if count < 2:
        return ()
    return tuple(
        Task(
            stage="preprocess",
            settings={"shard": number, "of": count, "data": task.settings},
            plumbing={name: task.plumbing[name] for name in ("files", "embeddings")},
        )
        for number in range(count)
    )


def whole(settings: Mapping[str, Any]) -> Task:
    """The task whose files a shard with these settings reads."""
    return Task(stage="preprocess", settings=settings["data"])


def files_of(places: Mapping[str, list[str]], shard: int, of: int) -> Files:
    """The files one shard reads: the largest first, each to the shard that has least so far."""
    sized = [
        (-Path(path).stat().st_size, part, number)
        for part, paths in places.items()
        for number, path in enumerate(paths)
    ]
    loads = [0] * of
    mine: Files = {}
    for size, part, number in sorted(sized):
        lightest = loads.index(max(loads))
        loads[lightest] += min(size, -1)
        if lightest == shard:
            mine.setdefault(part, []).append(number)
    return {part: sorted(numbers) for part, numbers in sorted(mine.items())}


def folder(storage: Storage, dataset: str, shard: int, of: int) -> Path:
    """Where a shard's spool stands."""
    return storage.datasets / f".spool-{dataset}-{of:04d}-{shard:04d}"


def found(storage: Storage, dataset: str) -> list[Path]:
    """The spools that shards have published for a data set; those of a different number of shards too."""
    return sorted(storage.datasets.glob(f".spool-{dataset}-*"))


def remove(storage: Storage, dataset: str) -> None:
    """Remove a data set's spools: it is published."""
    for path in found(storage, dataset):
        shutil.rmtree(path, ignore_errors=True)


def missing(places: Mapping[str, list[str]], done: Iterable[tuple[str, int]]) -> Files:
    """The files that are in no spool yet."""
    taken = set(done)
    left = {part: [at for at in range(len(paths)) if (part, at) not in taken] for part, paths in places.items()}
    return {part: numbers for part, numbers in left.items() if numbers}
