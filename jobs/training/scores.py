"""How well a trained model does on one split: every figure of the evaluation, from logits or from a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.training import metrics

TOP = 5
ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Figures over N titles and C categories; ``recall`` (C,) is NaN where ``support`` (C,) is 0."""

    loss: float
    balanced_accuracy: float
    accuracy: float
    macro_f1: float
    top5: float
    recall: NDArray[np.float64]
    support: NDArray[np.int64]
    predicted: NDArray[np.int64]

    def figures(self) -> dict[str, float]:
        """The five figures by name."""
        return {
            "loss": self.loss,
            "balanced_accuracy": self.balanced_accuracy,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "top5": self.top5,
        }

    def per_category(self) -> dict[str, list[Any]]:
        """``recall`` (None where the category has no title) and ``support``, for JSON."""
        return {
            "recall": [None if np.isnan(value) else float(value) for value in self.recall],
            "support": self.support.tolist(),
        }


def of_parts(
    parts: Iterable[tuple[NDArray[np.int64], NDArray[np.floating[Any]], NDArray[np.int64]]],
    *,
    titles: int,
    classes: int,
) -> Scores:
    """Scores from (row numbers, logits (B, C), labels (B,)) in any order that covers every title once."""
    predicted = np.empty(titles, np.int64)
    labels = np.empty(titles, np.int64)
    losses = np.empty(titles, np.float64)
    top = 0
    for rows, logits, truth in parts:
        predicted[rows], labels[rows] = logits.argmax(1), truth
        losses[rows] = _losses(logits, truth)
        top += _within(logits, truth, min(TOP, classes))
    counts = metrics.count(labels, predicted, classes)
    return Scores(
        loss=float(losses.mean()),
        balanced_accuracy=metrics.balanced_accuracy(counts.support, counts.correct),
        accuracy=metrics.accuracy(counts.support, counts.correct),
        macro_f1=metrics.macro_f1(counts),
        top5=top / titles,
        recall=metrics.recall(counts.support, counts.correct),
        support=counts.support,
        predicted=predicted,
    )


def of_logits(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> Scores:
    """Scores from all logits (N, C) and labels (N,) at once."""
    cuts = range(0, len(labels), ROWS)
    rows = np.arange(len(labels))
    parts = ((rows[cut : cut + ROWS], logits[cut : cut + ROWS], labels[cut : cut + ROWS]) for cut in cuts)
    return of_parts(parts, titles=len(labels), classes=logits.shape[1])


def _losses(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy per title, (B,), summed in float64."""
    highest = logits.max(1, keepdims=True)
    total = np.exp(logits - highest).sum(1, dtype=np.float64)
    own: NDArray[np.float64] = (logits[np.arange(len(labels)), labels] - highest[:, 0]).astype(np.float64)
    losses: NDArray[np.float64] = np.log(total) - own
    return losses


def _within(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], top: int) -> int:
    """How many titles have their own category among the ``top`` highest; of equals the first counts as higher."""
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    above = (logits > own).sum(1) + ((logits == own) & earlier).sum(1)
    return int((above < top).sum())
