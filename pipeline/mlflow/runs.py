"""The runs, trials and searches of a manifest as MLflow is to show them: pure, from what a report has collected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from jobs.attempt import history
from jobs.search.study import best_so_far
from jobs.storage import Storage
from jobs.training.metrics import EVALUATION
from pipeline.mlflow.description import MlflowRun, Point, curves, describe, point
from pipeline.report.collect import Collected, Result, SearchResult, Trial
from sharedfs.typed_json import Json


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
    row = result.row
    seed = f" seed {row.seed}" if row.seed else ""
    facts = {"group": row.group, "run": row.run, "evaluate": row.evaluate}
    run = _training(
        collected,
        result,
        name=f"{row.group} / {row.run}{seed}",
        settings={"architecture": row.architecture, "seed": row.seed, **result.settings},
        facts={**facts, "message": result.message, "git_commit": result.git_commit},
        parent=row.search,
    )
    if run is None:
        return None
    path = collected.storage.run(row.evaluate) / EVALUATION
    artifacts = {**run.artifacts, **({EVALUATION: path} if path.exists() else {}), **_plots(pictures)}
    return replace(run, points=(*run.points, *_finals(result, run)), artifacts=artifacts)


def _trial(collected: Collected, search: SearchResult, trial: Trial) -> MlflowRun | None:
    return _training(
        collected,
        trial,
        name=f"{search.name} / trial {trial.number}",
        settings={"architecture": search.planned.search.architecture, **trial.settings},
        facts={"group": search.name, "run": f"trial {trial.number}", "stopped": trial.stopped},
        parent=search.planned.id,
    )


def _training(
    collected: Collected,
    trained: Result | Trial,
    *,
    name: str,
    settings: Mapping[str, Json],
    facts: Mapping[str, str | None],
    parent: str | None,
) -> MlflowRun | None:
    """What a training has left, evaluated or not; None before it has begun."""
    run_id, about = trained.id or "", trained.about
    started = trained.started or _begun(collected.storage, run_id)
    if started is None:
        return None
    paths = (collected.storage.run(run_id) / "model.pt", collected.storage.log(run_id))
    slurm_job = about.slurm.get("job_id")
    if "array_job_id" in about.slurm:
        slurm_job = f"{about.slurm['array_job_id']}_{about.slurm.get('array_task_id', '')}"
    own = {"architecture": str(settings["architecture"]), "cause": trained.cause, "slurm_job": slurm_job}
    return describe(
        run_id=run_id,
        manifest=collected.manifest.name,
        name=name,
        state=trained.state,
        started=started,
        ended=trained.ended,
        settings=settings,
        facts={"git_commit": about.git_commit, **own, **facts},
        points=curves(trained.epochs, started),
        artifacts={path.name: path for path in paths if path.exists()},
        parent=parent,
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


def _finals(result: Result, run: MlflowRun) -> Iterator[Point]:
    """A run's figures of the epoch that was kept: ``final_<name>`` where a curve has the name."""
    of_curves = {each.metric for each in run.points}
    at_s, step = result.ended or run.started_ms / 1000, int(result.figures.get("epochs_run", len(result.epochs)))
    for name, value in result.figures.items():
        yield point(f"final_{name}" if name in of_curves else name, value, step, at_s)
    if result.gpu_hours is not None and result.done:
        yield point("gpu_hours", result.gpu_hours, step, at_s)


def _begun(storage: Storage, task_id: str) -> float | None:
    """When the first attempt at a task began, for one that has no record yet."""
    attempts = history(storage.run(task_id))
    return attempts[0].started if attempts else None


def _plots(pictures: Iterable[Path]) -> dict[str, Path]:
    return {f"plots/{path.name}": path for path in pictures}
