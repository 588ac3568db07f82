"""Every evaluated run of a storage, by the records alone: no manifest is read, and no data file has to be there.

Names are those of the reports on the storage; a run that none of them has, of a manifest that was edited since, say, is
called by the group that it was submitted in, if any, with its architecture and id.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.models.ensemble.estimator import ENSEMBLE
from jobs.settings import ModelSettings
from jobs.storage import Storage
from jobs.task import Record, Task, read_record
from jobs.training.run import SETTINGS
from jobs.units import changes
from pipeline import submission
from pipeline.manifest.model import Cluster, Manifest
from pipeline.plan import Row
from pipeline.queue import queue_history
from pipeline.report import records
from pipeline.report.collect import Collected, Progress, Result
from pipeline.report.ensembles import SECONDS
from pipeline.report.groups import OWN_FAULTS, Entry, guessing
from pipeline.report.results_csv import CSV
from sharedfs.documents import digest, read_json
from sharedfs.errors import DamagedFileError, InputError
from sharedfs.typed_json import Json

BROKEN = (OSError, ValueError, LookupError, TypeError)  # what reading a damaged document ends in


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """What a report calls a run."""

    manifest: str
    group: str
    run: str

    def __str__(self) -> str:
        return " / ".join((self.manifest, self.group, self.run))


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageRuns:
    """The evaluated runs, each over its seeds; ``problems`` has a line for each that is left out, and why.

    ``names`` are all that a trained model has, by its task.
    """

    collected: Collected
    entries: tuple[Entry, ...]
    names: Mapping[str, tuple[Name, ...]]
    problems: tuple[str, ...]


def read_runs(root: Path, progress: Progress | None = None) -> StorageRuns:
    """The runs of a storage; raises InputError for a folder that is none."""
    storage = Storage(root)
    if not storage.runs.is_dir():
        raise InputError(f"{root}: no storage: there is no folder runs/ in it; give what a manifest calls `storage`")
    reader = _Reader(storage=storage)
    reader.read(progress)
    # A storage has no manifest of its own: this one asks for nothing.
    manifest = Manifest(
        name="leaderboard", path=root, document={}, storage=root, cluster=Cluster(), runs=(), searches=(), resources={}
    )
    results = tuple(result for results in reader.results.values() for result in results)
    collected = Collected(manifest=manifest, storage=storage, results=results, searches=(), tasks={})
    entries = tuple(reader.entries(collected))
    return StorageRuns(collected=collected, entries=entries, names=reader.names, problems=tuple(reader.problems))


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Reads one storage; ``results`` are by what all seeds of a run have in common, ``searches`` those they are of."""

    storage: Storage
    records: dict[str, Record] = field(default_factory=dict)
    packed: dict[str, int] = field(default_factory=dict)  # how many tasks shared an allocation, by task
    names: dict[str, tuple[Name, ...]] = field(default_factory=dict)
    groups: dict[str, tuple[str, str]] = field(default_factory=dict)  # manifest and group that it was submitted in
    results: dict[str, list[Result]] = field(default_factory=dict)
    searches: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def read(self, progress: Progress | None) -> None:
        self._read_records(progress)
        submissions = submission.read_all(self.storage)
        history = queue_history(submissions, self.records.keys())
        self.packed = {task: elements[-1].packed for task, elements in history.items()}
        for made in submissions:
            for array in made.arrays:
                place = (made.manifest, array.group)
                self.groups |= dict.fromkeys((task for tasks in array.elements.values() for task in tasks), place)
        self._read_names()
        newest: dict[str, tuple[float, str, Result]] = {}
        for task, record in self.records.items():
            if record.stage != "evaluate" or record.state != "done":
                continue
            try:
                key, result = self._evaluated(task, record)
            except BROKEN as error:
                self.problems.append(f"{self.storage.run(task)}: left out: {error}")
                continue
            # A search that was extended has the same winner evaluated again.
            if result.id is not None and newest.get(result.id, (0.0,))[0] <= record.ended:
                newest[result.id] = (record.ended, key, result)
        for _, key, result in newest.values():
            self.results.setdefault(key, []).append(result)
        self._add_failed_seeds()

    def _read_records(self, progress: Progress | None) -> None:
        folders = sorted(folder for folder in self.storage.runs.iterdir() if not folder.name.startswith("."))
        for at, folder in enumerate(folders, start=1):
            try:
                record = read_record(folder)
            except ValueError as error:
                self.problems.append(f"left out: {error}")
                continue
            if record is not None:
                self.records[folder.name] = record
            if progress and at % 100 == 0:
                progress("collect", at, len(folders))

    def _read_names(self) -> None:
        for path in sorted(self.storage.reports.glob(f"*/{CSV}")):
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    lines = list(csv.DictReader(file, strict=True))
                for line in lines:
                    name = Name(manifest=path.parent.name, group=line["group"], run=line["run"])
                    self.names[line["id"]] = (*self.names.get(line["id"], ()), name)
            except (OSError, ValueError, KeyError, csv.Error) as error:
                self.problems.append(f"{path}: names of runs can't be read: {error}; `tanda report` writes it again")

    def _evaluated(self, task_id: str, record: Record) -> tuple[str, Result]:
        """An evaluation with the training that it judged, and what all seeds of that run have in common."""
        task = Task.read(self.storage.run(task_id))
        if not record.files_intact(self.storage):
            raise DamagedFileError("files that its record names are not there with their sizes")
        trained = task.settings.get("train", record.result.get("train"))
        if not isinstance(trained, str) or trained not in self.records or self.records[trained].state != "done":
            raise DamagedFileError(f"no record of the training {trained} that it evaluated")
        training, key = self._training(trained)
        if "train" not in task.settings:
            key = digest([trained, task.settings])
        search = task.settings.get("search", training.settings.get("search"))
        if isinstance(search, str):
            self.searches[key] = search
        return key, self._result(key, training, task_id)

    def _training(self, task_id: str) -> tuple[Task, str]:
        """A training, and a digest of what decides it but for the seed."""
        task = Task.read(self.storage.run(task_id))
        settings = {name: value for name, value in task.settings.items() if name != "seed"}
        return task, digest([task.stage, settings, task.needs])

    def _result(self, key: str, training: Task, evaluate: str | None) -> Result:
        record, judged = self.records[training.id], self.records[evaluate] if evaluate else None
        # Of a search's winner and of a refit the task does not say; a training that failed may have written nothing.
        settings = (
            training.settings
            if "architecture" in training.settings
            else read_json(self.storage.run(training.id) / SETTINGS)
        )
        fingerprint = None if judged is None else records.fingerprint(judged.result)
        row = Row(
            group="",
            run=key,
            architecture=str(settings["architecture"]),
            seed=int(settings.get("seed", 0)),
            settings=ModelSettings(),
            # A data set that was made again may have other titles under its id.
            dataset=f"{training.needs[0]} {fingerprint or ''}".strip(),
            train=training.id,
            evaluate=evaluate or "",
            reference={},
        )
        tasks = [record] if judged is None else [record, judged]
        hours, seconds = self._members_cost(training.id, settings)
        figures = {name: value for each in tasks for name, value in records.figures(each.result).items()}
        if SECONDS in figures:
            figures[SECONDS] += seconds
        return Result(
            row=row,
            position=0,
            id=training.id,
            state="failed" if judged is None else "done",
            cause=record.cause,
            message=record.message,
            attempts=record.attempt,
            settings={},
            figures=figures,
            epochs=(),
            gpu_hours=hours + sum(map(self._gpu_hours, tasks)),
            git_commit=record.about.git_commit,
            fingerprint=fingerprint,
            about=record.about,
            changed=tuple(dict.fromkeys(change for each in tasks for change in changes(each.made))),
        )

    def _members_cost(self, ensemble: str, settings: Mapping[str, Json]) -> tuple[float, float]:
        """GPU-hours and training seconds of what an ensemble chose from; nothing of any other run.

        Of a search all trials' GPU-hours, and the seconds of those that are members.
        """
        named = settings.get("members")
        if not isinstance(named, list):
            return 0.0, 0.0
        trained = [name for name in map(str, named) if "/" not in name]
        searches = {name.partition("/")[0] for name in map(str, named) if "/" in name}
        path = self.storage.run(ensemble) / ENSEMBLE
        chosen = read_json(path)["members"] if path.exists() else []  # one that failed has chosen nothing
        members = {*trained, *(str(member["run"]) for member in chosen)}
        hours = [self._gpu_hours(self.records[name]) for name in trained if name in self.records]
        hours += map(self._search_hours, sorted(searches))
        seconds = [self.records[name].result.get(SECONDS) for name in sorted(members) if name in self.records]
        return sum(hours), sum(value for value in seconds if isinstance(value, float | int))

    def _gpu_hours(self, record: Record) -> float:
        return record.running_s * record.about.gpus / 3600 / self.packed.get(record.id, 1)

    def _add_failed_seeds(self) -> None:
        """Seeds that failed by their own fault count as guessing, beside those of their run that were evaluated."""
        for task_id, record in self.records.items():
            if record.stage != "train" or record.state != "failed" or record.cause not in OWN_FAULTS:
                continue
            try:
                training, key = self._training(task_id)
                if key in self.results:
                    self.results[key].append(self._result(key, training, None))
            except BROKEN as error:
                self.problems.append(f"{self.storage.run(task_id)}: a failed seed is not counted: {error}")

    def entries(self, collected: Collected) -> Iterator[Entry]:
        hours = {search: self._search_hours(search) for search in set(self.searches.values())}
        for position, (key, results) in enumerate(self.results.items()):
            results = sorted(results, key=lambda result: result.row.seed)
            found = dict.fromkeys(name for result in results for name in self.names.get(result.id or "", ()))
            architecture, trained = results[0].row.architecture, results[0].id or ""
            otherwise = " / ".join((*self.groups.get(trained, ()), f"{architecture} {trained[:8]}"))
            yield Entry(
                group=next((name.manifest for name in found), ""),
                run=_label(tuple(found), otherwise),
                architecture=architecture,
                position=position,
                results=tuple(replace(result, position=position) for result in results),
                search_hours=hours.get(self.searches.get(key, "")),
                chance=guessing(results, collected),
            )

    def _search_hours(self, search: str) -> float:
        """GPU-hours of all trials of a search."""
        spent = 0.0
        for point in sorted(self.storage.search(search).glob("trials/*/point.json")):
            try:
                trial = self.records.get(str(read_json(point)["task"]))
            except BROKEN as error:
                self.problems.append(f"{point}: its trial's GPU-hours are not counted: {error}")
                continue
            spent += 0.0 if trial is None else self._gpu_hours(trial)
        return spent


def _label(names: tuple[Name, ...], otherwise: str) -> str:
    """What a run is called here: by its first name, with how many others it has."""
    more = f" (+{len(names) - 1})" if len(names) > 1 else ""
    text = f"{names[0]}{more}" if names else otherwise
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text)
