"""Figures of a classifier from counts alone; numpy and no torch, tested against scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Per category, each (C,) int64: titles of it, titles taken for it, and titles rightly taken for it."""

    support: NDArray[np.int64]
    predicted: NDArray[np.int64]
    correct: NDArray[np.int64]


def count(labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Counts:
    """Count (N,) labels and predictions, both positions in the list of categories."""
    return Counts(
        support=np.bincount(labels, minlength=classes),
        predicted=np.bincount(predicted, minlength=classes),
        correct=np.bincount(labels[labels == predicted], minlength=classes),
    )


def recall(support: NDArray[np.int64], correct: NDArray[np.int64]) -> NDArray[np.float64]:
    """Recall per category (C,), NaN where no title has it."""
    with np.errstate(invalid="ignore"):
        return correct / np.where(support > 0, support, np.nan)


def balanced_accuracy(support: NDArray[np.int64], correct: NDArray[np.int64]) -> float:
    """Mean recall over the categories that have titles: scikit-learn's ``balanced_accuracy_score``."""
    present = support > 0
    return float(np.mean(correct[present] / support[present]))


def accuracy(support: NDArray[np.int64], correct: NDArray[np.int64]) -> float:
    """The share of titles that were rightly classified."""
    return float(correct.sum() / support.sum())


def macro_f1(counts: Counts) -> float:
    """Mean F1 over the categories in labels or predictions: ``f1_score(average="macro")``, 0 where undefined."""
    named = counts.support + counts.predicted
    return float(np.mean(2 * counts.correct[named > 0] / named[named > 0]))
