"""What training never changes of a title, computed once before the first step: a frozen encoder's part of a network."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from jobs.context import Context, Progress, TaskInterruptedError
from jobs.data.batches import EvaluationBatches
from jobs.data.dataset import Split
from jobs.training.device import autocast

AT_ONCE = 256  # titles
MOST_BYTES = 1 << 30  # of a split: above it they are computed in every epoch, as without this


def with_features(model: nn.Module, split: Split, device: torch.device, precision: str, context: Context) -> Split:
    """The split with the features that ``model.fixed`` gives of its titles; as it is where the model has none.

    Always in the same batches: rounding depends on a title's company, and a resumed run must go on with the same bits.
    Raises TaskInterruptedError; nothing is saved of it, the checkpoint is as it was.
    """
    fixed = getattr(model, "fixed", None)
    if fixed is None:
        return split
    model.eval()
    features = np.zeros((0, 0), np.float32)
    done, began = 0, time.monotonic()
    # Not in inference mode: what is computed there could not be an input of a step.
    with torch.no_grad():
        for batch in EvaluationBatches(split, AT_ONCE, device):
            if context.interrupted():
                raise TaskInterruptedError(f"stopped while the titles of {split.name} were encoded")
            with autocast(device, precision):
                part = fixed(batch).float().cpu().numpy()
            if not done:
                features = np.empty((len(split), part.shape[1]), np.float32)
                if features.nbytes > MOST_BYTES:
                    return split
            features[batch.rows.cpu().numpy()] = part
            done += len(batch)
            context.progress(Progress(phase=f"encoding {split.name}", done=done, total=len(split), unit="titles"))
    context.log(f"{len(split):,} titles of {split.name} encoded once, in {time.monotonic() - began:.0f} s")
    return replace(split, features=features)
