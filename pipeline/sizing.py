"""Resources that are `auto`: what finished tasks of the same kind used on this storage with a margin, else a default.

Of the same kind are tasks of one stage and architecture whose data sets have as many titles, to a tenth; of
preprocessing those that read the same files, in as many shards. What a task is given changes no result and no id, so a
plan may be sized anew whenever it is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.storage import Storage
from jobs.task import Record, Task, read_record
from pipeline.manifest.model import Resources
from sharedfs.documents import digest, read_json
from sharedfs.errors import DamagedFileError

if TYPE_CHECKING:
    from pipeline.plan import Planned

MEMORY_MARGIN, TIME_MARGIN = 1.3, 1.5
MEMORY_STEP_GB, SHORTEST_MIN = 0.5, 10
CORES_MARGIN = 0.25  # of a core: what a task used on average is rounded up from here
SAME_SIZE = 0.1  # of the titles, by which data sets of one size may differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What tasks must have in common: ``rows`` of their data set, None where it is not made; ``files`` to read."""

    stage: str
    architecture: str | None = None
    rows: int | None = None
    files: str | None = None

    def is_like(self, other: Kind) -> bool:
        """Whether a task of the other kind tells what one of this kind will use."""
        if (self.stage, self.architecture, self.files) != (other.stage, other.architecture, other.files):
            return False
        if self.stage == "preprocess":
            return self.files is not None
        if self.rows is None or other.rows is None:
            return False
        return abs(self.rows - other.rows) <= SAME_SIZE * max(self.rows, other.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What one task used: the most memory, its time at work over all starts, its cores on average, of ``cpus``.

    ``finished`` is False for one that ended for want of memory: what it had is the least that its like need.
    """

    kind: Kind
    peak_gb: float | None = None
    minutes: float | None = None
    epochs: int | None = None
    cores: float | None = None
    cpus: int | None = None
    finished: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """Resources of tasks of one kind, and for each that was `auto` where it is from, in words."""

    kind: Kind
    resources: Resources
    sources: Mapping[str, str]

    @property
    def line(self) -> str:
        of = " ".join(filter(None, (self.kind.stage, self.kind.architecture)))
        titles = "" if self.kind.rows is None else f", {self.kind.rows:,} titles"
        return f"{of}{titles}: {'; '.join(f'{name} {source}' for name, source in self.sources.items())}"


def size(given: Resources, kind: Kind, used: Sequence[Used], *, epochs: int | None = None) -> Sizing:
    """Resources with what is `auto` in them from tasks of the same kind; ``epochs`` the most that a task will train."""
    like = [each for each in used if kind.is_like(each.kind)]
    sized: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in given.auto:
        found = _RULES[name](like, given.pack, epochs)
        if found is None:
            sources[name] = f"{getattr(given, name):g}, the default: no finished task of this kind tells"
        else:
            sized[name], sources[name] = found
    return Sizing(kind=kind, resources=replace(given, **sized), sources=sources)


def _memory(used: Sequence[Used], pack: int, _epochs: int | None) -> tuple[float, str] | None:
    peaks = [each.peak_gb for each in used if each.peak_gb is not None]
    if not peaks:
        return None
    asked = MEMORY_STEP_GB * math.ceil(MEMORY_MARGIN * max(peaks) * pack / MEMORY_STEP_GB)
    short = sum(not each.finished for each in used)
    more = f" and {short} cut short" if short else ""
    count = f"{_tasks(len(peaks) - short)}{more}"
    return asked, f"{asked:g}: {max(peaks):.2f} GB at most in {count}, x {MEMORY_MARGIN:g}{_packed(pack)}"


def _time(used: Sequence[Used], _pack: int, epochs: int | None) -> tuple[int, str] | None:
    done = [each for each in used if each.finished and each.minutes is not None]
    if not done:
        return None
    if epochs is not None and all(each.epochs for each in done):
        longest = epochs * max((each.minutes or 0.0) / (each.epochs or 1) for each in done)
        what = f"{longest:.1f} min for {epochs} epochs, by the slowest of {_tasks(len(done))}"
    else:
        longest = max(each.minutes or 0.0 for each in done)
        what = f"{longest:.1f} min at most in {_tasks(len(done))}"
    asked = max(SHORTEST_MIN, math.ceil(TIME_MARGIN * longest))
    return asked, f"{asked}: {what}, x {TIME_MARGIN:g}, at least {SHORTEST_MIN}"


def _cores(used: Sequence[Used], pack: int, _epochs: int | None) -> tuple[int, str] | None:
    known = [(each.cores, each.cpus) for each in used if each.finished and each.cores is not None and each.cpus]
    if not known:
        return None
    most = max(cores for cores, _ in known)
    asked = pack * max(1, min(math.ceil(most + CORES_MARGIN), max(cpus for _, cpus in known)))
    return asked, f"{asked}: {most:.1f} cores at most in {_tasks(len(known))}{_packed(pack)}"


_RULES: Mapping[str, Callable[[Sequence[Used], int, int | None], tuple[float, str] | None]] = {
    "cpus": _cores,
    "mem_gb": _memory,
    "time_min": _time,
}


def _tasks(count: int) -> str:
    return f"{count} finished task{'s' * (count != 1)}"


def _packed(pack: int) -> str:
    return f", for {pack} side by side" if pack > 1 else ""


# The tasks of a plan and of its storage.


def size_tasks(storage: Storage, tasks: Iterable[Planned]) -> tuple[dict[str, Resources], tuple[Sizing, ...]]:
    """The resources of each task that has any that are `auto`, by id; and where they are from, once for each kind."""
    reader = _Reader(storage)
    kinds: dict[tuple[Kind, Resources], list[Planned]] = {}
    for planned in tasks:
        if planned.resources.auto:
            kinds.setdefault((reader.kind(planned.task, planned.architecture), planned.resources), []).append(planned)
    if not kinds:
        return {}, ()
    used = list(reader.read_used({kind.stage for kind, _ in kinds}))
    resources: dict[str, Resources] = {}
    sizings = []
    for (kind, given), members in kinds.items():
        sizing = size(given, kind, used, epochs=_most_epochs(members))
        sizings.append(sizing)
        resources |= dict.fromkeys((planned.id for planned in members), sizing.resources)
    return resources, tuple(sizings)


def _most_epochs(tasks: Iterable[Planned]) -> int | None:
    """The most epochs that one of these will train; None where a search decides that, or they train none."""
    if any(planned.stage != "train" or "search" in planned.task.settings for planned in tasks):
        return None
    epochs = [getattr(planned.settings, "epochs", None) for planned in tasks]
    return max((each for each in epochs if each is not None), default=None)


class _Reader:
    """Reads what the tasks of a storage used; what is damaged says nothing."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.rows = cache(self._rows)  # thousands of tasks share a data set

    def kind(self, task: Task, architecture: str | None) -> Kind:
        if task.stage == "preprocess":
            return Kind(stage=task.stage, files=_files(task))
        rows = self.rows(task.needs[0]) if task.needs else None
        return Kind(stage=task.stage, architecture=architecture, rows=rows)

    def read_used(self, stages: set[str]) -> Iterator[Used]:
        """Those of tasks of these stages, in the order of their ids."""
        for folder in sorted(self.storage.runs.glob("*")):
            with suppress(OSError, DamagedFileError):
                record = read_record(folder)
                if record is not None and record.stage not in stages:
                    continue
                task = Task.read(folder)
                if task.stage in stages and (used := self._used(folder, task, record)) is not None:
                    yield used

    def _used(self, folder: Path, task: Task, record: Record | None) -> Used | None:
        kind = self.kind(task, self._architecture(task))
        if record is not None and record.state == "done":
            epochs = record.figure("epochs_run")
            return Used(
                kind=kind,
                peak_gb=_gb(record.about.peak_mb),
                minutes=record.running_s / 60,
                epochs=None if epochs is None else int(epochs),
                cores=record.about.cores,
                cpus=record.about.cpus,
            )
        if record is not None and record.cause == "out of memory":
            return Used(kind=kind, peak_gb=_gb(record.about.peak_mb), finished=False)
        killed = [_killed_gb(path) for path in (folder / "exits").glob("*.json")]
        peak = max((each for each in killed if each is not None), default=None)
        return None if peak is None else Used(kind=kind, peak_gb=peak, finished=False)

    def _architecture(self, task: Task) -> str | None:
        """What a stored task trains or evaluates."""
        settings, search = task.settings, task.settings.get("search")
        named = settings.get("architecture")
        if isinstance(search, Mapping):  # of a trial
            named = search.get("architecture")
        elif isinstance(search, str):  # of a refit, and of the evaluation of a winner
            named = read_json(self.storage.search(search) / "search.json").get("architecture")
        elif isinstance(settings.get("train"), str):
            return self._architecture(Task.read(self.storage.run(settings["train"])))
        return named if isinstance(named, str) else None

    def _rows(self, dataset: str) -> int | None:
        """The titles of a data set that is made, of all its splits."""
        try:
            record = read_record(self.storage.run(dataset))
        except (OSError, DamagedFileError):
            return None
        splits = record.result.get("splits") if record is not None and record.state == "done" else None
        if not isinstance(splits, Mapping):
            return None
        rows = [split.get("rows") for split in splits.values() if isinstance(split, Mapping)]
        return sum(each for each in rows if isinstance(each, int))


def _files(task: Task) -> str | None:
    """The files that a preprocess task reads, by their contents, and in how many shards."""
    sources = task.settings.get("data", task.settings).get("sources")
    return None if sources is None else digest([sources, task.settings.get("of"), task.plumbing.get("shards")])


def _gb(peak_mb: float | None) -> float | None:
    return None if peak_mb is None else peak_mb / 1024


def _killed_gb(path: Path) -> float | None:
    """The memory of a process that was killed with no word of its own (``slurm.element``), as for want of memory."""
    document = read_json(path)
    return _gb(document.get("peak_mb")) if isinstance(document, dict) and document.get("exit_code") == -9 else None
