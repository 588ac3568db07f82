"""What MLflow is to show of each run: pure, from what was collected; no MLflow here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.attempt import history
from jobs.search.study import best_so_far
from jobs.storage import Storage
from jobs.task import Provenance
from jobs.training.metrics import EVALUATION
from pipeline.mlflow.server import CURVES, Point, curves, milliseconds
from pipeline.mlflow.server import params as as_params
from pipeline.report.collect import Collected, Result, SearchResult, Trial
from sharedfs.documents import digest

STATUS = {"done": "FINISHED", "failed": "FAILED", "lost": "KILLED", "running": "RUNNING"}


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

    def signature(self) -> str:
        """Changes whenever anything in MLflow's database about the run does."""
        return digest(
            [
                self.name,
                self.status,
                self.started_ms,
                self.ended_ms,
                self.params,
                self.tags,
                [(point.metric, point.value, point.step, point.at_ms) for point in self.points],
                self.parent,
            ]
        )

    def stamps(self) -> dict[str, list[int]]:
        """Size and time of every artifact that is there: changes when one was written again."""
        found = {}
        for name, path in self.artifacts.items():
            try:
                facts = path.stat()
            except OSError:
                continue
            found[name] = [facts.st_size, facts.st_mtime_ns]
        return found


def mlflow_runs(collected: Collected, pictures: Mapping[str, Iterable[Path]]) -> list[MlflowRun]:
    """Every run that has begun, searches before their trials; ``pictures`` are a group's plots."""
    found: dict[str, MlflowRun] = {}
    for search in collected.searches:
        parent = _search(collected, search, tuple(pictures.get(search.name, ())))
        if parent is None:
            continue
        found[parent.id] = parent
        for trial in search.trials:
            child = _trial(collected, search, trial)
            if child is not None:
                found[child.id] = child
    for result in collected.results:
        if result.id is None:
            continue
        run = _run(collected, result, tuple(pictures.get(result.row.group, ())))
        if run is not None:
            found[run.id] = _joined(found[run.id], run) if run.id in found else run
    return list(found.values())


def _run(collected: Collected, result: Result, pictures: Iterable[Path]) -> MlflowRun | None:
    row, train = result.row, result.id or ""
    started = result.started or _begun(collected.storage, train)
    if started is None:
        return None
    artifacts = _trained(collected.storage, train)
    if (evaluation := collected.storage.run(row.evaluate) / EVALUATION).exists():
        artifacts[EVALUATION] = evaluation
    artifacts |= {f"plots/{path.name}": path for path in pictures}
    seed = f" seed {row.seed}" if row.seed else ""
    return MlflowRun(
        id=train,
        name=f"{row.group} / {row.run}{seed}",
        status=STATUS.get(result.state, "RUNNING"),
        started_ms=milliseconds(started),
        ended_ms=milliseconds(result.ended) if result.ended and result.state in ("done", "failed") else None,
        params=as_params({"architecture": row.architecture, "seed": row.seed, **result.settings}),
        tags=_tags(
            collected,
            {
                "id": train,
                "evaluate": row.evaluate,
                "group": row.group,
                "run": row.run,
                "architecture": row.architecture,
                "state": result.state,
                "cause": result.cause,
                "message": result.message,
                "git_commit": result.git_commit,
                "slurm_job": _job(result.about),
            },
        ),
        points=(*curves(result.epochs, started), *_finals(result, started)),
        artifacts=artifacts,
        parent=row.search,
    )


def _trial(collected: Collected, search: SearchResult, trial: Trial) -> MlflowRun | None:
    started = trial.started or _begun(collected.storage, trial.id)
    if started is None:
        return None
    architecture = search.planned.search.architecture
    return MlflowRun(
        id=trial.id,
        name=f"{search.name} / trial {trial.number}",
        status=STATUS.get(trial.state, "RUNNING"),
        started_ms=milliseconds(started),
        ended_ms=milliseconds(trial.ended) if trial.ended and trial.state in ("done", "failed") else None,
        params=as_params({"architecture": architecture, **trial.settings}),
        tags=_tags(
            collected,
            {
                "id": trial.id,
                "group": search.name,
                "run": f"trial {trial.number}",
                "architecture": architecture,
                "state": trial.state,
                "cause": trial.cause,
                "git_commit": trial.about.git_commit,
                "slurm_job": _job(trial.about),
                "stopped": trial.stopped,
            },
        ),
        points=tuple(curves(trial.epochs, started)),
        artifacts=_trained(collected.storage, trial.id),
        parent=search.planned.id,
    )


