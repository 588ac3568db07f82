"""Loss and balanced accuracy per epoch, training and validation, of every run: a picture, and the page's drawing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

import numpy as np

from jobs import metrics_log
from jobs.metrics_log import EpochMetrics
from pipeline.report.collect import Collected
from pipeline.report.files import file_name
from pipeline.report.groups import Entry, Group
from pipeline.report.i18n import Messages
from pipeline.report.plots import COLOURED, GREY, colour, coloured, marker, new_figure, plain_numbers, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORDER = 1
SCOPE = "group"
PANELS = {
    "loss": {"training": "train_loss", "validation": "validation_loss"},
    "balanced accuracy": {"training": "train_balanced_accuracy", "validation": "validation_balanced_accuracy"},
}
PAGE_DECIMALS = 4
DASHES: Mapping[str, tuple[int, tuple[int, int]] | Literal["solid"]] = {"training": (0, (4, 2)), "validation": "solid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve over epochs (E,): the mean over seeds, and the lowest and highest seed."""

    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurves:
    """A run's curves by metric name."""

    run: str
    position: int
    shown: bool
    lines: Mapping[str, Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    name: str
    group: str
    runs: tuple[RunCurves, ...]


def build(group: Group, _collected: Collected, _messages: Messages) -> list[Curves]:
    """Nothing as long as no epoch is finished."""
    entries = [entry for entry in group.entries if any(result.epochs for result in entry.results)]
    if not entries:
        return []
    shown = coloured({entry.position: _score(entry) for entry in entries})
    runs = tuple(
        RunCurves(run=entry.run, position=entry.position, shown=entry.position in shown, lines=entry_lines(entry))
        for entry in entries
    )
    return [Curves(name=f"{file_name(group.name)}-curves", group=group.name, runs=runs)]


def entry_lines(entry: Entry) -> dict[str, Line]:
    """All curves of a run over its seeds."""
    lines = {}
    for metrics in PANELS.values():
        for metric in metrics.values():
            line = _line([result.epochs for result in entry.results], metric)
            if line is not None:
                lines[metric] = line
    return lines


def _line(logs: Iterable[Iterable[EpochMetrics]], metric: str) -> Line | None:
    by_epoch: dict[int, list[float]] = {}
    for epochs in logs:
        for line in epochs:
            value = metrics_log.figure(line, metric)
            if isinstance(value, int | float) and np.isfinite(value):
                by_epoch.setdefault(line["epoch"], []).append(float(value))
    if not by_epoch:
        return None
    order = sorted(by_epoch)
    return Line(
        epochs=np.array(order),
        mean=np.array([np.mean(by_epoch[epoch]) for epoch in order]),
        low=np.array([min(by_epoch[epoch]) for epoch in order]),
        high=np.array([max(by_epoch[epoch]) for epoch in order]),
    )


def _score(entry: Entry) -> float:
    values = [line.get("validation_balanced_accuracy") for result in entry.results for line in result.epochs]
    return max((float(value) for value in values if isinstance(value, int | float)), default=-1.0)


def draw(curves: Curves, messages: Messages) -> Figure:
    figure = new_figure(9.6, 3.9)
    figure.suptitle(messages("curves title", group=curves.group))
    for axes, (panel, metrics) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        for run in curves.runs:
            for part, metric in metrics.items():
                if metric in run.lines:
                    _draw_line(axes, run, part, run.lines[metric])
        _finish(axes, panel, messages)
    figure.legend(*_legend(curves, messages), loc="outside right upper", fontsize=8)
    return figure


def _draw_line(axes: Axes, run: RunCurves, part: str, line: Line) -> None:
    dashes, tint = DASHES[part], colour(run.position)
    if not run.shown:
        axes.plot(line.epochs, line.mean, linestyle=dashes, color=GREY, linewidth=0.6, alpha=0.5, zorder=2.0)
        return
    mark = marker(run.position) if len(line.epochs) <= 12 or run.position >= 12 else ""
    axes.plot(
        line.epochs, line.mean, linestyle=dashes, marker=mark, markersize=3.2, color=tint, linewidth=1.6, zorder=3
    )
    if part == "validation" and (line.high > line.low).any():
        axes.fill_between(line.epochs, line.low, line.high, color=tint, alpha=0.15, linewidth=0)


def _finish(axes: Axes, panel: str, messages: Messages) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(messages("epoch"))
    axes.set_ylabel(messages(panel))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if panel == "loss":
        # One diverging run must not flatten all others: the axis is logarithmic where they lie far apart.
        low, high = axes.get_ylim()
        data = [value for line in axes.get_lines() for value in np.asarray(line.get_ydata(), dtype=float)]
        if min(data, default=0) > 0 and max(data) / min(data) > 50:
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
        else:
            axes.set_ylim(max(0.0, low) if low > 0 else low, high)
    else:
        axes.set_ylim(bottom=0.0)


def _legend(curves: Curves, messages: Messages) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    handles: list[Any] = []
    labels: list[str] = []
    for run in curves.runs:
        if run.shown:
            handles.append(Line2D([], [], color=colour(run.position), marker=marker(run.position), markersize=4))
            labels.append(short(run.run))
    others = sum(not run.shown for run in curves.runs)
    if others:
        handles.append(Line2D([], [], color=GREY, linewidth=0.8))
        labels.append(messages("other runs", count=others))
    for part, dashes in DASHES.items():
        handles.append(Line2D([], [], color="black", linestyle=dashes, linewidth=1.2))
        labels.append(messages(part))
    return handles, labels


# The same numbers for the page's script, which draws them so that runs can be shown and hidden.


class PageRun(TypedDict):
    """One run's curves: epochs and values by metric; ``shown`` from the start or, where it is missing, when asked."""

    name: str
    colour: str
    series: Mapping[str, tuple[list[int], list[float]]]
    shown: NotRequired[bool]


class PagePart(TypedDict):
    """A metric that a panel draws."""

    name: str
    metric: str
    dashed: bool


class PagePanel(TypedDict):
    title: str
    parts: list[PagePart]


class PageCurves(TypedDict):
    """What the page's script draws; ``labels`` are its words."""

    runs: list[PageRun]
    panels: list[PagePanel]
    labels: Mapping[str, str]


def interactive_curves(entries: Iterable[Entry], messages: Messages) -> PageCurves | None:
    """All runs of a group; None without an epoch."""
    runs: list[PageRun] = []
    for entry in entries:
        lines = entry_lines(entry)
        if lines:
            runs.append(
                {
                    "name": entry.run,
                    "colour": colour(entry.position),
                    "series": {
                        metric: (line.epochs.tolist(), np.round(line.mean, PAGE_DECIMALS).tolist())
                        for metric, line in lines.items()
                    },
                }
            )
    if not runs:
        return None
    for index in _best_runs(runs):
        runs[index]["shown"] = True
    return {"runs": runs, "panels": _panels(messages), "labels": _labels(messages)}


def _panels(messages: Messages) -> list[PagePanel]:
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


def _best_runs(runs: Sequence[PageRun]) -> list[int]:
    def score(index: int) -> float:
        series = runs[index]["series"].get("validation_balanced_accuracy")
        return max(series[1]) if series else -1.0

    return sorted(range(len(runs)), key=lambda index: (-score(index), index))[:COLOURED]


def _labels(messages: Messages) -> dict[str, str]:
    return {
        "epoch": messages("epoch"),
        "showAll": messages("show all"),
        "hideAll": messages("hide all"),
        "toggle": messages("show or hide", run="{run}"),
    }
