"""Balanced accuracy, the figure that selects: the mean of the categories' recalls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jobs.metrics import Metric, Pass

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORDER = 2


def recall(support: NDArray[np.int64], correct: NDArray[np.int64]) -> NDArray[np.float64]:
    """Recall per category (C,), NaN where no title has it."""
    with np.errstate(invalid="ignore"):
        return correct / np.where(support > 0, support, np.nan)


def mean_recall(recalls: NDArray[np.float64]) -> float:
    """Balanced accuracy from recalls (C,), of which those of categories without titles are NaN."""
    return float(np.mean(recalls[np.isfinite(recalls)]))


def balanced_accuracy(sums: Pass) -> float:
    """Mean recall over the categories that have titles: scikit-learn's ``balanced_accuracy_score``."""
    return mean_recall(recall(sums.support, sums.correct))


METRIC = Metric(
    title={"en": "balanced accuracy", "es": "exactitud balanceada"}, higher_is_better=True, of_pass=balanced_accuracy
)
