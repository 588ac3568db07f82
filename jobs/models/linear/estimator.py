"""The linear baseline: TF-IDF of tokens and their n-grams, and for every category a classifier against the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from scipy.special import logsumexp
from sklearn.linear_model import SGDClassifier
from sklearn.svm import LinearSVC

from jobs.models.linear.ngrams import Terms
from jobs.storage import open_plain

if TYPE_CHECKING:
    from jobs.context import Context
    from jobs.data.dataset import Dataset, Split

FILE = "model.npz"
ROWS = 65_536  # titles scored at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A fitted classifier: ``weights`` (F, C), ``bias`` (C,), and the scale that turns decisions into logits."""

    terms: Terms
    weights: np.ndarray
    bias: np.ndarray
    scale: float

    def scores(self, split: Split) -> np.ndarray:
        """Logits (N, C), float32: decision values times ``scale``, so that their softmax is calibrated."""
        parts = [
            self._decide(self.terms.transform(split, start, min(start + ROWS, len(split))))
            for start in range(0, len(split), ROWS)
        ]
        return np.concatenate([np.empty((0, len(self.bias)), np.float32), *parts]) * np.float32(self.scale)

    def _decide(self, features: csr_matrix) -> np.ndarray:
        decisions: np.ndarray = features @ self.weights + self.bias
        return decisions.astype(np.float32, copy=False)

    def save(self, folder: Path) -> tuple[Path, ...]:
        """Write the classifier into a folder, as arrays alone; returns the files."""
        path = folder / FILE
        with path.open("xb") as file:
            arrays = {"weights": self.weights, "bias": self.bias, "scale": np.array(self.scale)}
            np.savez(file, allow_pickle=False, **arrays, **self.terms.arrays())
        return (path,)


def load(folder: Path) -> Linear:
    """The classifier that was saved in a folder; runs no code. Raises OSError or ValueError for a broken file."""
    with open_plain(folder / FILE) as file, np.load(file, allow_pickle=False) as arrays:
        return Linear(
            terms=Terms.of(arrays), weights=arrays["weights"], bias=arrays["bias"], scale=float(arrays["scale"])
        )


def fit(dataset: Dataset, settings: Mapping[str, Any], context: Context | None = None) -> Linear:
    """Fit on the training split; only the scale of the logits is chosen on the validation split.

    The loss of a softmax over ``scale`` x decision values (temperature scaling: Guo and others, 2017) is least on
    the validation titles at that scale; it changes neither predictions nor their order.
    """
    train = dataset.splits["train"]
    terms = Terms.fit(
        train,
        vocabulary=dataset.vocabulary_size,
        longest=settings["ngrams"],
        min_count=settings["min_count"],
        sublinear=settings["sublinear"],
    )
    labels = np.asarray(train.labels, dtype=np.int64)
    if context is not None:
        context.say(f"linear: {len(train)} titles, {terms.size} n-grams, {settings['solver']}")
        context.progress(force=True, phase="fitting", done=0, total=len(train), unit="titles")
    classifier = _classifier(settings)
    classifier.fit(terms.transform(train, 0, len(train)), labels)
    weights, bias = _complete(classifier, classes=len(dataset.classes), features=terms.size)
    fitted = Linear(terms=terms, weights=weights, bias=bias, scale=1.0)
    return Linear(terms=terms, weights=weights, bias=bias, scale=_scale(fitted, dataset.splits["validation"]))


def _classifier(settings: Mapping[str, Any]) -> Any:
    weights = "balanced" if settings["class_weights"] == "balanced" else None
    shared = {"loss": settings["loss"], "max_iter": settings["max_passes"], "random_state": settings["seed"]}
    if settings["solver"] == "liblinear":
        return LinearSVC(C=settings["c"], class_weight=weights, **shared)
    return SGDClassifier(alpha=settings["alpha"], class_weight=weights, **shared)


def _complete(classifier: Any, *, classes: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (F, C) and bias (C,) for every category: two of them share one row, one never seen in training loses."""
    coefficients, intercepts = classifier.coef_, classifier.intercept_
    if len(classifier.classes_) == 2:
        coefficients = np.concatenate([-coefficients, coefficients])
        intercepts = np.concatenate([-intercepts, intercepts])
    weights = np.zeros((features, classes), np.float32)
    bias = np.full(classes, intercepts.min() - 10.0, np.float32)
    weights[:, classifier.classes_] = coefficients.T
    bias[classifier.classes_] = intercepts
    return weights, bias


def _scale(fitted: Linear, split: Split) -> float:
    if len(split) == 0:
        return 1.0
    decisions = fitted.scores(split).astype(np.float64)
    labels = np.asarray(split.labels, dtype=np.int64)

    def loss(log_scale: float) -> float:
        scaled = decisions * np.exp(log_scale)
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 5.0), method="bounded").x))
