"""The runs, trials and searches of a manifest as MLflow is to show them: pure, from what a report has collected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from jobs.attempt import history
from jobs.search.study import best_so_far
from jobs.storage import Storage
from jobs.task import Provenance
from jobs.training.metrics import EVALUATION
from pipeline.mlflow.description import MlflowRun, Point, curves, describe, point
from pipeline.report.collect import Collected, Result, SearchResult, Trial


def mlflow_runs(collected: Collected, pictures: Mapping[str, Iterable[Path]]) -> list[MlflowRun]:
    """Every run that has begun, searches before their trials; ``pictures`` are a group's plots."""
    runs: dict[str, MlflowRun] = {}
    for search in collected.searches:
        parent = _search(collected, search, tuple(pictures.get(search.name, ())))
        if parent is None:
            continue
        runs[parent.id] = parent
        for trial in search.trials:
            child = _trial(collected, search, trial)
            if child is not None:
                runs[child.id] = child
    for result in collected.results:
        if result.id is None:
            continue
        run = _run(collected, result, tuple(pictures.get(result.row.group, ())))
        if run is not None:
            runs[run.id] = _joined(runs[run.id], run) if run.id in runs else run
    return list(runs.values())


def _run(collected: Collected, result: Result, pictures: Iterable[Path]) -> MlflowRun | None:
    row, train = result.row, result.id or ""
    started = result.started or _begun(collected.storage, train)
    if started is None:
        return None
    artifacts = _trained(collected.storage, train)
    if (evaluation := collected.storage.run(row.evaluate) / EVALUATION).exists():
        artifacts[EVALUATION] = evaluation
    seed = f" seed {row.seed}" if row.seed else ""
    return describe(
        run_id=train,
        manifest=collected.manifest.name,
        name=f"{row.group} / {row.run}{seed}",
        state=result.state,
        started=started,
        ended=result.ended,
        settings={"architecture": row.architecture, "seed": row.seed, **result.settings},
        facts={
            "evaluate": row.evaluate,
            "group": row.group,
            "run": row.run,
            "architecture": row.architecture,
            "cause": result.cause,
            "message": result.message,
            "git_commit": result.git_commit,
            "slurm_job": _job(result.about),
        },
        points=_points(result, started),
        artifacts={**artifacts, **_plots(pictures)},
        parent=row.search,
    )


def _trial(collected: Collected, search: SearchResult, trial: Trial) -> MlflowRun | None:
    started = trial.started or _begun(collected.storage, trial.id)
    if started is None:
        return None
    architecture = search.planned.search.architecture
    return describe(
        run_id=trial.id,
        manifest=collected.manifest.name,
        name=f"{search.name} / trial {trial.number}",
        state=trial.state,
        started=started,
        ended=trial.ended,
        settings={"architecture": architecture, **trial.settings},
        facts={
            "group": search.name,
            "run": f"trial {trial.number}",
            "architecture": architecture,
            "cause": trial.cause,
            "git_commit": trial.about.git_commit,
            "slurm_job": _job(trial.about),
            "stopped": trial.stopped,
        },
        points=curves(trial.epochs, started),
        artifacts=_trained(collected.storage, trial.id),
        parent=search.planned.id,
    )


def _search(collected: Collected, search: SearchResult, pictures: Iterable[Path]) -> MlflowRun | None:
    """The parent: it begins with its first trial and ends with its last; its curve is the best so far."""
    begun = [started for trial in search.trials if (started := trial.started or _begun(collected.storage, trial.id))]
    if not begun:
        return None
    planned = search.planned.search
    return describe(
        run_id=search.planned.id,
        manifest=collected.manifest.name,
        name=search.name,
        state="done" if all(trial.state in ("done", "failed") for trial in search.trials) else "running",
        started=min(begun),
        ended=max((trial.ended for trial in search.trials if trial.ended), default=None),
        settings={
            "architecture": planned.architecture,
            "algorithm": planned.algorithm,
            "metric": planned.metric,
            **{f"space.{name}": value for name, value in planned.space.items()},
        },
        facts={"group": search.name, "run": "search"},
        points=_best_so_far(search),
        artifacts=_plots(pictures),
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
        yield point(f"best_{metric}", best, trial.number, ended_s)


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


def _points(result: Result, started: float) -> Iterator[Point]:
    """A run's curves, then the figures of the epoch that was kept: ``final_<name>`` where a curve has the name."""
    of_epochs = tuple(curves(result.epochs, started))
    yield from of_epochs
    taken = {each.metric for each in of_epochs}
    at_s, step = result.ended or started, int(result.figures.get("epochs_run", len(result.epochs)))
    for name, value in result.figures.items():
        yield point(f"final_{name}" if name in taken else name, value, step, at_s)
    if result.gpu_hours is not None and result.done:
        yield point("gpu_hours", result.gpu_hours, step, at_s)


def _begun(storage: Storage, task_id: str) -> float | None:
    """When the first attempt at a task began, for one that has no record yet."""
    attempts = history(storage.run(task_id))
    return attempts[0].started if attempts else None


def _trained(storage: Storage, task_id: str) -> dict[str, Path]:
    """What a training leaves for people, as far as it is there, by name."""
    paths = (storage.run(task_id) / "model.pt", storage.log(task_id))
    return {path.name: path for path in paths if path.exists()}


def _plots(pictures: Iterable[Path]) -> dict[str, Path]:
    return {f"plots/{path.name}": path for path in pictures}


def _job(about: Provenance) -> str | None:
    if "array_job_id" in about.slurm:
        return f"{about.slurm['array_job_id']}_{about.slurm.get('array_task_id', '')}"
    return about.slurm.get("job_id")
