"""Macro F1: the mean of the categories' F1."""

from __future__ import annotations

import numpy as np

from jobs.metrics import Counts, Metric

ORDER = 4


def macro_f1(counts: Counts) -> float:
    """Mean F1 over the categories in labels or predictions: ``f1_score(average="macro")``, 0 where undefined."""
    # F1 = 2 TP / (2 TP + FP + FN), and the denominator is the titles of a category plus those predicted to be of it.
    total = counts.support + counts.predicted
    return float(np.mean(2 * counts.correct[total > 0] / total[total > 0]))


METRIC = Metric(title={"en": "macro F1", "es": "F1 macro"}, higher_is_better=True, of_counts=macro_f1)
