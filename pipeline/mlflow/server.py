"""An MLflow tracking server: the few calls of its REST API that are needed, and how a report brings it up to date."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import orjson

from pipeline.mlflow.description import MlflowRun, Point
from pipeline.mlflow.writer import ARTIFACTS, TAG_LENGTH, Cache, Opened, Sent, Texts, shorten, update
from sharedfs.errors import InputError
from sharedfs.typed_json import Json

if TYPE_CHECKING:
    from jobs.storage import Storage
    from pipeline.report.collect import Progress

TIMEOUT_S = 10.0
SETTLE_S = 0.5  # the least time that a concurrent creator gets to see our run
LIMIT_S = 120.0  # of a report; what a slow server lacks then, it gets with the next one


class Unreachable(Exception):  # noqa: N818 - it says what the server is
    """The server did not answer in time, or could not."""


class Refused(Unreachable):
    """The server answered that it will not."""


class Server:
    """An MLflow tracking server."""

    def __init__(self, uri: str, timeout_s: float = TIMEOUT_S) -> None:
        if urlsplit(uri).scheme not in ("http", "https"):
            raise InputError(f"tracking.uri: must be http:// or https://, not {uri!r}")
        self.uri, self.timeout_s = uri.rstrip("/"), timeout_s
        self._requested_at: float | None = None
        self._opened: dict[str, str] = {}  # MLflow's ids by ours

    def waiting_s(self) -> float:
        """How long the request under way has waited for its answer; 0 when there is none."""
        return 0.0 if self._requested_at is None else time.monotonic() - self._requested_at

    def experiment(self, name: str) -> str:
        """The id of an experiment, made if missing."""
        for _ in range(2):
            try:
                found = self._request(f"experiments/get-by-name?experiment_name={quote(name, safe='')}")
                return str(found["experiment"]["experiment_id"])
            except Refused as error:
                if "RESOURCE_DOES_NOT_EXIST" not in str(error):
                    raise
            # Another follower may make it in the same moment: then it is there at the second look.
            with suppress(Refused):
                return str(self._request("experiments/create", {"name": name})["experiment_id"])
        raise Refused(f"{self.uri}: the experiment {name!r} can be neither found nor created")

    def find(self, experiment: str, run_id: str) -> str | None:
        """MLflow's id of our run, of several the smallest, or None."""
        condition = f"tags.`tanda.id` = '{run_id}'"
        found = self._request("runs/search", {"experiment_ids": [experiment], "filter": condition, "max_results": 100})
        return min((str(run["info"]["run_id"]) for run in found.get("runs", [])), default=None)

    def open(self, experiment: str, run: MlflowRun, tags: Texts, sent: Sent | None) -> Opened:  # noqa: ARG002
        """Our run: of several who make it at once, all get the same one. Never deleted, whatever it shows."""
        if run.id not in self._opened:
            self._opened[run.id] = self.find(experiment, run.id) or self._create(experiment, run, tags)
        return Opened(run_id=self._opened[run.id])

    def _create(self, experiment: str, run: MlflowRun, tags: Texts) -> str:
        began = time.monotonic()
        body: dict[str, Json] = {"experiment_id": experiment, "run_name": run.name, "start_time": run.started_ms}
        made = str(
            self._request("runs/create", {**body, "tags": _pairs(shorten(tags, TAG_LENGTH))})["run"]["info"]["run_id"]
        )
        # A concurrent creator may have missed our run: wait longer than creating takes, then take the smallest id.
        time.sleep(max(SETTLE_S, 2 * (time.monotonic() - began)))
        first = self.find(experiment, run.id) or made
        if made != first:
            self._request("runs/delete", {"run_id": made})
        return first

    def log(self, run_id: str, points: Sequence[Point], params: Texts, tags: Texts) -> None:
        """Log a batch: a point sent twice is there once, a parameter that has a value there keeps it."""
        if params:
            with suppress(Refused):
                self._request("runs/log-batch", {"run_id": run_id, "params": _pairs(params)})
        metrics: list[Json] = [
            {"key": point.metric, "value": point.value, "timestamp": point.at_ms, "step": point.step}
            for point in points
        ]
        if metrics or tags:
            self._request("runs/log-batch", {"run_id": run_id, "tags": _pairs(tags), "metrics": metrics})

    def update(self, run_id: str, run: MlflowRun) -> None:
        """Set a run's status, its name and, where it has one, the time of its end."""
        body: dict[str, Json] = {"run_id": run_id, "status": run.status, "run_name": run.name}
        self._request("runs/update", body | ({"end_time": run.ended_ms} if run.ended_ms else {}))

    def _request(self, path: str, body: Mapping[str, Json] | None = None) -> Any:
        data = orjson.dumps(body) if body is not None else None
        address = f"{self.uri}/api/2.0/mlflow/{path}"
        request = urllib.request.Request(address, data=data, headers={"Content-Type": "application/json"})  # noqa: S310
        self._requested_at = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:  # noqa: S310 - http(s), checked
                return orjson.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                kind = Refused if 400 <= error.code < 500 else Unreachable
                raise kind(f"{self.uri}: {error.code}: {error.read()[:500]!r}") from error
        # A server that speaks no HTTP, or stops in the middle of it, raises what is no OSError.
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
            raise Unreachable(f"{self.uri}: {error or type(error).__name__}") from error
        finally:
            self._requested_at = None


def _pairs(values: Texts) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in values.items()]


def sync_server(
    uri: str,
    storage: Storage,
    experiment: str,
    runs: Sequence[MlflowRun],
    *,
    progress: Progress | None = None,
    limit_s: float = LIMIT_S,
) -> str | None:
    """Send what the server lacks of every run; a note when it could not be reached, and then nothing is lost.

    Without the cache, of what was sent, everything is sent again, to no effect.
    """
    cache = Cache.read(storage.root / ARTIFACTS, f"{uri} {experiment}", [uri])
    updated = None
    try:
        updated = update(Server(uri), cache, experiment, runs, label="tracking", progress=progress, limit_s=limit_s)
    except Unreachable as error:
        return f"the tracking server was left behind, the next report tries again: {error}"
    finally:
        if updated is None or updated.unchanged < len(runs):
            cache.write()
    if updated.left:
        pending = updated.left + updated.changed
        return f"the tracking server is slow: {updated.left} of {pending} runs are left for the next report"
    return None
