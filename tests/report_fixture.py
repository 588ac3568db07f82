"""Storages as finished, failing and running jobs leave them, laid out with the jobs' own writers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jobs import metrics_log
from jobs.attempt import begin
from jobs.data.settings import Data
from jobs.storage import Storage
from jobs.task import Record
from jobs.testing import settings_with
from pipeline.decisions.task_state import TaskState
from pipeline.manifest.model import Cluster, Manifest, Resources, Run, Search
from pipeline.plan import Plan, Planned, make_plan
from pipeline.report import build
from sharedfs.documents import read_json, write_json
from sharedfs.files import write_whole

START = 1_700_000_000.0
STAGES = ("preprocess", "train", "evaluate")
DROPOUT: dict[str, Any] = {"dropout": {"uniform": [0.0, 0.5]}}
SPACE: dict[str, Any] = {**DROPOUT, "learning_rate": {"loguniform": [1e-5, 1e-1]}}


@dataclass(slots=True)
class Made:
    """A laid-out storage and its plan; ``states`` as status would tell them."""

    plan: Plan
    storage: Storage
    states: dict[str, TaskState]
    categories: tuple[str, ...]
    titles: int = 400
    seed: int = 0
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    def state(self, task_id: str, state: str, **facts: Any) -> None:
        self.states[task_id] = TaskState(id=task_id, state=state, **facts)


def data_files(folder: Path, language: str = "spanish") -> Data:
    """Three small files, enough for a plan to take their fingerprints."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for split in ("train", "validation", "test"):
        path = folder / f"{language}.{split}.csv"
        path.write_text(f"title,category\nuna cosa,A\notra cosa,B\nde {path.name},A\n")
        paths[split] = str(path)
    return Data(**paths, language=language)


def make_run(
    data: Data,
    *,
    group: str,
    name: str,
    architecture: str = "mlp",
    reference: Mapping[str, float] | None = None,
    **settings: Any,
) -> Run:
    values = settings_with(architecture, **settings)
    return Run(
        group=group,
        name=name,
        architecture=architecture,
        settings=values,
        data=data,
        resources={stage: Resources() for stage in STAGES},
        reference=reference or {},
    )


def make_search(data: Data, *, name: str, space: Mapping[str, Any], trials: int, **more: Any) -> Search:
    architecture = more.pop("architecture", "mlp")
    facts: dict[str, Any] = {
        "algorithm": "tpe",
        "parallel": 4,
        "metric": "validation_balanced_accuracy",
        "stopping": None,
        "seed": 0,
        **more,
    }
    return Search(
        name=name,
        architecture=architecture,
        trials=trials,
        space=space,
        settings=settings_with(architecture),
        searched=frozenset(space),
        data=data,
        resources={stage: Resources() for stage in STAGES},
        **facts,
    )


def make(
    root: Path,
    *,
    runs: tuple[Run, ...] = (),
    searches: tuple[Search, ...] = (),
    name: str = "demo",
    language: str = "en",
    categories: int = 12,
    titles: int = 400,
) -> Made:
    """A storage with a plan and nothing done."""
    manifest = Manifest(
        name=name,
        path=root / f"{name}.yaml",
        document={},
        storage=root / "storage",
        cluster=Cluster(),
        runs=runs,
        searches=searches,
        resources={stage: Resources() for stage in STAGES},
        language=language,
    )
    plan = make_plan(manifest)
    names = tuple(f"CATEGORY_{chr(65 + number // 26)}{chr(65 + number % 26)}" for number in range(categories))
    made = Made(plan, Storage(manifest.storage), {}, names, titles)
    for planned in plan.tasks:
        planned.task.write(made.storage)
        made.state(planned.id, "waiting")
    random = np.random.default_rng(5)
    shares = np.arange(1, categories + 1) ** -0.7
    for split in ("validation", "test"):
        labels = random.choice(categories, size=titles, p=shares / shares.sum())
        labels[:categories] = np.arange(categories)
        made.labels[split] = labels.astype(np.uint16)
    return made


def epoch_line(epoch: int, *, skill: float, random: np.random.Generator, overfit: bool = False) -> dict[str, Any]:
    """One journal line of a run that approaches ``skill``."""
    reached = skill * (1 - np.exp(-0.6 * epoch)) + random.normal(0, 0.004)
    loss = 3.2 * np.exp(-0.45 * epoch) + 2.2 * (1 - skill)
    risen = 0.12 * max(0, epoch - 3) if overfit else 0.0
    return {
        "epoch": epoch,
        "step": epoch * 40,
        "train_loss": float(loss - risen / 3),
        "train_balanced_accuracy": float(np.clip(reached + 0.05, 0, 1)),
        "train_accuracy": float(np.clip(reached + 0.08, 0, 1)),
        "validation_loss": float(loss + 0.1 + risen),
        "validation_balanced_accuracy": float(np.clip(reached, 0, 1)),
        "validation_accuracy": float(np.clip(reached + 0.03, 0, 1)),
        "gradient_norm": 1.0,
        "seconds": 4.0,
        "titles_per_s": 10_000.0,
        "ended": START + 10 + 5.0 * epoch,
        "attempt": 1,
    }


