"""Test recall per category, each run's sorted from worst to best: how many categories a run gives up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.report.collect import Collected
from pipeline.report.files import file_name
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.plots import GREY, colour, coloured, new_figure, short
from pipeline.report.significance import mean_recall_of

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
    recalls = {}
    for entry in group.entries:
        split = mean_recall_of(collected, entry, "test")
        if split is not None and (split.support > 0).any():
            recalls[entry.position] = np.sort(split.recall[split.support > 0])
    if not recalls:
        return []
    shown = coloured({position: float(values.mean()) for position, values in recalls.items()})
    runs = tuple(
        RunRecall(run=entry.run, position=entry.position, shown=entry.position in shown, recall=recalls[entry.position])
        for entry in group.entries
        if entry.position in recalls
    )
    return [Recalls(name=f"{file_name(group.name)}-recall", group=group.name, runs=runs)]


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
