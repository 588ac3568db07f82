"""Searches without training: a stand-in for the engine that keeps its contract, and ways to run a search's tasks.

Epochs cost milliseconds; everything else (claims, points, rungs, attempts, records, checkpoints, promotions) is real.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jobs import attempt, entry, metrics_log
from jobs.context import Context, TaskFailedError, TaskInterruptedError
from jobs.models import Recipe
from jobs.search.next_trial import StopAtRung
from jobs.search.study import Study, Trial, open_study, read_trials
from jobs.stages import trial as stage
from jobs.storage import Storage
from jobs.task import Record, Task
from jobs.testing import definition_with
from sharedfs.documents import read_json, write_json

SPACE: dict[str, Any] = {
    "learning_rate": {"loguniform": [1e-5, 1e-1]},
    "dropout": {"uniform": [0.0, 0.5]},
    "hidden_layers": {"choice": [[64], [256, 128], [512, 256]]},
    "batch_size": {"quniform": [128, 1024, 128]},
}


def make_study(
    root: Path,
    trials: int,
    *,
    epochs: int = 9,
    stopping: Mapping[str, Any] | None = None,
    algorithm: str = "tpe",
    seed: int = 0,
    **more: Any,
) -> Study:
    """A search whose trials are submitted: their tasks are written, and its data set's record says done."""
    storage = Storage(root)
    dataset = Task(stage="preprocess", settings={"by": "hand"})
    dataset.write(storage)
    Record(id=dataset.id, stage="preprocess", state="done", started=0, ended=0, running_s=0, attempt=1).write(storage)
    given = {"settings": {"epochs": epochs}, "space": SPACE, **more}
    definition = definition_with("mlp", dataset.id, algorithm=algorithm, stopping=stopping, seed=seed, **given)
    study = Study(storage, definition)
    submit(study, trials)
    return study


def submit(study: Study, trials: int) -> list[Path]:
    """Write the tasks of a search's first trials; returns their folders."""
    return [study.task(number).write(study.storage) for number in range(trials)]


def objective(settings: Any, epoch: int) -> float:
    """A smooth figure in 0..1 that grows over epochs and is best near a learning rate of 1e-3 and little dropout."""
    height = 1 - abs(math.log10(settings.learning_rate) + 3) / 3 - 0.3 * float(settings.dropout)
    return max(0.0, height) * (1 - 0.5 ** (epoch / 2))


def fake_train(
    epoch_s: float = 0.0, check: Callable[[Any, int], None] = lambda settings, epoch: None
) -> Callable[[Context, Mapping[str, Any], StopAtRung], Any]:
    """Training as the stage sees it; ``check`` may raise what an epoch ends with."""

    def train(context: Context, recipe: Recipe, stop_at_rung: StopAtRung) -> Any:
        settings: Any = recipe.settings
        saved = context.folder / "checkpoint.json"
        lines: list[dict[str, Any]] = read_json(saved)["journal"] if saved.exists() else []
        context.attempt.check()
        metrics_log.rewrite(context.folder, lines)
        if lines and stop_at_rung(lines) is not None:
            return _finish(context, lines, "stopped by the search")
        while True:
            epoch = len(lines) + 1
            check(settings, epoch)
            _wait(epoch_s, context, epoch)
            line = {
                "epoch": epoch,
                "validation_balanced_accuracy": objective(settings, epoch),
                "validation_loss": 1 - objective(settings, epoch),
                "ended": time.time(),
                "attempt": context.attempt.number,
            }
            context.attempt.check()
            metrics_log.append(context.folder, line)
            lines.append(line)
            stop = stop_at_rung(lines)
            write_json(saved, {"journal": lines})
            if stop is not None or epoch == settings.epochs:
                return _finish(context, lines, "stopped by the search" if stop else None)

    return train


def _wait(epoch_s: float, context: Context, epoch: int) -> None:
    until = time.monotonic() + epoch_s
    while True:
        if context.interrupted():
            raise TaskInterruptedError(f"saved before epoch {epoch}")
        if time.monotonic() >= until:
            return
        time.sleep(min(0.01, epoch_s))


def _finish(context: Context, lines: Sequence[Mapping[str, Any]], stopped: str | None) -> Any:
    model = context.folder / "model.pt"
    model.write_bytes(b"weights")
    figures = {"epochs_run": len(lines), "stopped": stopped}
    return SimpleNamespace(files=(model,), lines=tuple(lines), figures=figures)


def run_inline(study: Study, numbers: Sequence[int], train: Callable[..., Any]) -> list[int]:
    """Run trials one after the other in this process; returns their exit statuses."""
    kept, signals = stage._train, (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in signals]
    stage._train = train
    try:
        return [entry.run(study.storage.run(study.task(number).id)) for number in numbers]
    finally:
        stage._train = kept
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)


def start(study: Study, number: int, train: Callable[..., Any]) -> ForkProcess:
    """Start a trial's task in a process of its own, its output in the task's log."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(study, number, train))
    process.start()
    return process


def _child(study: Study, number: int, train: Callable[..., Any]) -> None:
    folder = study.storage.run(study.task(number).id)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    sys.stderr = os.fdopen(log, "a", buffering=1)
    stage._train = train
    # Killed just after it claimed its attempt, a process left no pid to look up: only silence tells.
    entry.POLL_S, attempt.STALE_S = 0.05, 1.0
    os._exit(entry.run(folder))


def diverge(settings: Any, epoch: int) -> None:
    """What happens with a large learning rate."""
    if settings.learning_rate > 1e-2:
        raise TaskFailedError("diverged", f"the training loss is NaN at epoch {epoch}")


def run_pool(
    study: Study, numbers: Sequence[int], train: Callable[..., Any], *, at_once: int, kills: int = 0, seed: int = 0
) -> dict[int, list[int]]:
    """Run trials in so many processes at once, killing some at random moments and starting those again.

    Returns the exit statuses of every trial's processes, in order: -9 is a kill.
    """
    # Before the forks: a second of imports in each process is not what is tested.
    import hyperopt  # noqa: F401

    source, waiting, running = random.Random(seed), list(numbers), dict[int, ForkProcess]()
    statuses: dict[int, list[int]] = {number: [] for number in numbers}
    doomed: dict[int, float] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            number = waiting.pop(0)
            running[number] = start(study, number, train)
            if source.random() < 0.7:
                doomed[number] = time.monotonic() + source.uniform(0.0, 0.15)
        time.sleep(0.005)
        for number, process in list(running.items()):
            if kills and process.is_alive() and time.monotonic() >= doomed.get(number, math.inf):
                process.kill()
                process.join()
                # One that ended just before was not killed; the next one doomed is.
                kills -= process.exitcode == -signal.SIGKILL
            if process.is_alive():
                continue
            process.join()
            assert process.exitcode is not None
            statuses[number].append(process.exitcode)
            del running[number]
            doomed.pop(number, None)
            if process.exitcode not in (0, 1):
                waiting.insert(0, number)
    return statuses


def trials(storage: Storage, search_id: str) -> list[Trial]:
    """Every trial of a search, read afresh; none where nothing has started."""
    try:
        return read_trials(open_study(storage, search_id))
    except FileNotFoundError:
        return []
