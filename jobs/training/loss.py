"""What a training step minimises: cross-entropy, with an adjustment for balanced accuracy, weights, smoothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.data.batches import Batch
from jobs.data.dataset import Split
from jobs.training.settings import TrainingSettings


@dataclass(frozen=True, eq=False)
class Loss:
    """The mean loss over a batch.

    ``adjustment`` (C,) is added to the logits; ``smoothing`` is the share of each target that is spread evenly over all
    categories (Szegedy and others, 2016); ``weights`` (N,) are those of the split's titles, 1 on average.
    """

    adjustment: Tensor | None = None
    smoothing: float = 0.0
    weights: Tensor | None = None

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss, (), of logits (B, C) float32."""
        logits = logits if self.adjustment is None else logits + self.adjustment
        if self.weights is None:
            return nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)
        each = nn.functional.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=self.smoothing)
        # Divided by the titles and not by their weights: a batch of light titles has to move the network less.
        return (each * self.weights[batch.rows]).mean()


PLAIN = Loss()


def make(settings: TrainingSettings, split: Split, support: NDArray[np.int64], device: torch.device) -> Loss:
    """The loss that settings ask for, on training titles of which ``support`` (C,) are in each category."""
    return Loss(
        adjustment=logit_adjustment(support, settings.logit_adjustment, device),
        smoothing=settings.label_smoothing,
        weights=title_weights(settings, split, support, device),
    )


def logit_adjustment(support: NDArray[np.int64], strength: float, device: torch.device) -> Tensor | None:
    """What is added to the logits inside the training loss, (C,); None for strength 0.

    ``strength`` x log(share of the training titles), from ``support`` (C,), the titles of each category (logit
    adjustment: Menon and others, "Long-tail learning via logit adjustment", 2021). A category without training
    titles counts as if it had one.
    """
    # Why it is right: with the loss -log softmax(f(x) + log p(y)), the best f(x) + log p(y) is log p(y | x) up to a
    # constant, so f(x) alone is log p(x | y): its largest entry is the category that minimises the mean of the
    # categories' error rates, which is what balanced accuracy measures. Hence evaluation leaves the adjustment out.
    # A strength other than 1 scales the prior's part. It costs one addition of (C,) to (B, C) in a training step.
    if strength == 0.0:
        return None
    shares = np.maximum(support, 1) / max(int(support.sum()), 1)
    return torch.from_numpy((strength * np.log(shares)).astype(np.float32)).to(device)


def title_weights(
    settings: TrainingSettings, split: Split, support: NDArray[np.int64], device: torch.device
) -> Tensor | None:
    """The weight of each title of the training split, (N,), 1 on average; None where all weigh the same.

    A category of n titles weighs as 1 / n (balanced) or 1 / sqrt(n) (square_root).
    """
    exponent = {"none": 0.0, "square_root": 0.5, "balanced": 1.0}[settings.class_weights]
    reliability = np.where(split.reliable == 0, settings.unreliable_weight, 1.0)
    weights = reliability * np.maximum(support, 1.0)[split.labels] ** -exponent
    if np.ptp(weights) == 0.0:
        return None
    return torch.from_numpy((weights / weights.mean()).astype(np.float32)).to(device)