def finish_train(
    made: Made, task_id: str, *, skill: float, epochs: int = 5, overfit: bool = False, gpus: int = 1, **more: Any
) -> list[dict[str, Any]]:
    """A training task with its journal, model, log and record."""
    folder = made.storage.run(task_id)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(int(task_id[:8], 16))
    lines = [epoch_line(number + 1, skill=skill, random=random, overfit=overfit) for number in range(epochs)]
    metrics_log.rewrite(folder, lines)
    write_whole(folder / "model.pt", b"weights " * 16)
    (folder / "log.txt").write_text("10:00:00 epoch 1\n10:00:05 <b>done</b>\n")
    attempt = begin(folder).number
    best = max(lines, key=lambda line: line["validation_balanced_accuracy"])
    names = ("train_loss", "validation_loss", "validation_balanced_accuracy", "validation_accuracy")
    result = {
        **{metric: best[metric] for metric in names},
        "best_epoch": best["epoch"],
        "epochs_run": epochs,
        "train_seconds": 4.0 * epochs,
        "parameters": 12_345,
        "stopped": None,
        **more,
    }
    stage = "trial" if "trial" in more else "train"
    _record(made, task_id, stage, result, ("model.pt", "metrics.jsonl"), gpus=gpus, attempt=attempt)
    made.state(task_id, "done", attempts=1, gpu_hours=gpus * 4.0 * epochs / 3600)
    return lines


def finish_evaluate(made: Made, task_id: str, *, skill: float, seed: int = 0) -> None:
    """An evaluate task whose predictions, recalls and figures agree."""
    folder = made.storage.run(task_id)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed + int(task_id[:8], 16))
    evaluation: dict[str, Any] = {"classes": list(made.categories)}
    arrays: dict[str, np.ndarray] = {}
    result: dict[str, float] = {}
    for split, label in made.labels.items():
        count = len(made.categories)
        ability = np.clip(skill + np.linspace(0.15, -0.25, count), 0.02, 0.99)
        right = random.random(len(label)) < ability[label]
        wrong = (label + 1 + (random.random(len(label)) < 0.3)) % count
        predicted = np.where(right, label, wrong).astype(np.uint16)
        support = np.bincount(label, minlength=count)
        recall = np.bincount(label[right], minlength=count) / np.maximum(support, 1)
        figures = {
            "loss": 2.5 * (1 - skill),
            "balanced_accuracy": float(recall[support > 0].mean()),
            "accuracy": float(right.mean()),
            "macro_f1": float(recall[support > 0].mean() - 0.01),
            "top5": float(min(1.0, right.mean() + 0.1)),
        }
        recalls = [float(one) if titles else None for one, titles in zip(recall, support, strict=True)]
        evaluation[split] = {**figures, "recall": recalls, "support": support.tolist()}
        result |= {f"{split}_{figure}": value for figure, value in figures.items()}
        arrays |= {f"{split}_label": label, f"{split}_predicted": predicted}
        arrays[f"{split}_reliable"] = (random.random(len(label)) < 0.7).astype(np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_whole(folder / "predictions.npz", buffer.getvalue())
    write_json(folder / "evaluation.json", evaluation)
    _record(made, task_id, "evaluate", result, ("evaluation.json", "predictions.npz"), gpus=0)
    made.state(task_id, "done", attempts=1, gpu_hours=0.0)


def fail(made: Made, task_id: str, cause: str, message: str, *, epochs: int = 0) -> None:
    """A training task that failed after some epochs."""
    folder = made.storage.run(task_id)
    random = np.random.default_rng(1)
    metrics_log.rewrite(folder, [epoch_line(number + 1, skill=0.1, random=random) for number in range(epochs)])
    (folder / "log.txt").write_text(f"failed ({cause}): {message}\n")
    _record(made, task_id, "train", {}, (), state="failed", cause=cause, message=message)
    made.state(task_id, "failed", cause=cause, message=message, attempts=2, gpu_hours=0.01)


def finish_trial(made: Made, search: int, number: int, *, skill: float, stopped: str | None = None) -> str:
    """A search's trial with its point; returns the trial's task id."""
    planned = made.plan.searches[search]
    random = np.random.default_rng(number)
    point = {name: _draw(space, random) for name, space in planned.search.space.items()}
    home = made.storage.search(planned.id) / "trials" / f"{number:04d}"
    home.mkdir(parents=True, exist_ok=True)
    task = planned.trials[number]
    definition = made.plan.by_id()[task].task.settings["search"]
    write_json(made.storage.search(planned.id) / "search.json", definition)
    write_json(home / "point.json", {"number": number, "task": task, "point": point, "draws": {}})
    epochs = 1 if stopped else 4
    lines = finish_train(made, task, skill=skill, epochs=epochs, trial=number, stopped=stopped)
    value = max(line["validation_balanced_accuracy"] for line in lines)
    record = {"stopped": stopped, "metric": planned.search.metric, "value": value, "trial": number}
    finish_train(made, task, skill=skill, epochs=epochs, **record)
    return task


def _draw(space: Mapping[str, Any], random: np.random.Generator) -> Any:
    kind, arguments = next(iter(space.items()))
    if kind == "choice":
        return arguments[int(random.integers(len(arguments)))]
    low, high = arguments[:2]
    if kind == "loguniform":
        return float(np.exp(random.uniform(np.log(low), np.log(high))))
    return float(random.uniform(low, high))


def finish_all(made: Made, skills: Mapping[str, float], *, default: float = 0.6, **more: Any) -> None:
    """Every data set, training and evaluation task of the fixed runs done; ``skills`` by run name."""
    for planned in made.plan.tasks:
        if planned.stage == "preprocess":
            finish_dataset(made, planned)
    for row in made.plan.rows:
        skill = skills.get(row.run, default)
        if row.train is not None and row.search is None:
            finish_train(made, row.train, skill=skill, **more)
            finish_evaluate(made, row.evaluate, skill=skill)


def five_results(root: Path) -> Made:
    """Three finished runs, one of them over three seeds."""
    data = data_files(root / "data")
    runs = (
        make_run(data, group="baseline", name="MLP", reference={"test_balanced_accuracy": 0.447}),
        make_run(data, group="baseline", name="CNN", architecture="cnn"),
        *(make_run(data, group="baseline", name="wide", hidden_layers=[512], seed=seed) for seed in range(3)),
    )
    made = make(root, runs=runs)
    finish_all(made, {"MLP": 0.45, "CNN": 0.7, "wide": 0.8})
    return made


def build_tables(made: Made) -> Path:
    """The report without plots, page and MLflow."""
    return build(made.plan, made.states, plots=False, mlflow=False)


def rows_of(folder: Path) -> list[dict[str, str]]:
    """A report's results.csv."""
    return list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))


