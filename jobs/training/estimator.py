"""An architecture that is fitted in one go instead of stepping through epochs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from jobs import journal
from jobs.context import Context
from jobs.data.dataset import Dataset
from jobs.training.result import TrainResult
from jobs.training.scores import of_logits
from jobs.training.trained import write_settings


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
    files = (*files, write_settings(folder, settings, dataset), folder / journal.NAME)
    journal.rewrite(folder, [line])
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
