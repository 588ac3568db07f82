"""Accuracy: the share of titles that were rightly classified."""

from __future__ import annotations

from jobs.metrics import Metric, Pass

ORDER = 3


def accuracy(sums: Pass) -> float:
    """Titles rightly classified over all titles: scikit-learn's ``accuracy_score``."""
    return float(sums.correct.sum() / sums.support.sum())


METRIC = Metric(title={"en": "accuracy", "es": "exactitud"}, higher_is_better=True, of_pass=accuracy)
