"""Confusions among the most confused categories, for the run of a group that validation would choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.report import confusion
from pipeline.report.collect import Collected
from pipeline.report.files import file_name
from pipeline.report.groups import Group, best
from pipeline.report.i18n import Messages
from pipeline.report.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDER = 3
SCOPE = "group"
CATEGORIES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Confused:
    """``shares`` (K, K): rows are true categories, columns predicted ones."""

    name: str
    run: str
    classes: tuple[str, ...]
    shares: np.ndarray
    counts: np.ndarray


def build(group: Group, collected: Collected, _messages: Messages) -> list[Confused]:
    entry = best(group.entries, "validation_balanced_accuracy")
    if entry is None:
        return []
    result = entry.done[0]
    predictions, classes = collected.predictions(result, "test"), collected.classes(result)
    if predictions is None or not classes:
        return []
    chosen = confusion.most_confused(predictions, len(classes), CATEGORIES)
    if not len(chosen):
        return []
    shares, counts = confusion.shares(predictions, chosen, len(classes))
    return [
        Confused(
            name=f"{file_name(group.name)}-confusion",
            run=entry.label,
            classes=tuple(classes[place] for place in chosen),
            shares=shares,
            counts=counts,
        )
    ]


def draw(confused: Confused, messages: Messages) -> Figure:
    size = len(confused.classes)
    figure = new_figure(3.6 + 0.42 * size, 2.6 + 0.36 * size)
    axes = figure.subplots()
    axes.grid(visible=False)
    image = axes.imshow(confused.shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    names = [short(name) for name in confused.classes]
    axes.set_xticks(range(size), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(size), names, fontsize=7)
    for row in range(size):
        for column in range(size):
            if confused.counts[row, column]:
                dark = confused.shares[row, column] > 0.55
                axes.text(
                    column,
                    row,
                    str(confused.counts[row, column]),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "black",
                )
    axes.set_xlabel(messages("predicted category"))
    axes.set_ylabel(messages("true category"))
    axes.set_title(messages("confusion title", run=confused.run))
    figure.colorbar(image, ax=axes, label=messages("share of titles"), shrink=0.8)
    return figure


def short(name: str, most: int = 28) -> str:
    """A category's name cut in the middle, where it tells least."""
    if len(name) <= most:
        return name
    half = (most - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
