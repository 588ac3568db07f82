"""MLflow's own store beside the report: a view of storage, filled by one importer at a time, rebuilt at will.

The only module that imports mlflow, and only when there is something to write: an update with nothing new reads one
small file. That file is a cache; without it every run is found again by its tag, and nothing is written twice.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict
from urllib.parse import unquote, urlparse

import orjson

from jobs.storage import Storage
from pipeline.mlflow.runs import MlflowRun
from pipeline.mlflow.server import PARAM_LENGTH, TAG_LENGTH, Point, batches, shorten
from pipeline.report.collect import Progress
from pipeline.report.files import replace
from sharedfs.documents import digest, read_json
from sharedfs.errors import InputError
from sharedfs.files import check_plain, plain_folder
from sharedfs.lock import try_hold

SAVE_EVERY = 200  # runs between two writings of the cache
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """What an update did; ``busy`` when another process was at it, and nothing was done here."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0
    busy: bool = False


def database(storage: Storage) -> Path:
    return storage.root / "mlflow.db"


def artifacts(storage: Storage) -> Path:
    return storage.root / "mlartifacts"


def uri(storage: Storage) -> str:
    """MLflow's name for the store, to open it with its own client."""
    return f"sqlite:///{database(storage)}"


def update(
    storage: Storage, experiment: str, runs: Iterable[MlflowRun], *, progress: Progress | None = None
) -> Updated:
    """Bring the manifest's experiment up to date: each run once, however often and from however many nodes."""
    runs = list(runs)
    with try_hold(storage.locks / "mlflow") as held:
        if not held:
            return Updated(busy=True)
        known = _Known.read(storage, experiment)
        pending = [(run, signature) for run in runs if not known.has(run.id, signature := run.signature())]
        linked = sum(known.link(run) for run in runs)
        if not pending:
            if linked:
                known.write()
            return Updated(unchanged=len(runs))
        importer = _Importer(_client(storage), storage, experiment, known)
        created = 0
        for done, (run, signature) in enumerate(pending, 1):
            created += importer.write(run, signature)
            if progress:
                progress("mlflow", done, len(pending))
            if done % SAVE_EVERY == 0:
                known.write()
        known.write()
    return Updated(created=created, changed=len(pending) - created, unchanged=len(runs) - len(pending))


