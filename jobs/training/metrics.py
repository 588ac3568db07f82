"""Metrics from counts and logits: balanced accuracy, accuracy, macro F1, recalls, loss, top 5."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedfs.typed_json import Json

EVALUATION, PREDICTIONS = "evaluation.json", "predictions.npz"  # in the folder of an evaluation
TOP = 5
ROWS = 65_536  # logits worked on at once, to bound the memory of what is derived from them
FIGURES = ("loss", "balanced_accuracy", "accuracy", "macro_f1", "top5")


# Figures of a classifier from counts for each category, (C,) int64: ``support`` titles are of it, ``predicted`` were
# predicted to be, ``correct`` are both. NumPy and no torch; tested against scikit-learn.


def recall(support: NDArray[np.int64], correct: NDArray[np.int64]) -> NDArray[np.float64]:
    """Recall per category (C,), NaN where no title has it."""
    with np.errstate(invalid="ignore"):
        return correct / np.where(support > 0, support, np.nan)


def balanced_accuracy(support: NDArray[np.int64], correct: NDArray[np.int64]) -> float:
    """Mean recall over the categories that have titles: scikit-learn's ``balanced_accuracy_score``."""
    return mean_recall(recall(support, correct))


def mean_recall(recalls: NDArray[np.float64]) -> float:
    """Balanced accuracy from recalls (C,), of which those of categories without titles are NaN."""
    return float(np.mean(recalls[np.isfinite(recalls)]))


def accuracy(support: NDArray[np.int64], correct: NDArray[np.int64]) -> float:
    """The share of titles that were rightly classified."""
    return float(correct.sum() / support.sum())


def macro_f1(support: NDArray[np.int64], predicted: NDArray[np.int64], correct: NDArray[np.int64]) -> float:
    """Mean F1 over the categories in labels or predictions: ``f1_score(average="macro")``, 0 where undefined."""
    # F1 = 2 TP / (2 TP + FP + FN), and the denominator is the titles of a category plus those predicted to be of it.
    total = support + predicted
    return float(np.mean(2 * correct[total > 0] / total[total > 0]))


# How well a trained model does on one split: every figure of the evaluation, from logits or from a model.


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
        """The ``FIGURES`` by name."""
        return {name: getattr(self, name) for name in FIGURES}

    def per_category(self) -> dict[str, list[Json]]:
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
    """Scores from parts (row numbers (B,), logits (B, C), labels (B,)) in any order that covers every title once."""
    predicted = np.empty(titles, np.int64)
    labels = np.empty(titles, np.int64)
    losses = np.empty(titles, np.float64)
    top = 0
    for rows, logits, truth in parts:
        predicted[rows], labels[rows] = logits.argmax(1), truth
        losses[rows] = _losses(logits, truth)
        top += _count_in_top(logits, truth, min(TOP, classes))
    support = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[labels == predicted], minlength=classes)
    return Scores(
        loss=float(losses.mean()),
        balanced_accuracy=balanced_accuracy(support, correct),
        accuracy=accuracy(support, correct),
        macro_f1=macro_f1(support, np.bincount(predicted, minlength=classes), correct),
        top5=top / titles,
        recall=recall(support, correct),
        support=support,
        predicted=predicted,
    )


def of_logits(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> Scores:
    """Scores from all logits (N, C) and labels (N,) at once."""
    cuts = range(0, len(labels), ROWS)
    rows = np.arange(len(labels))
    parts = ((rows[cut : cut + ROWS], logits[cut : cut + ROWS], labels[cut : cut + ROWS]) for cut in cuts)
    return of_parts(parts, titles=len(labels), classes=logits.shape[1])


def _losses(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy per title, (B,): log(sum of exp(logits)) - own logit, with the sum in float64."""
    # The highest logit is taken off first: the largest exponential is then 1 and none overflows.
    highest = logits.max(1, keepdims=True)
    total = np.exp(logits - highest).sum(1, dtype=np.float64)
    own: NDArray[np.float64] = (logits[np.arange(len(labels)), labels] - highest[:, 0]).astype(np.float64)
    losses: NDArray[np.float64] = np.log(total) - own
    return losses


def _count_in_top(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], top: int) -> int:
    """How many titles have their own category among the ``top`` highest; of equals the first counts as higher."""
    # Counts what ranks above the own category instead of sorting: B x C comparisons.
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    above = (logits > own).sum(1) + ((logits == own) & earlier).sum(1)
    return int((above < top).sum())
