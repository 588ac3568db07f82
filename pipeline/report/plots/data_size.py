"""Score against the rows that were learnt from, a line for runs alike in all else: would more data help?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report.collect import Collected
from pipeline.report.data_sizes import SCORE, Series, data_sizes
from pipeline.report.files import file_name
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.plots import GREY, colour, coloured, new_figure, plain_numbers, short

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

ORDER = 5
SCOPE = "group"
TICKS = 8  # as many numbers of rows are each written below the axis


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSizes:
    """The lines of a group; ``shown`` are the places of those in colours."""

    name: str
    group: str
    series: tuple[Series, ...]
    shown: frozenset[int]


def build(group: Group, collected: Collected, _messages: Messages) -> list[DataSizes]:
    series = data_sizes(group, collected)
    if not series:
        return []
    shown = coloured({at: each.points[-1].score for at, each in enumerate(series)})
    return [DataSizes(name=f"{file_name(group.name)}-rows", group=group.name, series=series, shown=shown)]


def draw(sizes: DataSizes, messages: Messages) -> Figure:
    figure = new_figure(7.4, 3.9)
    axes = figure.subplots()
    # Given to the legend by themselves: it leaves out artists whose label begins with _, as a run's name may.
    handles: list[Artist] = []
    labels: list[str] = []
    for at, series in enumerate(sizes.series):
        rows = [point.rows for point in series.points]
        scores = [point.score for point in series.points]
        if at not in sizes.shown:
            axes.plot(rows, scores, color=GREY, linewidth=0.6, alpha=0.5)
            continue
        of_series = colour(at)
        deviations = [point.deviation or 0.0 for point in series.points]
        bars = axes.errorbar(rows, scores, yerr=deviations, color=of_series, marker="o", markersize=4, capsize=2)
        handles.append(bars.lines[0])
        labels.append(short(series.label))
    others = len(sizes.series) - len(sizes.shown)
    if others:
        handles += axes.plot([], [], color=GREY, linewidth=0.8)
        labels.append(messages("other runs", count=others))
    axes.set_xscale("log")
    plain_numbers(axes.xaxis)
    ticks = sorted({point.rows for series in sizes.series for point in series.points})
    if len(ticks) <= TICKS:
        axes.set_xticks(ticks, [f"{rows:,}" for rows in ticks])
        axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(messages("training rows"))
    axes.set_ylabel(messages.name(SCORE))
    axes.set_title(messages("data sizes title", group=sizes.group))
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    return figure
