"""How a run was made, and whether running it again gives the same bits."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs import metrics_log
from jobs.data.dataset import Dataset
from jobs.plugins import check_same, in_use
from jobs.search.study import open_study
from jobs.stages.evaluate import target
from jobs.storage import Storage
from jobs.task import RECORD, TASK, Record, Task, read_record
from jobs.training.run import SETTINGS, check_trained_on, read_trained_recipe
from pipeline.manifest.plugins import with_plugins
from pipeline.submission import HOME, snapshot
from sharedfs.documents import digest, read_json
from sharedfs.errors import InputError
from sharedfs.typed_json import Json, decode

# In a metrics log's line: times and places, which differ between equal runs.
VOLATILE = frozenset({"seconds", "titles_per_s", "ended", "attempt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A file that was not reproduced: ``why`` says missing, or which digests."""

    file: str
    why: str


def describe(folder: Path) -> dict[str, Json]:
    """Commit, settings, data digests and the exact command of a task's folder; raises ValueError if never run, or if
    its data set is no longer the one that it was trained on."""
    folder = folder.resolve()
    task, record = _finished(folder)
    datasets = {need: Storage(folder.parent.parent).dataset(need) for need in task.needs}
    digests = {need: _digests(dataset) for need, dataset in datasets.items() if dataset.exists()}
    return {
        "id": task.id,
        "stage": task.stage,
        "git_commit": record.about.git_commit,
        "python": record.about.python,
        "host": record.about.host,
        "settings": dict(task.settings),
        "datasets": digests,
        "command": f"TANDA_CPUS={record.about.cpus or ''} PYTHONSAFEPATH=1 {sys.executable} -m jobs {folder}",
    }


def _digests(dataset: Path) -> dict[str, Json]:
    return {name: asdict(file) for name, file in Dataset.open(dataset).meta.files.items()}


def check(folder: Path, plugins_from: Sequence[Path] = ()) -> list[Difference]:
    """Run a task again in a temporary storage and compare every file that its record names, bit for bit.

    ``plugins_from`` are the files of plugins that it was made with, see ``pipeline.manifest.plugins.with_plugins``.
    """
    folder = folder.resolve()
    task, record = _finished(folder)
    storage = Storage(folder.parent.parent)
    with_plugins(storage, plugins_from, lambda: _check_plugins(storage, task))
    with tempfile.TemporaryDirectory(prefix="tanda-repro-") as name:
        again = Storage(Path(name))
        _link_needs(storage, again, task)
        task.write(again)
        code = HOME
        if in_use():
            code = Path(name) / "code"
            snapshot(code)
        status = run_again(again.run(task.id), record, code)
        if status != 0:
            raise InputError(f"the run ended with status {status} when it was started again")
        return [found for file in record.files if (found := compare_file(storage.root, again.root, file))]


def run_again(folder: Path, record: Record, code: Path = HOME) -> int:
    """Run the task of a folder with as many threads, and on the kind of device, as a record has; its exit status."""
    cpus = str(record.about.cpus or "")
    environment = {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(code),
        "TANDA_CPUS": cpus,
        "OMP_NUM_THREADS": cpus,
        # On the kind of device that it ran on, or not at all: bits of another say nothing.
        **({"TANDA_GPUS": "1"} if record.about.gpu else {"TANDA_GPUS": "0", "CUDA_VISIBLE_DEVICES": ""}),
    }
    return subprocess.run([sys.executable, "-m", "jobs", str(folder)], env=environment, check=False).returncode


def _check_plugins(storage: Storage, task: Task) -> None:
    """Raise PluginNeededError where the task, or the run that it evaluates, takes a plugin that is not in use."""
    search = task.settings.get("search")
    for settings in (task.settings, search if isinstance(search, Mapping) else {}):
        check_same(decode(dict[str, str | int], settings.get("plugins", {})), storage.run(task.id))
    if task.stage == "evaluate":
        read_trained_recipe(target(storage, task))
    elif isinstance(search, str):
        check_same(open_study(storage, search).definition.plugins or {}, storage.search(search))


def _finished(folder: Path) -> tuple[Task, Record]:
    if not (folder / TASK).exists():
        raise InputError(f"{folder}: not a task's folder: give STORAGE/runs/ID")
    record = read_record(folder)
    if record is None or record.state != "done":
        raise InputError(f"{folder}: has not succeeded: there is nothing to compare with")
    task = Task.read(folder)
    for need in task.needs:
        dataset = Storage(folder.parent.parent).dataset(need)
        if dataset.exists():
            check_trained_on(folder, Dataset.open(dataset))
    return task, record


def _link_needs(storage: Storage, again: Storage, task: Task) -> None:
    """Make what the task reads visible in the other storage, without copying it."""
    for parent in (again.runs, again.datasets):
        parent.mkdir(parents=True)
    if storage.vectors.is_dir():
        again.vectors.symlink_to(storage.vectors)
    if "search" in task.settings:
        search = task.settings["search"]
        _link_search(storage, again, task, search if isinstance(search, str) else digest(search))
    for search in _searches_of_members(task):
        _link_search(storage, again, task, search)
    for need in task.needs:
        again.run(need).symlink_to(storage.run(need))
        if storage.dataset(need).is_dir():
            again.dataset(need).symlink_to(storage.dataset(need))


def _searches_of_members(task: Task) -> set[str]:
    """The searches whose ranked trials an ensemble has among its members."""
    if task.settings.get("architecture") != "ensemble":
        return set()
    members = decode(tuple[str, ...], task.settings["members"])
    return {member.partition("/")[0] for member in members if "/" in member}


def _link_search(storage: Storage, again: Storage, task: Task, name: str) -> None:
    """A trial is judged, and is the best, among all trials: their points and records, and models to evaluate."""
    # Copied: a trial that runs again writes there, and must not into the search itself.
    shutil.copytree(storage.search(name), again.search(name))
    for point in again.search(name).glob("trials/*/point.json"):
        trial = str(read_json(point)["task"])
        if trial == task.id:
            continue
        if task.stage != "trial":
            again.run(trial).symlink_to(storage.run(trial))
        elif (storage.run(trial) / RECORD).exists():
            again.run(trial).mkdir()
            shutil.copyfile(storage.run(trial) / RECORD, again.run(trial) / RECORD)


def compare_file(root: Path, again: Path, file: str) -> Difference | None:
    """In what a file of two storages differs; times and places in a metrics log count for nothing."""
    if not (again / file).exists():
        return Difference(file=file, why="missing")
    if Path(file).name == metrics_log.NAME:
        was, now = (
            [
                {name: value for name, value in line.items() if name not in VOLATILE}
                for line in metrics_log.read((base / file).parent)
            ]
            for base in (root, again)
        )
        return None if was == now else Difference(file=file, why="other metrics")
    if Path(file).name == SETTINGS:
        # As they are read, not their bytes: a setting newer than the file has its baseline there, and an early version
        # does not say what the data set's content was.
        recipes = [read_trained_recipe((base / file).parent) for base in (root, again)]
        return None if recipes[0] == recipes[1] else Difference(file=file, why="other settings")
    digests = [_digest(base / file) for base in (root, again)]
    return None if digests[0] == digests[1] else Difference(file=file, why=f"sha256 {digests[0]}, now {digests[1]}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
