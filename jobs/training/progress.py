"""What a run reports while it trains: its progress, a line of the metrics log an epoch, its figures at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jobs import metrics_log
from jobs.context import Progress
from jobs.metrics import Pass, pass_figures
from jobs.metrics_log import EpochMetrics
from jobs.training.loop import PassSums
from jobs.training.run import kept_figures
from jobs.training.settings import TrainingSettings
from jobs.training.state import TrainState
from sharedfs.typed_json import Json


def progress_of(state: TrainState, settings: TrainingSettings, *, titles: int, steps: int, spent_s: float) -> Progress:
    """How far a run is, within an epoch of so many steps and titles on which it has spent so long."""
    done = min(state.step * settings.batch_size, titles)
    left = steps - state.step + (settings.epochs - state.epoch - 1) * steps
    return Progress(
        phase="train",
        epoch=state.epoch + 1,
        epochs=settings.epochs,
        done=done,
        total=titles,
        unit="titles",
        rate=done / spent_s if spent_s else None,
        left_s=left * spent_s / state.step,
    )


def epoch_line(
    trained: PassSums,
    validated: PassSums,
    *,
    epoch: int,
    steps: int,
    support: tuple[NDArray[np.int64], NDArray[np.int64]],
    trained_s: float,
    spent_s: float,
    attempt: int,
) -> EpochMetrics:
    """The line of an epoch (from 1) from the sums of its two passes, whose titles by category are ``support``.

    ``trained_s`` are its seconds without validation, ``spent_s`` with it.
    """
    train_support, validation_support = support
    return metrics_log.make_line(
        train=pass_figures(Pass(support=train_support, correct=trained.correct, loss=trained.loss)),
        validation=pass_figures(Pass(support=validation_support, correct=validated.correct, loss=validated.loss)),
        epoch=epoch,
        step=epoch * steps,
        gradient_norm=trained.norm,
        seconds=spent_s,
        titles_per_s=int(train_support.sum()) / trained_s,
        ended=time.time(),
        attempt=attempt,
    )


def describe_line(line: EpochMetrics) -> str:
    """An epoch in a line of the log."""
    return (
        f"epoch {line['epoch']}: train loss {line['train_loss']:.4f}, validation loss "
        f"{line['validation_loss']:.4f}, balanced accuracy {line['validation_balanced_accuracy']:.4f}, "
        f"{line['titles_per_s']:,.0f} titles/s"
    )


def figures(
    lines: Sequence[EpochMetrics],
    kept: int,
    *,
    best_epoch: int,
    stopped: str | None,
    model: nn.Module,
    device: torch.device,
) -> dict[str, Json]:
    """The figures of a run's record, of the epoch that was kept (from 1); ``stopped`` is why it ended early."""
    line = lines[kept - 1]
    found: dict[str, Json] = {
        **kept_figures(line),
        "kept_epoch": line["epoch"],
        "best_epoch": best_epoch,
        "epochs_run": len(lines),
        "train_seconds": sum(past["seconds"] for past in lines),
        "titles_per_s": max(past["titles_per_s"] for past in lines),
        "parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "stopped": stopped,
        "device": device.type,
    }
    if device.type == "cuda":
        found["gpu_peak_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found
