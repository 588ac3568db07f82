"""What MLflow shows of a run: names, parameters, tags, curves, whoever sends it. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import orjson

from jobs.metrics_log import EpochMetrics
from sharedfs.documents import digest
from sharedfs.typed_json import Json

STATUS = {"done": "FINISHED", "failed": "FAILED", "lost": "KILLED"}
NO_CURVES = frozenset({"epoch", "step", "gradient_norm", "seconds", "ended", "attempt"})  # of a line of a metrics log


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of a metric; ``at_ms`` is when it was measured, as the metrics log or the record says."""

    metric: str
    value: float
    step: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowRun:
    """A run for MLflow, found there by ``id`` within the manifest's experiment; ``parent`` is another's id."""

    id: str
    name: str
    status: str
    started_ms: int
    ended_ms: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: tuple[Point, ...]
    artifacts: Mapping[str, Path] = field(default_factory=dict)  # by their path within the run
    parent: str | None = None

    def facts_digest(self) -> str:
        """Changes with anything that MLflow's database has of the run but its points."""
        return digest([self.name, self.status, self.started_ms, self.ended_ms, self.params, self.tags, self.parent])

    def points_digest(self, count: int) -> str:
        """Changes with any of the first so many points."""
        return digest([(point.metric, point.value, point.step, point.at_ms) for point in self.points[:count]])


def describe(
    *,
    run_id: str,
    manifest: str,
    name: str,
    state: str,
    started: float,
    ended: float | None,
    settings: Mapping[str, Json],
    facts: Mapping[str, str | None],
    points: Iterable[Point],
    artifacts: Mapping[str, Path] | None = None,
    parent: str | None = None,
) -> MlflowRun:
    """A run as MLflow is to have it: ``settings`` are its parameters, ``facts`` become tags named ``tanda.<fact>``."""
    tags = {"id": run_id, "manifest": manifest, "state": state, **facts}
    ours = {"mlflow.user": "tanda", "mlflow.source.name": "tanda", "mlflow.source.type": "JOB"}
    if commit := facts.get("git_commit"):
        ours["mlflow.source.git.commit"] = commit
    return MlflowRun(
        id=run_id,
        name=name,
        status=STATUS.get(state, "RUNNING"),
        started_ms=_milliseconds(started),
        ended_ms=_milliseconds(ended) if ended and state in ("done", "failed") else None,
        params={setting: _param(value) for setting, value in settings.items() if value is not None},
        tags={f"tanda.{fact}": value for fact, value in tags.items() if value} | ours,
        points=tuple(points),
        artifacts=artifacts or {},
        parent=parent,
    )


def curves(epochs: Iterable[EpochMetrics], started: float) -> Iterator[Point]:
    """A metrics log's lines as points of curves, at the times at which the epochs ended."""
    for line in cast(Iterable[Mapping[str, float | None]], epochs):  # their figures are asked for by name
        at_s = float(line.get("ended") or started)
        for metric, value in line.items():
            if metric not in NO_CURVES and isinstance(value, int | float):
                yield point(metric, value, int(line["epoch"] or 0), at_s)


def point(metric: str, value: float, step: int, at_s: float) -> Point:
    """A value that was measured at so many seconds since the epoch."""
    return Point(metric=metric, value=float(value), step=step, at_ms=_milliseconds(at_s))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _param(value: Json) -> str:
    """A setting as text; lists as ``256,128``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value):
        return ",".join(str(item) for item in value)
    return orjson.dumps(value).decode() if isinstance(value, Mapping | list | tuple) else str(value)
