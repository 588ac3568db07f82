"""What on a storage no manifest refers to any more, with its size; removed only when asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.attempt import STALE_S, newest
from jobs.storage import Storage
from jobs.task import Task
from pipeline.plan import Plan
from sharedfs.clock import SYSTEM, Clock, storage_time
from sharedfs.documents import digest
from sharedfs.errors import InputError

LEFTOVER_S = 24 * 3600.0
Progress = Callable[[str, int, int], None]  # what is being done, how many of them are done, out of how many


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreferenced:
    """A folder or file that can be removed, and why; ``size`` in bytes."""

    path: Path
    why: str
    size: int


def find_unreferenced(
    storage: Storage, plans: Sequence[Plan], progress: Progress | None = None, clock: Clock = SYSTEM
) -> list[Unreferenced]:
    """Runs, data sets and searches that none of these plans refers to, and leftovers of killed writers a day old.

    What has a fresh heartbeat is never in it, nor what that reads. Raises ValueError when a plan is on another storage:
    its references would not protect anything here. ``progress`` is called for every folder that was searched.
    """
    for plan in plans:
        if plan.manifest.storage.resolve() != storage.root.resolve():
            raise InputError(f"{plan.manifest.path}: its storage is {plan.manifest.storage}, not {storage.root}")
    kept = {planned.id for plan in plans for planned in plan.tasks}
    now_s = storage_time(storage.root, clock)
    kept_searches = {search.id for plan in plans for search in plan.searches}
    waste = [
        *_unreferenced(storage.runs, kept, "a run of no manifest", progress),
        *_unreferenced(storage.datasets, kept, "a data set of no manifest", progress),
        *_unreferenced(storage.searches, kept_searches, "a search of no manifest", progress),
        *_leftovers(storage, now_s),
    ]
    used = _in_use(storage, now_s)
    return [found for found in waste if found.path not in used]


def remove(
    storage: Storage, waste: Sequence[Unreferenced], progress: Progress | None = None, clock: Clock = SYSTEM
) -> int:
    """Remove each; returns the bytes freed. A folder is renamed first, so that a half removed one is not used.

    What a run uses that began since it was found is left alone.
    """
    removed_bytes = 0
    used = _in_use(storage, storage_time(storage.root, clock))
    for number, found in enumerate(waste, 1):
        if found.path in used:
            continue
        if found.path.is_dir() and not found.path.is_symlink():
            removing = found.path.with_name(f".going-{found.path.name}")
            found.path.rename(removing)
            shutil.rmtree(removing)
        else:
            found.path.unlink(missing_ok=True)
        removed_bytes += found.size
        if progress is not None:
            progress("removing", number, len(waste))
    return removed_bytes


def _unreferenced(folder: Path, kept: set[str], why: str, progress: Progress | None) -> list[Unreferenced]:
    found = []
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    for number, path in enumerate(paths, 1):
        if path.is_dir() and not path.name.startswith(".") and path.name not in kept:
            found.append(Unreferenced(path=path, why=why, size=_size(path)))
        if progress is not None:
            progress(f"looking through {folder.name}", number, len(paths))
    return found


def _leftovers(storage: Storage, now_s: float) -> list[Unreferenced]:
    """Temporary names, which begin with a dot, that nobody has written to for a day."""
    found = []
    for folder in (storage.datasets, storage.vectors, storage.searches, storage.submissions, storage.runs):
        for path in sorted(folder.glob(".*")) if folder.is_dir() else ():
            if path.name not in (".", "..", ".lock") and now_s - _newest(path) > LEFTOVER_S:
                found.append(Unreferenced(path=path, why="left by a killed writer", size=_size(path)))
    return found


def _files(path: Path) -> list[Path]:
    if path.is_symlink() or not path.is_dir():
        return [path]
    return [entry for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink()]


def _size(path: Path) -> int:
    return sum(entry.lstat().st_size for entry in _files(path) if entry.exists())


def _newest(path: Path) -> float:
    return max((entry.lstat().st_mtime for entry in (path, *_files(path)) if entry.exists()), default=0.0)


def _in_use(storage: Storage, now_s: float) -> set[Path]:
    """The runs with a fresh heartbeat, and the runs, data sets and searches that they read or belong to."""
    used: set[Path] = set()
    for folder in storage.runs.iterdir() if storage.runs.is_dir() else ():
        if not _is_alive(folder, now_s):
            continue
        used |= {folder, storage.dataset(folder.name)}
        try:
            task = Task.read(folder)
        except (OSError, ValueError):
            continue  # by its folder's name alone: what it reads is not known
        used |= {folder_of(need) for need in task.needs for folder_of in (storage.run, storage.dataset)}
        if "search" in task.settings:
            search = task.settings["search"]
            used.add(storage.search(search if isinstance(search, str) else digest(search)))
    return used


def _is_alive(path: Path, now_s: float) -> bool:
    last = newest(path) if path.is_dir() else None
    return last is not None and last.ended is None and now_s - (last.last_heartbeat or 0.0) < STALE_S
