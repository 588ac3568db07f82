"""How fast the report is on thousands of finished runs, beside MLflow's own way to the same numbers.

    python benchmarks/report.py                    # 5,000 runs: tables, against MLflow's search and histories
    python benchmarks/report.py --whole            # 1,000 runs: tables, plots, page
    python benchmarks/report.py --mlflow           # 1,000 runs: into MLflow's store, and again with nothing new

Runs are made by this program in the real file formats, in a folder that is removed afterwards.
"""

from __future__ import annotations

import argparse
import io
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from jobs import metrics_log
from jobs.data.settings import Data
from jobs.metrics_log import EpochMetrics
from jobs.storage import Storage
from jobs.testing import settings_with
from pipeline.decisions.task_state import TaskState
from pipeline.manifest.model import Cluster, Manifest, Resources, Run
from pipeline.plan import Plan, make_plan

EPOCHS = 10
CATEGORIES = 632
TITLES = 4_000  # of the test split, and as many of validation
SEEDS = 5
STAGES = ("preprocess", "train", "evaluate")
START = 1_700_000_000.0
CURVES = ("train_loss", "train_balanced_accuracy", "train_accuracy")
CURVES += ("validation_loss", "validation_balanced_accuracy", "validation_accuracy")


def make_runs(root: Path, count: int, groups: int) -> tuple[Plan, dict[str, TaskState]]:
    """``count`` finished runs of 10 epochs over 632 categories, a fifth of them settings and the rest seeds."""
    plan = plan_runs(root, count, groups)
    writer = _Writer(Storage(plan.manifest.storage))
    for row in plan.rows:
        writer.write(row.train or "", row.evaluate)
    return plan, {planned.id: _done(planned.id) for planned in plan.tasks}


def plan_runs(root: Path, count: int, groups: int) -> Plan:
    """The plan alone: nothing is written but the data files whose fingerprints it needs."""
    data = _data(root)
    runs = []
    for number in range(count):
        place, seed = divmod(number, SEEDS)
        settings = {"dropout": round(0.5 * (place % 50) / 50, 3), "hidden_layers": [64 + place], "seed": seed}
        values = settings_with("mlp", **settings, epochs=EPOCHS)
        runs.append(
            Run(
                group=f"group {place * SEEDS * groups // count}",
                name=f"run {place}",
                architecture="mlp",
                settings=values,
                data=data,
                resources={stage: Resources() for stage in STAGES},
                reference={"test_balanced_accuracy": 0.7},
            )
        )
    manifest = Manifest(
        name="benchmark",
        path=root / "benchmark.yaml",
        document={},
        storage=root / "storage",
        cluster=Cluster(),
        runs=tuple(runs),
        searches=(),
        resources={},
    )
    return make_plan(manifest)


def _data(root: Path) -> Data:
    paths = {}
    for split in ("train", "validation", "test"):
        path = root / f"{split}.csv"
        path.write_text(f"title,category\na thing to {split},A\n")
        paths[split] = str(path)
    return Data(**paths)


def _done(task_id: str) -> TaskState:
    return TaskState(id=task_id, state="done", attempts=1, gpu_hours=0.01)


class _Writer:
    """Writes runs as tasks leave them, without the fsyncs that would take most of the time."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.random = np.random.default_rng(0)
        shares = 1 / np.arange(1, CATEGORIES + 1) ** 0.7
        self.labels = self.random.choice(CATEGORIES, size=TITLES, p=shares / shares.sum()).astype(np.uint16)
        self.labels[:CATEGORIES] = np.arange(CATEGORIES)
        self.support = np.bincount(self.labels, minlength=CATEGORIES)
        self.classes = [f"CATEGORY_NUMBER_{number:03d}" for number in range(CATEGORIES)]

    def write(self, train: str, evaluate: str) -> None:
        skill = float(self.random.uniform(0.2, 0.9))
        folder = self.storage.run(train)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [self._epoch(epoch + 1, skill) for epoch in range(EPOCHS)]
        (folder / "metrics.jsonl").write_bytes(metrics_log.encode(lines))
        (folder / "model.pt").write_bytes(b"weights")
        (folder / "log.txt").write_text("10:00:00 epoch 1: train loss 2.0\n" * EPOCHS)
        last = lines[-1]
        result = {name: last[name] for name in (*CURVES, "validation_accuracy")} | {
            "best_epoch": EPOCHS,
            "epochs_run": EPOCHS,
            "train_seconds": 40.0,
            "parameters": 1_000_000,
            "stopped": None,
        }
        self._record(train, "train", result, ("model.pt", "metrics.jsonl"))
        self._evaluate(evaluate, skill)

    def _epoch(self, epoch: int, skill: float) -> EpochMetrics:
        reached = skill * (1 - np.exp(-0.5 * epoch))
        values = {name: float(reached + self.random.normal(0, 0.01)) for name in CURVES}
        return {
            **values,
            "epoch": epoch,
            "step": 100 * epoch,
            "gradient_norm": 1.0,
            "seconds": 4.0,
            "titles_per_s": 10_000.0,
            "ended": START + 4 * epoch,
            "attempt": 1,
        }

    def _evaluate(self, task: str, skill: float) -> None:
        folder = self.storage.run(task)
        folder.mkdir(parents=True, exist_ok=True)
        evaluation: dict[str, Any] = {"classes": self.classes}
        arrays, result = {}, {}
        for split in ("validation", "test"):
            right = self.random.random(TITLES) < skill
            predicted = np.where(right, self.labels, (self.labels + 1) % CATEGORIES).astype(np.uint16)
            recall = np.bincount(self.labels[right], minlength=CATEGORIES) / self.support
            score = float(recall.mean())
            figures = {"loss": 1 - skill, "balanced_accuracy": score, "accuracy": float(right.mean())}
            figures |= {"macro_f1": score, "top5": min(1.0, score + 0.1)}
            evaluation[split] = {**figures, "recall": recall.tolist(), "support": self.support.tolist()}
            result |= {f"{split}_{name}": value for name, value in figures.items()}
            arrays |= {f"{split}_label": self.labels, f"{split}_predicted": predicted}
            arrays[f"{split}_reliable"] = np.ones(TITLES, np.uint8)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        (folder / "predictions.npz").write_bytes(buffer.getvalue())
        # As jobs.storage.write_json writes it.
        options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
        (folder / "evaluation.json").write_bytes(orjson.dumps(evaluation, option=options))
        self._record(task, "evaluate", result, ("evaluation.json", "predictions.npz"))

    def _record(self, task: str, stage: str, result: dict[str, Any], names: tuple[str, ...]) -> None:
        folder = self.storage.run(task)
        record = {
            "id": task,
            "stage": stage,
            "state": "done",
            "cause": None,
            "message": None,
            "result": result,
            "files": {f"runs/{task}/{name}": (folder / name).stat().st_size for name in names},
            "started": START,
            "ended": START + 60,
            "running_s": 60.0,
            "attempt": 1,
            "about": {"host": "node1", "git_commit": "0123abc", "gpus": 1, "slurm": {"job_id": "77"}},
        }
        (folder / "record.json").write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2))


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds on the clock and of the processor: on a busy machine the latter tell more."""

    wall_s: float
    processor_s: float


