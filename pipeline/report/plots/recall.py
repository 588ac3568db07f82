"""Test recall per category, each run's sorted from worst to best: how many categories a run gives up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.report.collect import Collected
from pipeline.report.files import file_name
from pipeline.report.groups import Entry, Group
from pipeline.report.i18n import Messages
from pipeline.report.plots import GREY, colour, coloured, new_figure, short
from pipeline.report.significance import by_titles, mean_recall_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDER = 2
SCOPE = "group"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecall:
    """A run's recalls (C,) sorted from worst to best; categories without a title are left out."""

    run: str
    position: int
    shown: bool
    recall: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalls:
    name: str
    group: str
    runs: tuple[RunRecall, ...]


def build(group: Group, collected: Collected, _messages: Messages) -> list[Recalls]:
    sets = by_titles(collected, group.entries).values()
    names = [f"{file_name(group.name)}-recall{f'-{number}' if number else ''}" for number in range(len(sets))]
    plots = zip(names, sets, strict=True)
    return [found for name, members in plots if (found := _of_titles(name, group, members, collected)) is not None]


def _of_titles(name: str, group: Group, members: Sequence[Entry], collected: Collected) -> Recalls | None:
    """The plot of the entries that were judged on the same titles: ranks of other categories are no comparison."""
    recalls = {}
    for entry in members:
        split = mean_recall_of(collected, entry, "test")
        if split is not None and (split.support > 0).any():
            recalls[entry.position] = np.sort(split.recall[split.support > 0])
    if not recalls:
        return None
    shown = coloured({position: float(values.mean()) for position, values in recalls.items()})
    runs = tuple(
        RunRecall(run=entry.run, position=entry.position, shown=entry.position in shown, recall=recalls[entry.position])
        for entry in members
        if entry.position in recalls
    )
    return Recalls(name=name, group=group.name, runs=runs)


def draw(recalls: Recalls, messages: Messages) -> Figure:
    figure = new_figure(7.4, 3.9)
    axes = figure.subplots()
    # Given to the legend by themselves: it leaves out artists whose label begins with _, as a run's name may.
    handles, labels = [], []
    for run in recalls.runs:
        ranks = np.arange(1, len(run.recall) + 1)
        if run.shown:
            handles += axes.step(ranks, run.recall, where="mid", color=colour(run.position), linewidth=1.5)
            labels.append(f"{short(run.run)} ({messages('balanced accuracy')} {run.recall.mean():.3f})")
        else:
            axes.step(ranks, run.recall, where="mid", color=GREY, linewidth=0.6, alpha=0.5)
    others = sum(not run.shown for run in recalls.runs)
    if others:
        handles += axes.plot([], [], color=GREY, linewidth=0.8)
        labels.append(messages("other runs", count=others))
    axes.set_xlabel(messages("category rank"))
    axes.set_ylabel(messages("recall"))
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(messages("recall title", group=recalls.group))
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    return figure
