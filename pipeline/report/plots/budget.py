"""Searches at equal budget: the expected best score over the epochs spent, a line a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.metrics import metric_of
from pipeline.report.budgets import Spent, comparable, expected_best, spent
from pipeline.report.collect import Collected
from pipeline.report.files import file_name
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.plots import COLOURED, colour, new_figure, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDER = 6
SCOPE = "group"
POINTS = 100  # of a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A search's expected best score (N,) after so many epochs (N,), and where the search is among all rows."""

    search: str
    position: int
    epochs: tuple[float, ...]
    best: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPlot:
    """The searches of one figure on the same titles, this one first."""

    name: str
    metric: str
    lines: tuple[Line, ...]


def build(group: Group, collected: Collected, _messages: Messages) -> list[BudgetPlot]:
    """Nothing for a search that is alone: its table says it all."""
    if group.search is None or (own := spent(group.search)) is None:
        return []
    others = comparable(group.search, collected)
    if not others:
        return []
    metric = group.search.planned.search.metric
    searches = [search.name for search in collected.searches]
    lines = tuple(
        _line(each, searches.index(each.name), metric_of(metric).sign) for each in (own, *others[: COLOURED - 1])
    )
    return [BudgetPlot(name=f"{file_name(group.name)}-budget", metric=metric, lines=lines)]


def _line(search: Spent, position: int, sign: float) -> Line:
    trials = np.linspace(1, len(search.scores), POINTS)
    best = [sign * expected_best(search.scores, at) for at in trials.tolist()]
    return Line(
        search=search.name, position=position, epochs=tuple((trials * search.epochs).tolist()), best=tuple(best)
    )


def draw(plot: BudgetPlot, messages: Messages) -> Figure:
    figure = new_figure(7.4, 3.4)
    axes = figure.subplots()
    handles = [
        axes.plot(line.epochs, line.best, color=colour(line.position), linewidth=2 if at == 0 else 1.2)[0]
        for at, line in enumerate(plot.lines)
    ]
    axes.set_xlabel(messages("epochs spent"))
    axes.set_ylabel(messages("expected best", metric=messages.name(plot.metric)))
    axes.set_title(messages("budget plot title"))
    figure.legend(handles, [short(line.search) for line in plot.lines], loc="outside right upper", fontsize=8)
    return figure
