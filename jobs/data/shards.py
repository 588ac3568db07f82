"""A preprocess task split over several: each shard reads some of the files, and the task itself merges.

A shard leaves a spool beside the data sets. The task takes the spools that are there and reads the other files itself,
so that a shard that failed costs time and nothing else; its id and its bytes are the same with and without shards.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.data.identity import DatasetDefinition
from jobs.storage import Storage
from jobs.task import Task

Files = dict[str, list[int]]  # part -> positions of its files


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The settings of a task that reads some of a data set's files; ``data`` are those of the task that merges."""

    shard: int
    of: int
    data: DatasetDefinition


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


def whole_task(shard: Task) -> Task:
    """The task whose files a shard reads."""
    return Task(stage="preprocess", settings=shard.settings["data"])


def shard_files(paths: Mapping[str, Sequence[str]], shard: int, of: int) -> Files:
    """The files one shard reads: the largest first, each to the shard that has least so far."""
    sized = sorted(
        (-Path(path).stat().st_size, part, number) for part in paths for number, path in enumerate(paths[part])
    )
    loads = [0] * of
    files: Files = {}
    for negative_size, part, number in sized:
        lightest = loads.index(min(loads))
        loads[lightest] += max(-negative_size, 1)
        if lightest == shard:
            files.setdefault(part, []).append(number)
    return {part: sorted(numbers) for part, numbers in sorted(files.items())}


def spool_folder(storage: Storage, dataset: str, shard: int, of: int) -> Path:
    return storage.datasets / f".spool-{dataset}-{of:04d}-{shard:04d}"


def published_spools(storage: Storage, dataset: str) -> list[Path]:
    """The spools that shards have published for a data set; those of a different number of shards too."""
    return sorted(storage.datasets.glob(f".spool-{dataset}-*"))


def remove_spools(storage: Storage, dataset: str) -> None:
    """Remove a data set's spools: it is published."""
    for path in published_spools(storage, dataset):
        shutil.rmtree(path, ignore_errors=True)


def unread_files(paths: Mapping[str, Sequence[str]], read: Collection[tuple[str, int]]) -> Files:
    """The files that are in no spool yet; ``read`` are part and position of those that are in one."""
    unread = {part: [at for at in range(len(names)) if (part, at) not in read] for part, names in paths.items()}
    return {part: numbers for part, numbers in unread.items() if numbers}
