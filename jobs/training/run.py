"""Training, whatever the architecture: a network steps through epochs, an estimator is fitted in one go.

Torch is imported for networks alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs import models
from jobs.context import Context
from jobs.data.dataset import Dataset
from jobs.training.result import Decide, TrainResult

__all__ = ["Decide", "TrainResult", "train"]


def train(
    context: Context,
    *,
    settings: Mapping[str, Any],
    dataset: Dataset,
    folder: Path,
    decide: Decide | None = None,
) -> TrainResult:
    """Train one architecture, or go on where a checkpoint in ``folder`` left off.

    ``settings`` holds ``architecture`` and a value for each of ``jobs.models.settings(architecture)``.
    ``decide`` sees the journal after every epoch and may say "stop"; a run that it stopped keeps its checkpoint,
    and goes on from there when it is called again and ``decide`` has changed its mind. Raises StopError (diverged,
    at chance) and PausedError (saved, after the context was interrupted).
    """
    if models.describe(settings["architecture"]).KIND == "estimator":
        from jobs.training.estimator import fit

        return fit(context, settings=settings, dataset=dataset, folder=folder)
    from jobs.training.epochs import Epochs

    epochs = Epochs(context, settings, dataset, folder, decide)
    return epochs.finished() or epochs.go()
