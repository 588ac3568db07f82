"""A search: the score trial by trial with the best so far, and the score over each dimension of the space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.report.collect import Collected
from pipeline.report.groups import Group
from pipeline.report.names import file_name
from pipeline.report.plots import GREY, colour, new_figure, plain_numbers
from pipeline.report.table import setting
from pipeline.report.words import Words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORDER = 5
SCOPE = "group"
PANELS_A_ROW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A trial with a score; ``stopped`` when it was cut before its last epoch."""

    number: int
    score: float
    best_so_far: float
    stopped: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    name: str
    search: str
    metric: str
    position: int
    trials: tuple[Scored, ...]
    failed: tuple[int, ...]
    space: Mapping[str, Any]


def build(group: Group, _collected: Collected, _words: Words) -> list[Searched]:
    if group.search is None:
        return []
    planned = group.search.planned.search
    trials, top = [], -math.inf
    for trial in group.search.trials:
        score = trial.figures.get(planned.metric)
        if score is None or trial.state != "done":
            continue
        top = max(top, score)
        trials.append(
            Scored(
                number=trial.number,
                score=score,
                best_so_far=top,
                stopped=trial.stopped is not None,
                settings=trial.settings,
            )
        )
    if not trials:
        return []
    return [
        Searched(
            name=f"{file_name(group.name)}-search",
            search=group.name,
            metric=planned.metric,
            position=group.entries[0].position if group.entries else 0,
            trials=tuple(trials),
            failed=tuple(trial.number for trial in group.search.trials if trial.state == "failed"),
            space=planned.space,
        )
    ]


def draw(searched: Searched, words: Words) -> Figure:
    names = list(searched.space)
    rows = 1 + math.ceil(len(names) / PANELS_A_ROW)
    figure = new_figure(9.0, 2.9 + 2.2 * (rows - 1))
    grid = figure.add_gridspec(rows, PANELS_A_ROW)
    _draw_trials(figure.add_subplot(grid[0, :]), searched, words)
    for place, name in enumerate(names):
        axes = figure.add_subplot(grid[1 + place // PANELS_A_ROW, place % PANELS_A_ROW])
        _draw_dimension(axes, searched, name)
        if place % PANELS_A_ROW == 0:
            axes.set_ylabel(words.name(searched.metric), fontsize=7)
    return figure


def _draw_trials(axes: Axes, searched: Searched, words: Words) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = [trial.number for trial in searched.trials]
    best = [trial.best_so_far for trial in searched.trials]
    axes.step(numbers, best, where="post", color=colour(searched.position), label=words("best so far"))
    _scatter(axes, searched, numbers, words)
    if searched.failed:
        floor = [axes.get_ylim()[0]] * len(searched.failed)
        axes.scatter(searched.failed, floor, marker="x", color=GREY, label=words("failed"), clip_on=False)
    axes.set_xlabel(words("trial"))
    axes.set_ylabel(words.name(searched.metric))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_title(words("search title", search=searched.search))
    axes.legend(fontsize=8, loc="lower right")


def _scatter(axes: Axes, searched: Searched, places: list[Any], words: Words | None) -> None:
    tint = colour(searched.position)
    for stopped in (False, True):
        chosen = [place for place, trial in enumerate(searched.trials) if trial.stopped == stopped]
        if chosen:
            label = words("stopped early" if stopped else "trial") if words else None
            axes.scatter(
                [places[place] for place in chosen],
                [searched.trials[place].score for place in chosen],
                s=24,
                facecolors="white" if stopped else tint,
                edgecolors=tint,
                label=label,
                zorder=3,
            )


def _draw_dimension(axes: Axes, searched: Searched, name: str) -> None:
    values = [trial.settings.get(name) for trial in searched.trials]
    options = searched.space[name]
    kind = next(iter(options), "") if isinstance(options, Mapping) else "choice"
    if kind == "choice":
        texts = [setting(option).text for option in _options(options)]
        places = [texts.index(text) if (text := setting(value).text) in texts else -1 for value in values]
        axes.set_xticks(range(len(texts)), texts, fontsize=7, rotation=20 if max(map(len, texts)) > 6 else 0)
        axes.set_xlim(-0.5, len(texts) - 0.5)
        _scatter(axes, searched, places, None)
    else:
        _scatter(axes, searched, [float(value) if value is not None else math.nan for value in values], None)
        if kind.startswith(("log", "qlog")):
            axes.set_xscale("log")
            plain_numbers(axes.xaxis)
    axes.set_title(name, fontsize=8)
    axes.tick_params(labelsize=7)


def _options(options: Any) -> list[Any]:
    chosen = next(iter(options.values())) if isinstance(options, Mapping) else options
    return list(chosen)
