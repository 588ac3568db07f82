"""What is taken for what: counts of wrong answers between categories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.report.records import Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """``count`` titles of category ``true`` (indices), ``share`` of all its titles, were taken for ``predicted``."""

    true: int
    predicted: int
    count: int
    share: float


def pairs(predictions: Predictions, classes: int, most: int) -> list[Confusion]:
    """The most frequent confusions, most titles first; ties by the categories' order."""
    label = predictions.label.astype(np.int64)
    wrong = predictions.predicted != predictions.label
    support = np.bincount(label, minlength=classes)
    codes, counts = np.unique(
        label[wrong] * classes + predictions.predicted[wrong].astype(np.int64), return_counts=True
    )
    order = np.lexsort((codes, -counts))[:most]
    return [
        Confusion(
            true=int(codes[place]) // classes,
            predicted=int(codes[place]) % classes,
            count=int(counts[place]),
            share=float(counts[place] / support[codes[place] // classes]),
        )
        for place in order
    ]


def most_confused(predictions: Predictions, classes: int, most: int) -> np.ndarray:
    """Up to ``most`` categories of the most frequent confusions, so that each has its counterpart beside it."""
    chosen: dict[int, None] = {}
    for pair in pairs(predictions, classes, most * most):
        if len({*chosen, pair.true, pair.predicted}) > most:
            continue
        chosen |= {pair.true: None, pair.predicted: None}
    return np.array(list(chosen), dtype=np.int64)


def shares(predictions: Predictions, chosen: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares (K, K) of each true category's titles, and counts (K, K), among the chosen categories."""
    place = np.full(classes, -1)
    place[chosen] = np.arange(len(chosen))
    rows, columns = place[predictions.label], place[predictions.predicted]
    inside = (rows >= 0) & (columns >= 0)
    counts = np.zeros((len(chosen), len(chosen)), dtype=np.int64)
    np.add.at(counts, (rows[inside], columns[inside]), 1)
    support = np.bincount(predictions.label.astype(np.int64), minlength=classes)[chosen]
    return counts / np.maximum(support, 1)[:, None], counts
