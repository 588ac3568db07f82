"""How well a model does on one split: every metric, from its logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.metrics import Counts, all_metrics
from jobs.metrics.balanced_accuracy import recall
from sharedfs.typed_json import Json

EVALUATION, PREDICTIONS = "evaluation.json", "predictions.npz"  # in the folder of an evaluation
ROWS = 65_536  # logits worked on at once, to bound the memory of what is derived from them


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """``figures`` by metric over N titles and C categories; ``recall`` (C,) is NaN where ``support`` (C,) is 0."""

    figures: Mapping[str, float]
    recall: NDArray[np.float64]
    support: NDArray[np.int64]
    predicted: NDArray[np.int64]

    def per_category(self) -> dict[str, list[Json]]:
        """``recall`` (None where the category has no title) and ``support``, for JSON."""
        return {
            "recall": [None if np.isnan(value) else float(value) for value in self.recall],
            "support": self.support.tolist(),
        }


def of_parts(
    parts: Iterable[tuple[NDArray[np.int64], NDArray[np.floating[Any]], NDArray[np.int64]]],
    *,
    titles: int,
    classes: int,
) -> Scores:
    """Scores from parts (row numbers (B,), logits (B, C), labels (B,)) in any order that covers every title once."""
    return titles_of(parts, titles=titles, classes=classes).scores()


@dataclass(frozen=True, slots=True, kw_only=True)
class TitleScores:
    """What each of N titles adds to the figures, so that those of any of them can be had: (N,) each.

    ``values`` are by metric what it computes of a title, (N, ...).
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    losses: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]
    classes: int

    def scores(self, mask: NDArray[np.bool_] | None = None) -> Scores:
        """The scores of all titles, or of those where the mask is true."""
        chosen = slice(None) if mask is None else mask
        labels, predicted = self.labels[chosen], self.predicted[chosen]
        support = np.bincount(labels, minlength=self.classes)
        correct = np.bincount(labels[labels == predicted], minlength=self.classes)
        counts = Counts(
            support=support,
            correct=correct,
            predicted=np.bincount(predicted, minlength=self.classes),
            loss=float(self.losses[chosen].sum()),
        )
        values = {name: value[chosen] for name, value in self.values.items()}
        return Scores(
            figures={name: metric.value(counts, values.get(name)) for name, metric in all_metrics().items()},
            recall=recall(support, correct),
            support=support,
            predicted=predicted,
        )


def titles_of(
    parts: Iterable[tuple[NDArray[np.int64], NDArray[np.floating[Any]], NDArray[np.int64]]],
    *,
    titles: int,
    classes: int,
) -> TitleScores:
    """What each title adds, from parts as ``of_parts`` takes them."""
    by_title = {name: metric.of_titles for name, metric in all_metrics().items() if metric.of_titles is not None}
    values: dict[str, NDArray[np.float64]] = {}
    predicted = np.empty(titles, np.int64)
    labels = np.empty(titles, np.int64)
    losses = np.empty(titles, np.float64)
    for rows, logits, truth in parts:
        predicted[rows], labels[rows] = logits.argmax(1), truth
        losses[rows] = _losses(logits, truth)
        for name, of_titles in by_title.items():
            of_part = of_titles(logits, truth)
            if name not in values:
                values[name] = np.empty((titles, *of_part.shape[1:]), np.float64)
            values[name][rows] = of_part
    return TitleScores(labels=labels, predicted=predicted, losses=losses, values=values, classes=classes)


def of_logits(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> Scores:
    """Scores from all logits (N, C) and labels (N,) at once."""
    cuts = range(0, len(labels), ROWS)
    rows = np.arange(len(labels))
    parts = ((rows[cut : cut + ROWS], logits[cut : cut + ROWS], labels[cut : cut + ROWS]) for cut in cuts)
    return of_parts(parts, titles=len(labels), classes=logits.shape[1])


def _losses(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy per title, (B,): log(sum of exp(logits)) - own logit, with the sum in float64."""
    # The highest logit is taken off first: the largest exponential is then 1 and none overflows.
    highest = logits.max(1, keepdims=True)
    total = np.exp(logits - highest).sum(1, dtype=np.float64)
    own: NDArray[np.float64] = (logits[np.arange(len(labels)), labels] - highest[:, 0]).astype(np.float64)
    losses: NDArray[np.float64] = np.log(total) - own
    return losses


def most_probable(logits: NDArray[np.floating[Any]], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each title's most probable categories (B, count), the first of equals first, and their softmax probabilities."""
    best = logits.argmax(1)[:, None] if count == 1 else np.argsort(-logits, axis=1, kind="stable")[:, :count]
    highest = logits.max(1, keepdims=True)
    total = np.exp(logits - highest).sum(1, keepdims=True, dtype=np.float64)
    chosen = np.take_along_axis(logits, best, axis=1).astype(np.float64) - highest
    return best, np.exp(chosen) / total
