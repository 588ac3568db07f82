"""The temperature at which a model's probabilities are those of its validation titles, and what it makes of the test.

Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017: logits are divided by one number, which changes no
answer. Losses of models that were trained by different losses are comparable only then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.metrics.brier import brier
from jobs.metrics.calibration_error import Reliability, answers_of, reliability
from jobs.training.metrics import losses_of
from jobs.training.run import Part
from sharedfs.typed_json import Json

# One number is fitted: more titles would cost memory (titles x categories) and change its third digit.
MOST_TITLES = 10_000
BOUNDS = (-3.0, 3.0)  # of the temperature's logarithm: 0.05 to 20


class Calibration:
    """What is noted of a run's logits as they pass by: validation's first, by which the temperature is fitted."""

    def __init__(self) -> None:
        self._temperature = 1.0
        self._test: _AtTemperature | None = None

    def seen(self, split: str, parts: Iterable[Part], *, titles: int) -> Iterator[Part]:
        """The same parts."""
        if split == "validation":
            sample = Sample(titles=titles)
            yield from sample.seen(parts)
            self._temperature = sample.temperature()
        else:
            self._test = _AtTemperature(titles=titles, temperature=self._temperature)
            yield from self._test.seen(parts)

    def result(self) -> dict[str, Json]:
        """What is in the record: the temperature, and the test figures at it."""
        assert self._test is not None
        figures = {f"test_calibrated_{name}": value for name, value in self._test.figures().items()}
        return {"temperature": self._temperature, **figures}

    def document(self) -> dict[str, Json]:
        """What is in evaluation.json: the same, and the reliability diagrams of the test titles."""
        assert self._test is not None
        return {"temperature": self._temperature, "at_temperature": self._test.figures(), "test": self._test.diagrams()}


class Sample:
    """The logits of validation titles, evenly spaced, at most so many of them; noted as parts pass by."""

    def __init__(self, *, titles: int) -> None:
        self._every = max(1, math.ceil(titles / MOST_TITLES))
        self._logits: list[NDArray[np.floating[Any]]] = []
        self._labels: list[NDArray[np.int64]] = []
        self._rows: list[NDArray[np.int64]] = []

    def seen(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The same parts."""
        for rows, logits, labels in parts:
            chosen = rows % self._every == 0
            self._rows.append(rows[chosen])
            self._logits.append(logits[chosen])
            self._labels.append(labels[chosen])
            yield rows, logits, labels

    @property
    def logits(self) -> NDArray[np.floating[Any]]:
        """Of those titles, (N, C), in the split's order, whatever the parts': sums do not depend on a batch's size."""
        return np.concatenate(self._logits)[self._order]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of those titles, (N,)."""
        return np.concatenate(self._labels)[self._order]

    @property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(np.concatenate(self._rows))

    def temperature(self) -> float:
        """What these logits are divided by for the smallest loss; 1 where there is no title or no such number."""
        from scipy.optimize import minimize_scalar

        if sum(map(len, self._rows)) == 0:
            return 1.0
        logits, labels = self.logits, self.labels

        def loss(log_temperature: float) -> float:
            return float(losses_of(logits * np.float32(math.exp(-log_temperature)), labels).mean())

        with np.errstate(over="ignore", invalid="ignore"):
            found = float(np.exp(minimize_scalar(loss, bounds=BOUNDS, method="bounded").x))
        return found if math.isfinite(found) else 1.0


class _AtTemperature:
    """A split's titles at a temperature, beside those as trained; noted as parts pass by."""

    def __init__(self, *, titles: int, temperature: float) -> None:
        self._temperature = temperature
        self._as_trained = np.empty((titles, 2))
        self._at = np.empty((titles, 2))
        self._losses = np.empty(titles)
        self._brier = np.empty(titles)

    def seen(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The same parts."""
        for rows, logits, labels in parts:
            self._as_trained[rows] = answers_of(logits, labels)
            scaled = logits / np.float32(self._temperature)
            self._at[rows] = answers_of(scaled, labels)
            self._losses[rows], self._brier[rows] = losses_of(scaled, labels), brier(scaled, labels)
            yield rows, logits, labels

    def figures(self) -> dict[str, Json]:
        """Loss, Brier score and calibration error at the temperature."""
        return {
            "loss": float(self._losses.mean()),
            "brier": float(self._brier.mean()),
            "calibration_error": reliability(self._at).error,
        }

    def diagrams(self) -> dict[str, Json]:
        """The reliability diagrams, as trained and at the temperature, for JSON."""
        return {"as_trained": _json(reliability(self._as_trained)), "at_temperature": _json(reliability(self._at))}


def _json(diagram: Reliability) -> dict[str, Json]:
    return {
        "titles": diagram.titles.tolist(),
        "confidence": [None if math.isnan(value) else round(value, 4) for value in diagram.confidence.tolist()],
        "accuracy": [None if math.isnan(value) else round(value, 4) for value in diagram.accuracy.tolist()],
    }
