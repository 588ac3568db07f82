"""What a tracking server lacks, sent from storage: what was not sent, or has changed since, while jobs ran."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import orjson

from jobs.storage import Storage
from pipeline.mlflow.runs import MlflowRun
from pipeline.mlflow.server import Server, Unreachable
from pipeline.mlflow.store import artifacts
from pipeline.report.collect import Progress
from pipeline.report.files import replace
from sharedfs.documents import digest
from sharedfs.files import plain_folder, read_plain

LIMIT_S = 120.0  # a slow server gets the rest with the next report


def sync_server(
    uri: str,
    storage: Storage,
    experiment: str,
    runs: Iterable[MlflowRun],
    *,
    progress: Progress | None = None,
    limit_s: float = LIMIT_S,
) -> str | None:
    """Send what the server lacks of every run; a note when it could not be reached, and then nothing is lost.

    A small cache beside the storage's own says what was sent; without it everything is sent again, to no effect.
    """
    cache = artifacts(storage) / f".sent-{digest([uri, experiment])}.json"
    sent = _read_cache(cache)
    pending = [(run, signature) for run in runs if sent.get(run.id) != (signature := run.signature())]
    if not pending:
        return None
    server, began = Server(uri), time.monotonic()
    try:
        home = server.experiment(experiment)
        names: dict[str, str] = {}
        for place, (run, signature) in enumerate(pending):
            if time.monotonic() - began > limit_s:
                left = len(pending) - place
                return f"the tracking server is slow: {left} of {len(pending)} runs are left for the next report"
            _send(server, home, run, names)
            sent[run.id] = signature
            if progress:
                progress("tracking", place + 1, len(pending))
    except Unreachable as error:
        return f"the tracking server was left behind, the next report tries again: {error}"
    finally:
        plain_folder(cache.parent)
        replace(cache, orjson.dumps(sent))
    return None


def _send(server: Server, home: str, run: MlflowRun, names: dict[str, str]) -> None:
    tags = dict(run.tags)
    if run.parent:
        parent = names.get(run.parent) or server.find(home, run.parent)
        tags |= {"mlflow.parentRunId": parent} if parent else {}
    name = server.ensure(home, run.id, run.name, run.started_ms, tags)
    names[run.id] = name
    server.log(name, run.points, params=run.params, tags=tags)
    server.update(name, run.status, run.ended_ms, name=run.name)


def _read_cache(path: Path) -> dict[str, str]:
    try:
        found = orjson.loads(read_plain(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