def server_command(storage: Storage, *, port: int = 5000, host: str = "127.0.0.1") -> tuple[list[str], dict[str, str]]:
    """Arguments and environment that start MLflow's own pages on the store."""
    place = ["--host", host, "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri(storage), *place]
    return command, {**os.environ, **QUIET}


class _KnownRun(TypedDict):
    """What the store has of one run; ``times`` are its points' in order, ``stamps`` as in ``MlflowRun``."""

    signature: str
    run_id: str
    home: str
    times: list[int]
    stamps: dict[str, list[int]]
    params: NotRequired[str]  # a digest of them


@dataclass(slots=True)
class _Known:
    """The cache: what is in the store, by our ids. Worthless, and so dropped, when the database was replaced."""

    path: Path
    inode: int | None
    experiment: str
    everything: dict[str, dict[str, _KnownRun]] = field(default_factory=dict)

    @classmethod
    def read(cls, storage: Storage, experiment: str) -> _Known:
        inode = _inode(database(storage))
        known = cls(artifacts(storage) / ".imported.json", inode, experiment)
        try:
            document = read_json(known.path)
            if inode is not None and document["inode"] == inode and document["root"] == str(storage.root):
                known.everything = document["experiments"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        known.everything.setdefault(experiment, {})
        return known

    @property
    def runs(self) -> dict[str, _KnownRun]:
        return self.everything[self.experiment]

    def has(self, run_id: str, signature: str) -> bool:
        memory = self.runs.get(run_id)
        return memory is not None and memory.get("signature") == signature

    def link(self, run: MlflowRun) -> bool:
        """Put artifacts that are new or were written again into a known run's folder; True when there were any."""
        memory = self.runs.get(run.id)
        stamps = run.stamps()
        if memory is None or memory["stamps"] == stamps:
            return False
        for name in stamps:
            if memory["stamps"].get(name) != stamps[name]:
                _place(run.artifacts[name], self._home(memory["home"]) / name)
        memory["stamps"] = stamps
        return True

    def _home(self, written: str) -> Path:
        """A run's folder of artifacts; raises InputError for one elsewhere: the database is for everybody to write."""
        folder = self.path.parent
        # The same folder, and not the same name: a storage may be mounted in two places.
        if not any(above.exists() and above.samefile(folder) for above in Path(written).resolve().parents):
            raise InputError(
                f"{folder.parent}/mlflow.db: it keeps artifacts in {written}, not below {folder}; "
                "it is derived: delete it and mlartifacts, and report again"
            )
        return Path(written)

    def write(self) -> None:
        root = self.path.parents[1]
        inode = _inode(root / "mlflow.db")
        document = {"inode": inode, "root": str(root), "experiments": self.everything}
        plain_folder(self.path.parent)
        replace(self.path, orjson.dumps(document))


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _client(storage: Storage) -> Any:
    """A client on the store, which is made first where there is none: whole, or not at all."""
    check_plain(database(storage))
    mlflow = _mlflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not database(storage).exists():
            _make_database(mlflow, database(storage))
        try:
            client = mlflow.tracking.MlflowClient(uri(storage))
            client.search_experiments(max_results=1)
        except mlflow.exceptions.MlflowException as error:
            raise InputError(
                f"{database(storage)}: MLflow {mlflow.__version__} cannot open it ({error}); "
                "it is derived: delete it and mlartifacts, and report again"
            ) from error
        return client


def _make_database(mlflow: Any, path: Path) -> None:
    """Eight processes that open one fresh database break it for good: it is made elsewhere, and put in place."""
    with tempfile.TemporaryDirectory() as folder:
        # Sixty-five tables and their migrations, each synced: on a local disk, not over the network.
        fresh = Path(folder, "mlflow.db")
        mlflow.tracking.MlflowClient(f"sqlite:///{fresh}")._tracking_client.store.engine.dispose()
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
        shutil.copyfile(fresh, temporary)
        temporary.replace(path)


def _mlflow() -> Any:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


class _Importer:
    """Writes runs into one experiment."""

    def __init__(self, client: Any, storage: Storage, experiment: str, known: _Known) -> None:
        self.client, self.known = client, known
        self.experiment_id = self._experiment(experiment, artifacts(storage))
        # Without the cache everything in the store is looked up once, by our tag.
        self.found = {} if known.runs else dict(self._in_store())

    def write(self, run: MlflowRun, signature: str) -> bool:
        """Create the run or bring it up to date; True when it was created."""
        memory = self.known.runs.get(run.id)
        place = (memory["run_id"], memory["home"]) if memory else self.found.get(run.id)
        if place is not None and (
            self._rewritten(run, place[0], memory) or self._params_changed(run, place[0], memory)
        ):
            # An attempt was cut and its epochs were done again, or a refit took the settings of another winner:
            # MLflow can neither unlearn a point nor change a parameter.
            self.client.delete_run(place[0])
            place, memory = None, None
        created = place is None
        run_id, home = place or self._create(run)
        self._log(run_id, run, new=run.points[len(memory["times"]) :] if memory else run.points)
        if run.status == "RUNNING":
            self.client.update_run(run_id, status="RUNNING")
        else:
            self.client.set_terminated(run_id, status=run.status, end_time=run.ended_ms)
        self.known.runs[run.id] = {
            "signature": signature,
            "run_id": run_id,
            "home": home,
            "times": [point.at_ms for point in run.points],
            "stamps": memory["stamps"] if memory else {},
            "params": digest(run.params),
        }
        self.known.link(run)
        return created

    def _experiment(self, name: str, folder: Path) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        if found is not None:
            return str(found.experiment_id)
        home = folder / uuid.uuid4().hex[:12]
        home.mkdir(parents=True, exist_ok=True)
        return str(self.client.create_experiment(name, artifact_location=home.as_uri()))

    def _in_store(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """Our id -> MLflow's and the folder of artifacts, of every run of the experiment."""
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], max_results=5_000, page_token=token)
            yield from ((run.data.tags.get("tanda.id", ""), (run.info.run_id, _home(run.info))) for run in page)
            token = page.token
            if not token:
                return

    def _rewritten(self, run: MlflowRun, run_id: str, memory: _KnownRun | None) -> bool:
        """Whether the store holds points that the metrics log no longer has."""
        now = [point.at_ms for point in run.points]
        if memory is not None:
            return memory["times"] != now[: len(memory["times"])]
        curve = run.points[0].metric if run.points else None
        if curve is None:
            return False
        wanted = {(point.step, point.at_ms) for point in run.points if point.metric == curve}
        stored = {(point.step, point.timestamp) for point in self.client.get_metric_history(run_id, curve)}
        return not stored <= wanted

    def _params_changed(self, run: MlflowRun, run_id: str, memory: _KnownRun | None) -> bool:
        """Whether the store holds another value of one of the run's parameters."""
        if memory is not None and memory.get("params") == digest(run.params):
            return False
        stored = self.client.get_run(run_id).data.params
        params = shorten(run.params, PARAM_LENGTH)
        return any(params.get(name, value) != value for name, value in stored.items())

    def _create(self, run: MlflowRun) -> tuple[str, str]:
        tags = shorten(run.tags, TAG_LENGTH)
        tags |= {"mlflow.user": "tanda", "mlflow.source.name": "tanda", "mlflow.source.type": "JOB"}
        if run.tags.get("tanda.git_commit"):
            tags["mlflow.source.git.commit"] = run.tags["tanda.git_commit"]
        if run.parent:
            # A refit belongs to its search, which may not have been shown yet.
            memory = self.known.runs.get(run.parent)
            place = (memory["run_id"],) if memory else self.found.get(run.parent)
            tags |= {"mlflow.parentRunId": place[0]} if place else {}
        created = self.client.create_run(self.experiment_id, start_time=run.started_ms, tags=tags, run_name=run.name)
        return str(created.info.run_id), _home(created.info)

    def _log(self, run_id: str, run: MlflowRun, *, new: Sequence[Point]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        for batch in batches(new, run.params, run.tags):
            self.client.log_batch(
                run_id,
                metrics=[Metric(point.metric, point.value, point.at_ms, point.step) for point in batch.points],
                params=[Param(name, value) for name, value in batch.params.items()],
                tags=[RunTag(name, value) for name, value in batch.tags.items()],
            )


def _home(info: Any) -> str:
    return unquote(urlparse(info.artifact_uri).path)


def _place(source: Path, target: Path) -> None:
    """An artifact is a hard link where the file system allows it: models must not be there twice."""
    plain_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    except FileNotFoundError:
        # Gone since it was seen: the next update finds the new one.
        return
    finally:
        temporary.unlink(missing_ok=True)
