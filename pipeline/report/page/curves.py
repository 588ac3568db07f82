"""Numbers for the page's interactive curves: what the script draws, and what it shows at first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.report.groups import Entry
from pipeline.report.i18n import Messages
from pipeline.report.plots import colour
from pipeline.report.plots.curves import PANELS, SHOWN, entry_lines

DIGITS = 4


def of_entries(entries: Iterable[Entry], messages: Messages) -> dict[str, Any] | None:
    """All runs of a group: name, colour, whether it is shown at first, and its series; None without an epoch."""
    runs: list[dict[str, Any]] = []
    for entry in entries:
        lines = entry_lines(entry)
        if lines:
            runs.append(
                {
                    "name": entry.run,
                    "colour": colour(entry.position),
                    "series": {
                        metric: [line.epochs.tolist(), np.round(line.mean, DIGITS).tolist()]
                        for metric, line in lines.items()
                    },
                }
            )
    if not runs:
        return None
    for place in _best(runs):
        runs[place]["shown"] = True
    return {"runs": runs, "panels": panels(messages), "words": _words(messages)}


def panels(messages: Messages) -> list[dict[str, Any]]:
    """The two drawings: title, and the metric of each part, validation first and so drawn on top."""
    return [
        {
            "title": messages(title),
            "parts": [
                {"name": messages(part), "metric": metric, "dashed": part == "training"}
                for part, metric in metrics.items()
            ],
        }
        for title, metrics in PANELS.items()
    ]


def _best(runs: list[dict[str, Any]]) -> list[int]:
    def score(place: int) -> float:
        series = runs[place]["series"].get("validation_balanced_accuracy")
        return max(series[1]) if series else -1.0

    return sorted(range(len(runs)), key=lambda place: (-score(place), place))[:SHOWN]


def _words(messages: Messages) -> dict[str, str]:
    return {
        "epoch": messages("epoch"),
        "showAll": messages("show all"),
        "hideAll": messages("hide all"),
        "toggle": messages("show or hide", run="{run}"),
    }
