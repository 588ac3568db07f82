"""Cross-entropy, averaged over titles."""

from __future__ import annotations

from jobs.metrics import Metric, Pass

ORDER = 1


def loss(sums: Pass) -> float:
    """The mean over titles."""
    return sums.loss / sums.titles


METRIC = Metric(title={"en": "loss", "es": "pérdida"}, higher_is_better=False, of_pass=loss)
