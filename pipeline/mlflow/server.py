"""The few calls of MLflow's REST API that are needed, each with a time limit and no retries."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from jobs.errors import InputError

TIMEOUT_S = 10.0
METRICS_A_BATCH = 1_000
PARAMS_A_BATCH = 100
VALUE_LENGTH = 5_000
SETTLE_S = 0.5


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
        self._asked: float | None = None

    def waiting_s(self) -> float:
        """How long the request under way has waited for its answer; 0 when there is none."""
        return 0.0 if self._asked is None else time.monotonic() - self._asked

    def experiment(self, name: str) -> str:
        """The id of an experiment, made if missing."""
        for _ in range(2):
            try:
                found = self._ask(f"experiments/get-by-name?experiment_name={quote(name, safe='')}")
                return str(found["experiment"]["experiment_id"])
            except Refused as error:
                if "RESOURCE_DOES_NOT_EXIST" not in str(error):
                    raise
            # Another follower may make it in the same moment: then it is there at the second look.
            with suppress(Refused):
                return str(self._ask("experiments/create", {"name": name})["experiment_id"])
        raise Refused(f"{self.uri}: the experiment {name!r} can be neither found nor made")

    def find(self, experiment: str, run_id: str) -> str | None:
        """MLflow's id of our run, or None."""
        found = self._all(experiment, run_id)
        return found[0] if found else None

    def ensure(self, experiment: str, run_id: str, name: str, started_ms: int, tags: Mapping[str, str]) -> str:
        """MLflow's id of our run, made if missing; of several who make it at once, all get the same one."""
        found = self._all(experiment, run_id)
        if not found:
            began = time.monotonic()
            pairs = _pairs({**tags, "tanda.id": run_id})
            body = {"experiment_id": experiment, "run_name": name, "start_time": started_ms, "tags": pairs}
            made = str(self._ask("runs/create", body)["run"]["info"]["run_id"])
            # Whoever looked before it was there makes one of its own in about the time that this one took.
            time.sleep(max(SETTLE_S, 2 * (time.monotonic() - began)))
            found = self._all(experiment, run_id) or [made]
            if made != found[0]:
                self._ask("runs/delete", {"run_id": made})
        return found[0]

    def _all(self, experiment: str, run_id: str) -> list[str]:
        condition = f"tags.`tanda.id` = '{run_id}'"
        found = self._ask("runs/search", {"experiment_ids": [experiment], "filter": condition, "max_results": 100})
        return sorted(str(run["info"]["run_id"]) for run in found.get("runs", []))

    def log(
        self,
        run: str,
        points: Sequence[Point],
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Points in batches; a point sent twice is there once. A parameter that has a value there keeps it."""
        given = _pairs(params or {})
        for at in range(0, len(given), PARAMS_A_BATCH):
            with suppress(Refused):
                self._ask("runs/log-batch", {"run_id": run, "params": given[at : at + PARAMS_A_BATCH]})
        if tags:
            self._ask("runs/log-batch", {"run_id": run, "tags": _pairs(tags)})
        for at in range(0, len(points), METRICS_A_BATCH):
            metrics = [
                {"key": point.metric, "value": point.value, "timestamp": point.at_ms, "step": point.step}
                for point in points[at : at + METRICS_A_BATCH]
            ]
            self._ask("runs/log-batch", {"run_id": run, "metrics": metrics})

    def update(self, run: str, status: str, ended_ms: int | None = None, *, name: str | None = None) -> None:
        """Set a run's status, and the time of its end and its name where they are known."""
        known = {"end_time": ended_ms, "run_name": name}
        body = {"run_id": run, "status": status, **{key: value for key, value in known.items() if value}}
        self._ask("runs/update", body)

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = orjson.dumps(body) if body is not None else None
        address = f"{self.uri}/api/2.0/mlflow/{path}"
        request = urllib.request.Request(address, data=data, headers={"Content-Type": "application/json"})  # noqa: S310
        self._asked = time.monotonic()
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
            self._asked = None


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value[:VALUE_LENGTH]} for name, value in values.items()]


# What is sent: epochs as points of curves, settings as parameters.


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
    """One value of a metric; ``at_ms`` is when it was measured, as the journal or the record says."""

    metric: str
    value: float
    step: int
    at_ms: int


def curves(epochs: Iterable[Mapping[str, Any]], started: float) -> Iterator[Point]:
    """A journal's lines as points of curves, at the times at which the epochs ended."""
    for line in epochs:
        at_ms = milliseconds(float(line.get("ended") or started))
        for metric in CURVES:
            value = line.get(metric)
            if isinstance(value, int | float):
                yield Point(metric=metric, value=float(value), step=int(line["epoch"]), at_ms=at_ms)


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def params(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as text; lists as ``256,128``."""
    return {name: _param(value) for name, value in settings.items() if value is not None}


def _param(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value):
        return ",".join(str(item) for item in value)
    return orjson.dumps(value).decode() if isinstance(value, Mapping | list | tuple) else str(value)
