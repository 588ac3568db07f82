"""Brier score: how far the probabilities of all categories are from the truth, squared; 0 is best, 2 is worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.metrics import Metric, probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORDER = 6


def brier(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each title's sum over categories of (probability - 1 for its own, 0 for others) squared, (B,): Brier 1950."""
    chances = probabilities(logits)
    own = chances[np.arange(len(labels)), labels]
    # (p - 1)^2 = p^2 - 2 p + 1 for the own category: no second array of (B, C).
    scores: NDArray[np.float64] = np.einsum("ij,ij->i", chances, chances) - 2 * own + 1
    return scores


METRIC = Metric(title={"en": "Brier score", "es": "puntuación de Brier"}, higher_is_better=False, of_titles=brier)