def two_runs(root: Path) -> Made:
    """A finished mlp and a finished cnn in one group."""
    data = data_files(root / "data")
    runs = (make_run(data, group="g", name="a"), make_run(data, group="g", name="b", architecture="cnn"))
    made = make(root, runs=runs)
    finish_all(made, {"a": 0.5, "b": 0.7})
    return made


def amend_record(made: Made, task_id: str, *, about: Mapping[str, Any] = {}, made_by: Mapping[str, Any] = {}) -> None:
    """Say more of where a task ran, and which units of code made its result."""
    path = made.storage.run(task_id) / "record.json"
    record = read_json(path)
    write_json(path, {**record, "about": {**record["about"], **about}, "made": {**record["made"], **made_by}})


def finish_dataset(made: Made, planned: Planned) -> None:
    _record(made, planned.id, "preprocess", {"rows": 6}, ())
    made.state(planned.id, "done", attempts=1, gpu_hours=0.0)


def _record(
    made: Made,
    task_id: str,
    stage: str,
    result: Mapping[str, Any],
    names: tuple[str, ...],
    *,
    state: str = "done",
    cause: str | None = None,
    message: str | None = None,
    gpus: int = 0,
    attempt: int = 1,
) -> None:
    folder = made.storage.run(task_id)
    Record(
        id=task_id,
        stage=stage,
        state=state,
        cause=cause,
        message=message,
        result=result,
        files=made.storage.sizes(folder / name for name in names),
        started=START,
        ended=START + 60,
        running_s=60.0,
        attempt=attempt,
        about={"host": "node1", "git_commit": "0123abc", "gpus": gpus, "slurm": {"job_id": "77"}},
    ).write(made.storage)


def seeds_of(root: Path, skills: dict[str, float], seeds: int, **more: int) -> Made:
    """Runs of these skills, each trained with so many seeds and evaluated."""
    data = data_files(root / "data")
    rates = {name: 0.1 * number for number, name in enumerate(skills, start=1)}
    runs = [
        make_run(data, group="g", name=name, dropout=rates[name], seed=seed) for name in skills for seed in range(seeds)
    ]
    made = make(root, runs=tuple(runs), **more)
    finish_all(made, skills)
    return made
