"""What an exported folder holds, and how it is read again: anywhere, without the storage and the data files.

manifest.json            the manifest as it was composed, without whom it told
export.json              what made the folder, and which plugins its results were made with
datasets.json            by which preprocess task each of the manifest's data sets is known
states.json              where each task stood
storage/                 records, settings, metrics logs, predictions, searches, what is known of each data set
weights/<id>.safetensors the trained models
report/  cards/          tables in every format; model cards
code/  environment.txt   what made the folder: our packages with plugins, and every installed package
README.md  SHA256SUMS    the latter as `sha256sum -c` takes it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from jobs import plugins
from jobs.data.settings import Data
from jobs.gpu_use import GpuUse
from jobs.settings import values
from jobs.storage import Storage
from jobs.task import Task
from pipeline.decisions.task_state import TaskState
from pipeline.manifest import load
from pipeline.manifest.compose import compose
from pipeline.manifest.model import Manifest
from pipeline.manifest.plugins import PLACES
from pipeline.plan import Plan, make_plan
from pipeline.report import results_csv
from pipeline.report.collect import Collected, collect
from pipeline.report.files import ReportData, document_files
from pipeline.report.groups import make_groups
from pipeline.report.i18n import make_messages
from pipeline.report.insights import find_insights
from pipeline.report.tables import build_all
from sharedfs.documents import digest, read_as
from sharedfs.errors import DamagedFileError, InputError
from sharedfs.typed_json import Json

MANIFEST, ABOUT, DATASETS, STATES = "manifest.json", "export.json", "datasets.json", "states.json"
STORAGE, WEIGHTS, REPORT, CARDS, CODE = "storage", "weights", "report", "cards", "code"
README, ENVIRONMENT, SUMS = "README.md", "environment.txt", "SHA256SUMS"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """export.json: what made the folder, and of which part of the manifest it is, None of all of it."""

    format: int
    manifest: str
    only: str | None
    git_commit: str | None
    version: str
    python: str
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetUsed:
    """Of datasets.json: a data set as the manifest has it, and the preprocess task that made it."""

    data: Mapping[str, Json]
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stood:
    """Where a task stood: what of its TaskState tables show."""

    state: str
    cause: str | None = None
    message: str | None = None
    attempts: int = 0
    gpu_hours: float | None = None
    gpu: GpuUse | None = None

    @classmethod
    def of(cls, state: TaskState) -> Stood:
        return cls(**{each.name: getattr(state, each.name) for each in fields(cls)})

    def as_state(self, task_id: str) -> TaskState:
        return TaskState(id=task_id, **{each.name: getattr(self, each.name) for each in fields(self)})


@dataclass(frozen=True, slots=True)
class Export:
    """An exported folder."""

    folder: Path

    @property
    def storage(self) -> Storage:
        return Storage(self.folder / STORAGE)

    def about(self) -> About:
        """Raises DamagedFileError, also for one of another format."""
        about = read_as(About, self.folder / ABOUT, "an export")
        if about.format != FORMAT:
            raise DamagedFileError(f"{self.folder}: an export of format {about.format}, this program reads {FORMAT}")
        return about

    def manifest(self, sets: Sequence[str] = ()) -> Manifest:
        """The manifest, with ``--set`` changes that say where data files are here.

        It may be anybody's: no code that it names is run. Raises InputError where it takes plugins, unless the
        folder's own code is what runs, which a person has started as such.
        """
        # With all that it may include: what is found by any way here would run.
        document = compose(self.folder / MANIFEST, sets, None)
        named = any((node := document.find(place)) is not None and node.value for place in PLACES)
        if named and not plugins.SNAPSHOT.is_dir():
            raise InputError(
                f"{self.folder}: made with plugins, whose code is not run; if you trust it, run it as you by "
                f"`PYTHONSAFEPATH=1 PYTHONPATH={self.folder / CODE} python -B -m pipeline repro {self.folder} --check`"
            )
        return load(self.folder / MANIFEST, sets=sets)

    def plan(self) -> Plan:
        """The plan as it was, by the fingerprints that the data files had; raises as ``manifest``."""
        listed = read_as(tuple[DatasetUsed, ...], self.folder / DATASETS, "a list of data sets")
        known = {digest(used.data): used.task for used in listed}

        def identify(data: Data) -> tuple[Mapping[str, Json], Mapping[str, Json]]:
            name = known.get(digest(values(data)))
            if name is None:
                raise DamagedFileError(f"{self.folder / DATASETS}: lacks a data set of {MANIFEST}")
            task = Task.read(self.storage.run(name))
            return task.settings, task.plumbing

        manifest = replace(self.manifest(), storage=self.storage.root)
        return make_plan(manifest, only=self.about().only, identify=identify)

    def states(self) -> dict[str, TaskState]:
        stood = read_as(dict[str, Stood], self.folder / STATES, "states of tasks")
        return {name: one.as_state(name) for name, one in stood.items()}

    def collected(self) -> Collected:
        """The results, read from the folder alone."""
        return collect(self.plan(), self.states())


def report_files(collected: Collected) -> dict[str, bytes]:
    """The tables in every format, by path below REPORT: the same bytes for the same records and predictions."""
    messages = make_messages(collected.manifest.language)
    groups = make_groups(collected)
    tables = tuple(table for group in groups for table in build_all(group, collected, messages))
    report = ReportData(
        collected=collected,
        groups=groups,
        tables=tables,
        observations=find_insights(groups, collected, messages),
        pictures={},
        messages=messages,
    )
    columns = results_csv.columns(collected)
    return {results_csv.CSV: results_csv.as_csv(columns), **document_files(report)}