def timed(name: str, action: Callable[[], Any]) -> Taken:
    before = time.perf_counter(), time.process_time()
    action()
    taken = Taken(time.perf_counter() - before[0], time.process_time() - before[1])
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = f"{taken.wall_s:.2f} s, {taken.processor_s:.2f} s of the processor"
    print(f"{name}: {told} (peak memory so far {peak_mb:.0f} MB)", flush=True)
    return taken


def tables(root: Path, runs: int) -> None:
    """results.csv, .md and .tex, beside MLflow's search_runs and the histories of the same runs."""
    from pipeline.report import build

    plan, states = make_runs(root, runs, groups=10)
    ours = timed(f"tables of {runs} runs", lambda: build(plan, states, plots=False, mlflow=False))
    again = timed("the same once more", lambda: build(plan, states, plots=False, mlflow=False))
    print("filling MLflow's store with the same runs ...", flush=True)
    update(plan, states)
    theirs = timed("mlflow.search_runs and bulk histories", lambda: _mlflow_way(Storage(plan.manifest.storage)))
    for name, mine in (("first", ours), ("again", again)):
        wall, processor = theirs.wall_s / mine.wall_s, theirs.processor_s / mine.processor_s
        print(f"ratio, {name}: {wall:.1f} on the clock, {processor:.1f} of the processor; wanted: 10")


def _mlflow_way(storage: Storage) -> None:
    import mlflow
    from mlflow.tracking import MlflowClient

    from pipeline.mlflow.store import uri

    mlflow.set_tracking_uri(uri(storage))
    frame = mlflow.search_runs(experiment_names=["benchmark"], max_results=50_000)
    store = MlflowClient(uri(storage))._tracking_client.store
    names = list(frame["run_id"])
    for metric in CURVES:
        for at in range(0, len(names), 100):
            store.get_metric_history_bulk(names[at : at + 100], metric, 25_000)


def update(plan: Plan, states: dict[str, TaskState]) -> None:
    from pipeline.mlflow import store
    from pipeline.mlflow.runs import mlflow_runs
    from pipeline.report.collect import collect

    collected = collect(plan, states)
    store.update(collected.storage, "benchmark", mlflow_runs(collected, {}), progress=_tell)


def _tell(name: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{name}: {done}/{total}", end="\n" if done == total else "", file=sys.stderr)


def whole(root: Path, runs: int) -> None:
    """Everything but MLflow: tables, plots and a page per run."""
    from pipeline.report import build

    plan, states = make_runs(root, runs, groups=5)
    timed(f"whole report of {runs} runs", lambda: build(plan, states, mlflow=False, progress=_tell))
    timed("the same once more", lambda: build(plan, states, mlflow=False, progress=_tell))


def store(root: Path, runs: int) -> None:
    """New runs into MLflow's store, then an update with nothing new."""
    plan, states = make_runs(root, runs, groups=5)
    first = timed(f"{runs} new runs into MLflow's store", lambda: update(plan, states))
    second = timed("nothing new", lambda: update(plan, states))
    print(f"second: {100 * second.wall_s / first.wall_s:.1f} % of the first; wanted: at most 5 %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=None)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--mlflow", action="store_true")
    parser.add_argument("--folder", type=Path, default=None, help="where the runs are made, and kept")
    arguments = parser.parse_args()
    root = arguments.folder or Path(tempfile.mkdtemp(prefix="report-benchmark-"))
    root.mkdir(parents=True, exist_ok=True)
    try:
        if arguments.whole:
            whole(root, arguments.runs or 1_000)
        elif arguments.mlflow:
            store(root, arguments.runs or 1_000)
        else:
            tables(root, arguments.runs or 5_000)
    finally:
        if arguments.folder is None:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