def _search(collected: Collected, search: SearchResult, pictures: Iterable[Path]) -> MlflowRun | None:
    """The parent: it begins with its first trial and ends with its last; its curve is the best so far."""
    begun = [started for trial in search.trials if (started := trial.started or _begun(collected.storage, trial.id))]
    if not begun:
        return None
    planned = search.planned.search
    over = all(trial.state in ("done", "failed") for trial in search.trials)
    ended = max((trial.ended for trial in search.trials if trial.ended), default=None)
    return MlflowRun(
        id=search.planned.id,
        name=search.name,
        status="FINISHED" if over else "RUNNING",
        started_ms=milliseconds(min(begun)),
        ended_ms=milliseconds(ended) if over and ended else None,
        params=as_params(
            {
                "architecture": planned.architecture,
                "algorithm": planned.algorithm,
                "metric": planned.metric,
                **{f"space.{name}": value for name, value in planned.space.items()},
            }
        ),
        tags=_tags(collected, {"id": search.planned.id, "group": search.name, "run": "search"}),
        points=tuple(_best_so_far(search)),
        artifacts={f"plots/{path.name}": path for path in pictures},
    )


def _best_so_far(search: SearchResult) -> Iterator[Point]:
    metric = search.planned.search.metric
    ended = [
        (trial, trial.ended, value)
        for trial in search.trials
        if trial.state == "done" and trial.ended is not None and (value := trial.figures.get(metric)) is not None
    ]
    bests = best_so_far(metric, (value for _, _, value in ended))
    for (trial, ended_s, _), best in zip(ended, bests, strict=True):
        assert best is not None
        yield Point(metric=f"best_{metric}", value=best, step=trial.number, at_ms=milliseconds(ended_s))


def _joined(first: MlflowRun, second: MlflowRun) -> MlflowRun:
    """The same task under two names (a search's winner, a run that two groups share) is one run in MLflow."""
    points = {(point.metric, point.step): point for point in (*first.points, *second.points)}
    return replace(
        first,
        params={**first.params, **second.params},
        tags={**second.tags, **first.tags, "tanda.also": f"{second.tags['tanda.group']} / {second.tags['tanda.run']}"},
        points=tuple(points.values()),
        artifacts={**first.artifacts, **second.artifacts},
        parent=first.parent or second.parent,
    )


def _finals(result: Result, started: float) -> Iterator[Point]:
    """The figures of the epoch that was kept; where a curve has the name, theirs begins with ``final_``."""
    at_ms = milliseconds(result.ended or started)
    step = int(result.figures.get("epochs_run", len(result.epochs)))
    for metric, value in result.figures.items():
        name = f"final_{metric}" if metric in CURVES else metric
        yield Point(metric=name, value=float(value), step=step, at_ms=at_ms)
    if result.gpu_hours is not None and result.done:
        yield Point(metric="gpu_hours", value=result.gpu_hours, step=step, at_ms=at_ms)


def _begun(storage: Storage, task_id: str) -> float | None:
    """When the first attempt at a task began, for one that has no record yet."""
    attempts = history(storage.run(task_id))
    return attempts[0].started if attempts else None


def _trained(storage: Storage, task_id: str) -> dict[str, Path]:
    """What a training leaves for people, as far as it is there, by name."""
    paths = (storage.run(task_id) / "model.pt", storage.log(task_id))
    return {path.name: path for path in paths if path.exists()}


def _job(about: Provenance) -> str | None:
    if "array_job_id" in about.slurm:
        return f"{about.slurm['array_job_id']}_{about.slurm.get('array_task_id', '')}"
    return about.slurm.get("job_id")


def _tags(collected: Collected, facts: Mapping[str, str | None]) -> dict[str, str]:
    known = {f"tanda.{name}": value for name, value in facts.items() if value}
    return {**known, "tanda.manifest": collected.manifest.name}
