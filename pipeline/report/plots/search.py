"""A search: the best so far over the epochs spent, and the score over each setting of the space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

from jobs.settings import Value
from pipeline.report.collect import Collected
from pipeline.report.files import file_name
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.plots import GREY, colour, new_figure, plain_numbers
from pipeline.report.search_summary import Axis, axes, search_progress
from pipeline.report.table import setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORDER = 5
SCOPE = "group"
PANELS_A_ROW = 3
LABEL = 22  # characters in a line beside a low panel


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTrial:
    """A trial with a score; ``epochs_spent`` are the whole search's epochs when its last one ended.

    ``outcome`` is the word for how it ended: trial (trained to its end), stopped early, or failed.
    """

    number: int
    score: float
    epochs_spent: int
    outcome: str
    settings: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlot:
    """``best`` is (epochs spent, best value so far); ``failed`` the epochs spent when one failed without a score."""

    name: str
    search: str
    metric: str
    position: int
    best: tuple[tuple[int, float], ...]
    trials: tuple[ScoredTrial, ...]
    failed: tuple[int, ...]
    axes: tuple[Axis, ...]
    importance: Mapping[str, float]


def build(group: Group, collected: Collected, _messages: Messages) -> list[SearchPlot]:
    if group.search is None:
        return []
    metric, progress = group.search.planned.search.metric, search_progress(group.search)
    over = [trial for trial in group.search.trials if trial.state in ("done", "failed")]
    ended = [trial for trial in over if trial.number in progress.ended_after]
    trials = tuple(
        ScoredTrial(
            number=trial.number,
            score=trial.figures[metric],
            epochs_spent=progress.ended_after[trial.number],
            outcome="failed" if trial.state == "failed" else "stopped early" if trial.stopped else "trial",
            settings=trial.point,
        )
        for trial in ended
        if metric in trial.figures
    )
    if not trials or not progress.best:
        return []
    return [
        SearchPlot(
            name=f"{file_name(group.name)}-search",
            search=group.name,
            metric=metric,
            position=group.entries[0].position if group.entries else 0,
            best=progress.best,
            trials=trials,
            failed=tuple(progress.ended_after[trial.number] for trial in ended if metric not in trial.figures),
            axes=tuple(axes(group.search)),
            importance=collected.importance(group.search).known,
        )
    ]


def draw(plot: SearchPlot, messages: Messages) -> Figure:
    rows = 1 + math.ceil(len(plot.axes) / PANELS_A_ROW)
    figure = new_figure(9.0, 2.9 + 2.2 * (rows - 1))
    grid = figure.add_gridspec(rows, PANELS_A_ROW)
    _draw_trials(figure.add_subplot(grid[0, :]), plot, messages)
    for index, axis in enumerate(plot.axes):
        axes = figure.add_subplot(grid[1 + index // PANELS_A_ROW, index % PANELS_A_ROW])
        _draw_axis(axes, plot, axis, messages)
        if index % PANELS_A_ROW == 0:
            axes.set_ylabel(fill(messages.name(plot.metric), LABEL), fontsize=7)
    return figure


def _draw_trials(axes: Axes, plot: SearchPlot, messages: Messages) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs, best = zip(*plot.best, strict=True)
    axes.step(epochs, best, where="post", color=colour(plot.position), label=messages("best so far"))
    _scatter(axes, plot, [trial.epochs_spent for trial in plot.trials], messages)
    if plot.failed:
        floor = [axes.get_ylim()[0]] * len(plot.failed)
        axes.scatter(plot.failed, floor, s=24, marker="x", color=GREY, clip_on=False)
    axes.set_xlabel(messages("epochs spent"))
    axes.set_ylabel(fill(messages.name(plot.metric), LABEL))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_title(messages("search title", search=plot.search))
    # Beside the axes: trials may lie anywhere.
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _scatter(axes: Axes, plot: SearchPlot, values: list[Any], messages: Messages | None) -> None:
    tint = colour(plot.position)
    looks = (("trial", "o", tint, tint), ("stopped early", "o", "white", tint), ("failed", "x", GREY, None))
    for outcome, shape, face, edge in looks:
        chosen = [index for index, trial in enumerate(plot.trials) if trial.outcome == outcome]
        if chosen:
            axes.scatter(
                [values[index] for index in chosen],
                [plot.trials[index].score for index in chosen],
                s=24,
                label=messages(outcome) if messages else None,
                zorder=3,
                marker=shape,
                facecolors=face,
                edgecolors=edge,
            )


def _draw_axis(axes: Axes, plot: SearchPlot, axis: Axis, messages: Messages) -> None:
    values = [trial.settings.get(axis.name) for trial in plot.trials]
    if axis.options:
        texts = [setting(option).text for option in axis.options]
        # A part has its own settings behind its name: sgd(momentum=0.8).
        named = [
            text if text in texts else text.partition("(")[0] for text in (setting(value).text for value in values)
        ]
        values = [texts.index(text) if text in texts else math.nan for text in named]
        axes.set_xticks(range(len(texts)), texts, fontsize=7)
        if max(map(len, texts)) > 6:
            axes.tick_params(axis="x", rotation=25)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
        axes.set_xlim(-0.5, len(texts) - 0.5)
        _scatter(axes, plot, values, None)
    else:
        _scatter(axes, plot, [float(value) if isinstance(value, int | float) else math.nan for value in values], None)
        if axis.log:
            axes.set_xscale("log")
            plain_numbers(axes.xaxis)
    share = plot.importance.get(axis.name)
    explained = "" if share is None else f" ({messages('of the variance', share=f'{share:.0%}')})"
    axes.set_title(f"{axis.name}{explained}", fontsize=8)
    axes.tick_params(labelsize=7)
