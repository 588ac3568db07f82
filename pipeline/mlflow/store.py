"""MLflow's own store beside the report: a view of storage, filled by one importer at a time, rebuilt at will.

The only module that imports mlflow, and only when there is something to write: an update with nothing new reads one
small file. That file is a cache; without it every run is found again by its tag, and nothing is written twice.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import sys
import tempfile
import uuid
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from jobs.storage import Storage
from pipeline.mlflow import writer
from pipeline.mlflow.description import MlflowRun, Point
from pipeline.mlflow.writer import ARTIFACTS, PARAM_LENGTH, TAG_LENGTH, Cache, Opened, Sent, Texts, Updated, shorten
from sharedfs.errors import InputError
from sharedfs.files import check_plain, plain_folder
from sharedfs.lock import try_hold

if TYPE_CHECKING:
    from pipeline.report.collect import Progress

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}

SQLITE_FILES = ("", "-journal", "-wal", "-shm")  # what SQLite opens by name beside the database


def database(storage: Storage) -> Path:
    return storage.root / "mlflow.db"


def artifacts(storage: Storage) -> Path:
    return storage.root / ARTIFACTS


def uri(storage: Storage) -> str:
    """MLflow's name for the store, to open it with its own client."""
    return f"sqlite:///{database(storage)}"


def update(
    storage: Storage, experiment: str, runs: Sequence[MlflowRun], *, progress: Progress | None = None
) -> Updated:
    """Bring the manifest's experiment up to date: each run once, however often and from however many nodes."""
    with try_hold(storage.locks / "mlflow") as held:
        if not held:
            return Updated(busy=True)
        check_plain(artifacts(storage))
        root = str(storage.root)
        cache = Cache.read(artifacts(storage), f"store {experiment}", [_inode(database(storage)), root])
        store = Store(storage, complete=bool(cache.runs))
        updated = writer.update(store, cache, experiment, runs, label="mlflow", progress=progress)
        linked = [_link(cache, run, artifacts(storage)) for run in runs]
        if updated.unchanged < len(runs) or any(linked):
            cache.place = [_inode(database(storage)), root]  # which the first run makes
            cache.write()
    return updated


def _link(cache: Cache, run: MlflowRun, folder: Path) -> bool:
    """Put artifacts that are new or were written again into a run's folder; True when there were any."""
    sent, stamps = cache.runs[run.id], {}
    for name, path in run.artifacts.items():
        with suppress(OSError):  # it is not there, or no more
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode):  # a link or a pipe in its place is nothing of the run's
                stamps[name] = [facts.st_size, facts.st_mtime_ns]
    for name, stamp in stamps.items():
        if sent.stamps.get(name) != stamp:
            _place(run.artifacts[name], _checked_home(sent.home, folder) / name)
    cache.runs[run.id] = replace(sent, stamps=stamps)
    return stamps != sent.stamps


def _checked_home(written: str, folder: Path) -> Path:
    """A run's folder of artifacts; raises InputError for one elsewhere: the database is for everybody to write."""
    # The same folder, and not the same name: a storage may be mounted in two places.
    if not any(above.exists() and above.samefile(folder) for above in Path(written).resolve().parents):
        raise InputError(
            f"{folder.parent}/mlflow.db: it keeps artifacts in {written}, not below {folder}; "
            "it is derived: delete it and mlartifacts, and report again"
        )
    return Path(written)


def server_command(storage: Storage, *, port: int = 5000, host: str = "127.0.0.1") -> tuple[list[str], dict[str, str]]:
    """Arguments and environment that start MLflow's own pages on the store."""
    place = ["--host", host, "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri(storage), *place]
    return command, {**os.environ, **QUIET}


class Store:
    """The store as a transport. ``complete``: the cache has every run of ours that is in it, so none is looked for."""

    def __init__(self, storage: Storage, *, complete: bool) -> None:
        self._storage = storage
        self._runs: dict[str, Opened] | None = {} if complete else None

    @cached_property
    def client(self) -> Any:
        """MLflow's, imported with the first run that is to be written."""
        return _client(self._storage)

    def experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        if found is not None:
            return str(found.experiment_id)
        home = artifacts(self._storage) / uuid.uuid4().hex[:12]
        home.mkdir(parents=True, exist_ok=True)
        return str(self.client.create_experiment(name, artifact_location=home.as_uri()))

    def find(self, experiment: str, run_id: str) -> str | None:
        opened = self._stored(experiment).get(run_id)
        return opened.run_id if opened else None

    def open(self, experiment: str, run: MlflowRun, tags: Texts, sent: Sent | None) -> Opened:
        """Our run, made if missing, and made again where MLflow has what it can't unlearn.

        An attempt was cut and its epochs were done again, or a refit took the settings of another winner: MLflow can
        neither forget a point nor change a parameter.
        """
        opened = Opened(run_id=sent.run_id, home=sent.home) if sent else self._stored(experiment).get(run.id)
        if opened is not None:
            if not self._rewritten(run, opened.run_id, sent) and not self._params_changed(run, opened.run_id, sent):
                return opened
            self.client.delete_run(opened.run_id)
        made = self.client.create_run(
            experiment, start_time=run.started_ms, tags=shorten(tags, TAG_LENGTH), run_name=run.name
        )
        return Opened(run_id=str(made.info.run_id), home=_home(made.info), created=True)

    def log(self, run_id: str, points: Sequence[Point], params: Texts, tags: Texts) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self.client.log_batch(
            run_id,
            metrics=[Metric(point.metric, point.value, point.at_ms, point.step) for point in points],
            params=[Param(name, value) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )

    def update(self, run_id: str, run: MlflowRun) -> None:
        from mlflow.entities import RunStatus

        # The client's own calls read the run first, and end one whose end nobody knows now.
        tracking = self.client._tracking_client.store
        tracking.update_run_info(run_id, RunStatus.from_string(run.status), run.ended_ms, run.name)

    def _stored(self, experiment: str) -> dict[str, Opened]:
        """Every run of the experiment by our id, looked up once."""
        if self._runs is None:
            self._runs, token = {}, None
            while token != "":
                page = self.client.search_runs([experiment], max_results=5_000, page_token=token)
                runs = ((run.data.tags.get("tanda.id", ""), run.info) for run in page)
                self._runs |= {name: Opened(run_id=info.run_id, home=_home(info)) for name, info in runs}
                token = page.token or ""
        return self._runs

    def _rewritten(self, run: MlflowRun, run_id: str, sent: Sent | None) -> bool:
        """Whether the store holds points that are no longer the run's."""
        if sent is not None:
            return not sent.is_start_of(run)
        if not run.points:
            return False
        curve = run.points[0].metric
        wanted = {(point.step, point.at_ms) for point in run.points if point.metric == curve}
        stored = {(point.step, point.timestamp) for point in self.client.get_metric_history(run_id, curve)}
        return not stored <= wanted

    def _params_changed(self, run: MlflowRun, run_id: str, sent: Sent | None) -> bool:
        """Whether the store holds another value of one of the run's parameters."""
        if sent is not None and sent.facts == run.facts_digest():
            return False
        stored = self.client.get_run(run_id).data.params
        params = shorten(run.params, PARAM_LENGTH)
        return any(params.get(name, value) != value for name, value in stored.items())


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _client(storage: Storage) -> Any:
    """A client on the store, which is made first where there is none: whole, or not at all."""
    for suffix in SQLITE_FILES:
        check_plain(database(storage).with_name(f"{database(storage).name}{suffix}"))
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
