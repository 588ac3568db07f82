"""Top 5: the share of titles whose category is among the five that the model holds likeliest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.metrics import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORDER = 5
TOP = 5


def in_top(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each title's own category is among the highest, (B,); of equals the first counts as higher."""
    # Counts what ranks above the own category instead of sorting: B x C comparisons.
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    above = (logits > own).sum(1) + ((logits == own) & earlier).sum(1)
    among: NDArray[np.bool_] = above < TOP
    return among


METRIC = Metric(title="top-5", higher_is_better=True, of_titles=in_top)
