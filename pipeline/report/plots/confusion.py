"""What is taken for what: wrong answers counted by category, and a picture of the most confused ones.

The picture is of the run of a group that validation would choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.report.collect import Collected
from pipeline.report.files import file_name
from pipeline.report.groups import Group, choose
from pipeline.report.i18n import Messages
from pipeline.report.plots import new_figure, short
from pipeline.report.records import Predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDER = 3
SCOPE = "group"
CATEGORIES = 12
CATEGORY_LABEL = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """``count`` titles of category ``true`` (indices), ``share`` of all its titles, were taken for ``predicted``."""

    true: int
    predicted: int
    count: int
    share: float


def most_frequent(predictions: Predictions, classes: int, most: int) -> list[Confusion]:
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
            true=code // classes, predicted=code % classes, count=count, share=float(count / support[code // classes])
        )
        for code, count in zip(codes[order].tolist(), counts[order].tolist(), strict=True)
    ]


def most_confused(predictions: Predictions, classes: int, most: int) -> np.ndarray:
    """Up to ``most`` categories of the most frequent confusions, so that each has its counterpart beside it."""
    chosen: dict[int, None] = {}
    for pair in most_frequent(predictions, classes, most * most):
        if len({*chosen, pair.true, pair.predicted}) > most:
            continue
        chosen |= {pair.true: None, pair.predicted: None}
    return np.array(list(chosen), dtype=np.int64)


def shares_among(predictions: Predictions, chosen: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares (K, K) of each true category's titles, and counts (K, K), among the chosen categories."""
    position = np.full(classes, -1)
    position[chosen] = np.arange(len(chosen))
    rows, columns = position[predictions.label], position[predictions.predicted]
    inside = (rows >= 0) & (columns >= 0)
    counts = np.zeros((len(chosen), len(chosen)), dtype=np.int64)
    np.add.at(counts, (rows[inside], columns[inside]), 1)
    support = np.bincount(predictions.label.astype(np.int64), minlength=classes)[chosen]
    return counts / np.maximum(support, 1)[:, None], counts


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionMatrix:
    """``shares`` (K, K): rows are true categories, columns predicted ones."""

    name: str
    run: str
    classes: tuple[str, ...]
    shares: np.ndarray
    counts: np.ndarray


def build(group: Group, collected: Collected, _messages: Messages) -> list[ConfusionMatrix]:
    entry = choose(group.entries)
    if entry is None:
        return []
    result = entry.done[0]
    predictions, classes = collected.predictions(result, "test"), collected.classes(result)
    if predictions is None or not classes:
        return []
    chosen = most_confused(predictions, len(classes), CATEGORIES)
    if not len(chosen):
        return []
    shares, counts = shares_among(predictions, chosen, len(classes))
    return [
        ConfusionMatrix(
            name=f"{file_name(group.name)}-confusion",
            run=entry.label,
            classes=tuple(classes[index] for index in chosen),
            shares=shares,
            counts=counts,
        )
    ]


def draw(matrix: ConfusionMatrix, messages: Messages) -> Figure:
    size = len(matrix.classes)
    figure = new_figure(3.6 + 0.42 * size, 2.6 + 0.36 * size)
    axes = figure.subplots()
    axes.grid(visible=False)
    image = axes.imshow(matrix.shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    names = [short(name, CATEGORY_LABEL) for name in matrix.classes]
    axes.set_xticks(range(size), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(size), names, fontsize=7)
    for row in range(size):
        for column in range(size):
            if matrix.counts[row, column]:
                dark = matrix.shares[row, column] > 0.55
                axes.text(
                    column,
                    row,
                    str(matrix.counts[row, column]),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "black",
                )
    axes.set_xlabel(messages("predicted category"))
    axes.set_ylabel(messages("true category"))
    axes.set_title(messages("confusion title", run=short(matrix.run)))
    figure.colorbar(image, ax=axes, label=messages("share of titles"), shrink=0.8)
    return figure
