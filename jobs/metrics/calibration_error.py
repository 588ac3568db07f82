"""Calibration error: how far a model's confidence in its answers is from how often they are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.metrics import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORDER = 7
BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Titles by confidence, in bins of equal width over 0..1: a reliability diagram.

    ``titles`` (BINS,) are how many; ``confidence`` and ``accuracy`` (BINS,) their means, NaN in a bin without titles.
    """

    titles: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: |accuracy - confidence|, averaged over titles (Guo et al. 2017)."""
        return float(np.nansum(self.titles * np.abs(self.accuracy - self.confidence)) / self.titles.sum())


def reliability(answers: NDArray[np.float64]) -> Reliability:
    """The diagram of answers (N, 2): the confidence in each, and 1 where it is right."""
    confidence, right = answers.T
    # (0, 1/15], (1/15, 2/15], ..: a confidence of 1 is in the last.
    places = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    titles = np.bincount(places, minlength=BINS)
    of_bin = np.where(titles > 0, titles, np.nan)
    return Reliability(
        titles=titles,
        confidence=np.bincount(places, weights=confidence, minlength=BINS) / of_bin,
        accuracy=np.bincount(places, weights=right, minlength=BINS) / of_bin,
    )


def answers_of(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The probability of each title's likeliest category, and whether that is its own, (B, 2)."""
    highest = logits.max(1, keepdims=True)
    confidence = 1 / np.exp(logits - highest).sum(1, dtype=np.float64)
    return np.column_stack((confidence, logits.argmax(1) == labels))


def calibration_error(answers: NDArray[np.float64]) -> float:
    """The expected calibration error of answers (N, 2)."""
    return reliability(answers).error


METRIC = Metric(
    title={"en": "calibration error", "es": "error de calibración"},
    higher_is_better=False,
    of_titles=answers_of,
    over_titles=calibration_error,
)
