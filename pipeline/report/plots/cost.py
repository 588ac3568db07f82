"""Score against GPU-hours, or against training time where no GPU was used: is the best worth its price?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report.collect import Collected
from pipeline.report.groups import Entry, Group, make_groups
from pipeline.report.i18n import Messages
from pipeline.report.plots import colour, marker, new_figure, plain_numbers, short
from pipeline.report.significance import by_titles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDER = 4
SCOPE = "manifest"
NAMED = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A run's mean test balanced accuracy and its mean cost, over seeds, in GPU-hours or in seconds."""

    label: str
    position: int
    cost: float
    score: float
    named: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    name: str
    gpu: bool
    points: tuple[Point, ...]


def build(_group: Group | None, collected: Collected, _messages: Messages) -> list[Costs]:
    entries = [entry for group in make_groups(collected) for entry in group.entries if entry.done]
    sets = by_titles(collected, entries).values()
    names = [f"cost-{number}" if number else "cost" for number in range(len(sets))]
    plots = zip(names, sets, strict=True)
    return [found for name, members in plots if (found := _of_titles(name, members)) is not None]


def _of_titles(name: str, entries: Sequence[Entry]) -> Costs | None:
    """The plot of the entries that were judged on the same titles."""
    gpu = any(entry.gpu_hours() for entry in entries)
    costs = []
    for entry in entries:
        cost = entry.gpu_hours() if gpu else entry.mean("train_seconds")
        score = entry.mean("test_balanced_accuracy")
        if cost and score is not None:
            costs.append((entry, cost, score))
    ranked = sorted(costs, key=lambda item: -item[2])[:NAMED]
    named = {entry.position for entry, _, _ in ranked}
    points = tuple(
        Point(label=entry.label, position=entry.position, cost=cost, score=score, named=entry.position in named)
        for entry, cost, score in costs
    )
    return Costs(name=name, gpu=gpu, points=points) if points else None


def draw(costs: Costs, messages: Messages) -> Figure:
    figure = new_figure(7.8, 4.6)
    axes = figure.subplots()
    # Given to the legend by themselves: it leaves out artists whose label begins with _, as a group's name may.
    handles, labels = [], []
    for point in costs.points:
        size, alpha = (42, 1.0) if point.named else (14, 0.5)
        dot = axes.scatter(
            point.cost,
            point.score,
            s=size,
            alpha=alpha,
            color=colour(point.position),
            marker=marker(point.position),
            linewidths=0,
            clip_on=False,  # a score of 0 is whole
        )
        if point.named:
            handles.append(dot)
            labels.append(short(point.label))
    values = [point.cost for point in costs.points]
    if max(values) > 100 * min(values):
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
    else:
        axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(messages("GPU-hours" if costs.gpu else "training time"))
    axes.set_ylabel(messages("test_balanced_accuracy"))
    axes.set_title(messages("cost title" if costs.gpu else "seconds title"))
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    return figure
