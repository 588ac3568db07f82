"""A tracking server that people watch while jobs run: told by plain HTTP from beside a job, never from within it.

``python -m pipeline.report.tracking URI FOLDER MANIFEST`` follows one task's journal and sends what is new every few
seconds, until the task has its record or its process is gone. It shares nothing with the training but the file that
it reads: a server that is slow or down costs the job nothing. What was not sent, ``fill`` sends later, from storage.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from jobs.attempt import history
from jobs.storage import Storage, digest, read_json
from pipeline.report import disk
from pipeline.report.files import replace
from pipeline.report.tracked import Point, Tracked, curves

TIMEOUT_S = 10.0
EVERY_S = 5.0
GIVE_UP_AFTER = 5  # failed requests in a row: then it is left to the report
METRICS_A_BATCH = 1_000
PARAMS_A_BATCH = 100


class Unreachable(Exception):  # noqa: N818 - it says what the server is
    """The server did not answer in time, or refused."""


class Server:
    """The few calls of MLflow's REST API that are needed, each with a time limit and no retries."""

    def __init__(self, uri: str, timeout_s: float = TIMEOUT_S) -> None:
        if urlsplit(uri).scheme not in ("http", "https"):
            raise ValueError(f"tracking.uri: must be http:// or https://, not {uri!r}")
        self.uri, self.timeout_s = uri.rstrip("/"), timeout_s

    def experiment(self, name: str) -> str:
        """The id of an experiment, made if missing."""
        try:
            found = self._ask(f"experiments/get-by-name?experiment_name={quote(name)}")
            return str(found["experiment"]["experiment_id"])
        except Unreachable as error:
            if "RESOURCE_DOES_NOT_EXIST" not in str(error):
                raise
        return str(self._ask("experiments/create", {"name": name})["experiment_id"])

    def find(self, experiment: str, run_id: str) -> str | None:
        """MLflow's id of our run, or None."""
        condition = f"tags.`tanda.id` = '{run_id}'"
        found = self._ask("runs/search", {"experiment_ids": [experiment], "filter": condition, "max_results": 1})
        runs = found.get("runs", [])
        return str(runs[0]["info"]["run_id"]) if runs else None

    def create(self, experiment: str, name: str, started_ms: int, tags: Mapping[str, str]) -> str:
        body = {"experiment_id": experiment, "run_name": name, "start_time": started_ms, "tags": _pairs(tags)}
        return str(self._ask("runs/create", body)["run"]["info"]["run_id"])

    def log(
        self,
        run: str,
        points: Sequence[Point],
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Points in batches; a point sent twice is there once."""
        given = _pairs(params or {})
        for at in range(0, len(given), PARAMS_A_BATCH):
            self._ask("runs/log-batch", {"run_id": run, "params": given[at : at + PARAMS_A_BATCH]})
        if tags:
            self._ask("runs/log-batch", {"run_id": run, "tags": _pairs(tags)})
        for at in range(0, len(points), METRICS_A_BATCH):
            metrics = [
                {"key": point.metric, "value": point.value, "timestamp": point.at_ms, "step": point.step}
                for point in points[at : at + METRICS_A_BATCH]
            ]
            self._ask("runs/log-batch", {"run_id": run, "metrics": metrics})

    def finish(self, run: str, status: str, ended_ms: int | None) -> None:
        self._ask("runs/update", {"run_id": run, "status": status, **({"end_time": ended_ms} if ended_ms else {})})

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = orjson.dumps(body) if body is not None else None
        address = f"{self.uri}/api/2.0/mlflow/{path}"
        request = urllib.request.Request(address, data=data, headers={"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:  # noqa: S310 - http(s), checked
                return orjson.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                raise Unreachable(f"{self.uri}: {error.code}: {error.read()[:500]!r}") from error
        except (OSError, orjson.JSONDecodeError) as error:
            raise Unreachable(f"{self.uri}: {error}") from error


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value[:5_000]} for name, value in values.items()]


def fill(uri: str, storage: Storage, experiment: str, runs: Iterable[Tracked]) -> str | None:
    """Send what the server lacks of every run; a note when it could not be reached, and then nothing is lost.

    A small cache beside the storage's own says what was sent; without it everything is sent again, to no effect.
    """
    cache = storage.root / f".mlflow-sent-{digest([uri, experiment])}.json"
    sent = _read_cache(cache)
    pending = [(run, signature) for run in runs if sent.get(run.id) != (signature := run.signature())]
    if not pending:
        return None
    server = Server(uri)
    try:
        home = server.experiment(experiment)
        names: dict[str, str] = {}
        for run, signature in pending:
            _send(server, home, run, names)
            sent[run.id] = signature
    except Unreachable as error:
        return f"the tracking server was left behind, the next report tries again: {error}"
    finally:
        replace(cache, orjson.dumps(sent))
    return None


def _send(server: Server, home: str, run: Tracked, names: dict[str, str]) -> None:
    tags = dict(run.tags)
    if run.parent:
        parent = names.get(run.parent) or server.find(home, run.parent)
        tags |= {"mlflow.parentRunId": parent} if parent else {}
    name = server.find(home, run.id) or server.create(home, run.name, run.started_ms, tags)
    names[run.id] = name
    server.log(name, run.points, params=run.params, tags=tags)
    server.finish(name, run.status, run.ended_ms)


def _read_cache(path: Path) -> dict[str, str]:
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def follow(
    server: Server, folder: Path, manifest: str, *, over: Callable[[], bool], every_s: float = EVERY_S
) -> str | None:
    """Send a task's epochs as its journal grows, until it is over; a note when the server was given up."""
    run: str | None = None
    sent, failures = 0, 0
    while True:
        last = over() or (folder / "record.json").exists()
        try:
            run = run or _begin(server, folder, manifest)
            epochs = disk.read_epochs(str(folder))
            server.log(run, list(curves(epochs[sent:], time.time())))
            sent, failures = len(epochs), 0
        except Unreachable as error:
            failures += 1
            if failures == GIVE_UP_AFTER or last:
                return f"not sent, the report will: {error}"
        if last:
            return None
        time.sleep(every_s)


def _begin(server: Server, folder: Path, manifest: str) -> str:
    home = server.experiment(manifest)
    found = server.find(home, folder.name)
    if found is not None:
        server.finish(found, "RUNNING", None)
        return found
    task = read_json(folder / "task.json")
    attempts = history(folder)
    started = float(attempts[0].get("started", time.time())) if attempts else time.time()
    tags = {"tanda.id": folder.name, "tanda.manifest": manifest, "tanda.state": "running", "tanda.stage": task["stage"]}
    return server.create(home, f"{task['stage']} {folder.name[:8]}", round(started * 1000), tags)


def _gone(parent: int) -> Callable[[], bool]:
    return lambda: os.getppid() != parent


def main() -> int:
    """Follow one task for the process that started this one; says one line when something was not sent."""
    if len(sys.argv) != 4:
        print("usage: python -m pipeline.report.tracking URI STORAGE/runs/ID MANIFEST", file=sys.stderr)
        return 2
    uri, folder, manifest = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    note = follow(Server(uri), folder, manifest, over=_gone(os.getppid()))
    if note is not None:
        print(f"tracking: {note}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
