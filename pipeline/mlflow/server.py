"""What MLflow is sent, in batches that it takes; the few calls of its REST API that are needed for it."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlsplit

import orjson

from jobs.metrics_log import EpochMetrics
from sharedfs.errors import InputError
from sharedfs.typed_json import Json

TIMEOUT_S = 10.0
SETTLE_S = 0.5  # the least time that a concurrent creator gets to see our run
# What MLflow takes at once: values, parameters or tags among them, and characters in one of these.
BATCH_SIZE = 1_000
BATCH_PAIRS = 100
PARAM_LENGTH = 6_000
TAG_LENGTH = 5_000

CURVES = (
    "train_loss",
    "train_balanced_accuracy",
    "train_accuracy",
    "validation_loss",
    "validation_balanced_accuracy",
    "validation_accuracy",
    "titles_per_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of a metric; ``at_ms`` is when it was measured, as the metrics log or the record says."""

    metric: str
    value: float
    step: int
    at_ms: int


def curves(epochs: Iterable[EpochMetrics], started: float) -> Iterator[Point]:
    """A metrics log's lines as points of curves, at the times at which the epochs ended."""
    for line in cast(Iterable[Mapping[str, float | None]], epochs):  # their figures are asked for by name
        at_ms = milliseconds(float(line.get("ended") or started))
        for metric in CURVES:
            value = line.get(metric)
            if isinstance(value, int | float):
                yield Point(metric=metric, value=float(value), step=int(line["epoch"] or 0), at_ms=at_ms)


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def params(settings: Mapping[str, Json]) -> dict[str, str]:
    """Settings as text; lists as ``256,128``."""
    return {name: _param(value) for name, value in settings.items() if value is not None}


def _param(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value):
        return ",".join(str(item) for item in value)
    return orjson.dumps(value).decode() if isinstance(value, Mapping | list | tuple) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one call may log."""

    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: Sequence[Point]


def batches(points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]) -> Iterator[Batch]:
    """All of it in as few calls as MLflow allows; values that are too long are cut."""
    param_items, tag_items = list(shorten(params, PARAM_LENGTH).items()), list(shorten(tags, TAG_LENGTH).items())
    while param_items or tag_items or points:
        some_params, some_tags = dict(param_items[:BATCH_PAIRS]), dict(tag_items[:BATCH_PAIRS])
        room = BATCH_SIZE - len(some_params) - len(some_tags)
        yield Batch(params=some_params, tags=some_tags, points=points[:room])
        param_items, tag_items, points = param_items[BATCH_PAIRS:], tag_items[BATCH_PAIRS:], points[room:]


def shorten(values: Mapping[str, str], length: int) -> dict[str, str]:
    """Values cut to what MLflow keeps of one."""
    return {name: value[:length] for name, value in values.items()}


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
        """MLflow's id of our run, or None."""
        found = self._find_all(experiment, run_id)
        return found[0] if found else None

    def ensure(self, experiment: str, run_id: str, name: str, started_ms: int, tags: Mapping[str, str]) -> str:
        """MLflow's id of our run, made if missing; of several who make it at once, all get the same one."""
        found = self._find_all(experiment, run_id)
        if not found:
            began = time.monotonic()
            pairs = _pairs(shorten({**tags, "tanda.id": run_id}, TAG_LENGTH))
            body: dict[str, Json] = {"experiment_id": experiment, "run_name": name, "start_time": started_ms}
            made = str(self._request("runs/create", {**body, "tags": pairs})["run"]["info"]["run_id"])
            # A concurrent creator may have missed our run: wait longer than creating takes, then take the smallest id.
            time.sleep(max(SETTLE_S, 2 * (time.monotonic() - began)))
            found = self._find_all(experiment, run_id) or [made]
            if made != found[0]:
                self._request("runs/delete", {"run_id": made})
        return found[0]

    def _find_all(self, experiment: str, run_id: str) -> list[str]:
        condition = f"tags.`tanda.id` = '{run_id}'"
        found = self._request("runs/search", {"experiment_ids": [experiment], "filter": condition, "max_results": 100})
        return sorted(str(run["info"]["run_id"]) for run in found.get("runs", []))

    def log(
        self,
        run: str,
        points: Sequence[Point],
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log what is given; a point sent twice is there once. A parameter that has a value there keeps it."""
        for batch in batches(points, params or {}, tags or {}):
            if batch.params:
                with suppress(Refused):
                    self._request("runs/log-batch", {"run_id": run, "params": _pairs(batch.params)})
            metrics: list[Json] = [
                {"key": point.metric, "value": point.value, "timestamp": point.at_ms, "step": point.step}
                for point in batch.points
            ]
            if metrics or batch.tags:
                self._request("runs/log-batch", {"run_id": run, "tags": _pairs(batch.tags), "metrics": metrics})

    def update(self, run: str, status: str, ended_ms: int | None = None, *, name: str | None = None) -> None:
        """Set a run's status, and the time of its end and its name where they are given."""
        optional = {"end_time": ended_ms, "run_name": name}
        body = {"run_id": run, "status": status, **{key: value for key, value in optional.items() if value}}
        self._request("runs/update", body)

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


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in values.items()]
