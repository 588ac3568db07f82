"""Training, whatever the architecture: a network steps through epochs, an estimator is fitted in one go.

Torch is imported for networks alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from jobs import metrics_log, models
from jobs.context import Context
from jobs.data.dataset import Dataset
from jobs.training.metrics import of_logits
from jobs.training.trained import write_settings

EpochMetrics = dict[str, Any]
StopCallback = Callable[[Sequence[Mapping[str, Any]]], str | None]
__all__ = ["StopCallback", "TrainResult", "train"]


# What a training run leaves behind.


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run leaves: its files, one journal line an epoch, and its figures for the record."""

    files: tuple[Path, ...]
    lines: tuple[EpochMetrics, ...]
    figures: Mapping[str, Any]

    @property
    def stopped(self) -> str | None:
        """Why it ended before its last epoch, or None."""
        stopped: str | None = self.figures["stopped"]
        return stopped


def train(
    context: Context,
    *,
    settings: Mapping[str, Any],
    dataset: Dataset,
    folder: Path,
    decide: StopCallback | None = None,
) -> TrainResult:
    """Train one architecture, or go on where a checkpoint in ``folder`` left off.

    ``settings`` holds ``architecture`` and a value for each of ``jobs.models.settings(architecture)``.
    ``decide`` sees the journal after every epoch and may say "stop"; a run that it stopped keeps its checkpoint,
    and goes on from there when it is called again and ``decide`` has changed its mind. Raises TaskFailedError
    (diverged, at chance) and TaskInterruptedError (saved, after the context was interrupted).
    """
    if models.describe(settings["architecture"]).KIND == "estimator":
        return fit(context, settings=settings, dataset=dataset, folder=folder)
    from jobs.training.trainer import Trainer

    epochs = Trainer(context, settings, dataset, folder, decide)
    return epochs.finished() or epochs.go()


# An architecture that is fitted in one go instead of stepping through epochs.


def fit(context: Context, *, settings: Mapping[str, Any], dataset: Dataset, folder: Path) -> TrainResult:
    """Fit, save and score on training and validation titles: a journal of one line."""
    began = time.monotonic()
    estimator = import_module(f"jobs.models.{settings['architecture']}.estimator")
    fitted = estimator.fit(dataset, settings, context)
    line: dict[str, Any] = {"epoch": 1, "step": 1}
    for part in ("train", "validation"):
        split = dataset.splits[part]
        scores = of_logits(fitted.scores(split), np.asarray(split.labels, dtype=np.int64))
        line |= {
            f"{part}_loss": scores.loss,
            f"{part}_balanced_accuracy": scores.balanced_accuracy,
            f"{part}_accuracy": scores.accuracy,
        }
    spent = time.monotonic() - began
    line |= {
        "gradient_norm": None,
        "seconds": spent,
        "titles_per_s": len(dataset.splits["train"]) / spent,
        "ended": time.time(),
        "attempt": context.attempt.number,
    }
    context.attempt.check()
    files = _save(fitted, folder, context.attempt.number)
    files = (*files, write_settings(folder, settings, dataset), folder / metrics_log.NAME)
    metrics_log.rewrite(folder, [line])
    names = ("train_loss", "validation_loss", "validation_balanced_accuracy", "validation_accuracy")
    figures = {
        **{name: line[name] for name in names},
        "kept_epoch": 1,
        "best_epoch": 1,
        "epochs_run": 1,
        "train_seconds": spent,
        "titles_per_s": line["titles_per_s"],
        "parameters": int(fitted.weights.size + fitted.bias.size),
        "stopped": None,
        "device": "cpu",
    }
    return TrainResult(files=files, lines=(line,), figures=figures)


def _save(fitted: Any, folder: Path, attempt: int) -> tuple[Path, ...]:
    """Save beside, then move into place file by file: a name that is there is whole."""
    beside = folder / f".fitted-{attempt}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    files = tuple(path.replace(folder / path.name) for path in fitted.save(beside))
    beside.rmdir()
    return files
