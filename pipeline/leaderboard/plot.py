"""Score against GPU-hours, a picture of every leaderboard: the runs on the Pareto front, than which none is both
cheaper and better."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.leaderboard import Board, Leaderboard
from pipeline.report.i18n import make_messages
from pipeline.report.plots import DOTS_PER_INCH, GREY, colour, new_figure, short, style
from sharedfs.errors import InputError
from sharedfs.files import write_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
BALANCED = "balanced_accuracy"
NAMED = 12  # of a board: those on the front, then the best of the others
WIDE = 100.0  # the dearest over the cheapest, from which on the axis is logarithmic


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A run: its rank, what it cost, its score with its interval, whether it is on the front, and is named."""

    rank: int
    label: str
    cost: float
    score: float
    low: float
    high: float
    on_front: bool
    named: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The points of a board, the cheapest first; the cost is in GPU-hours, or in seconds where no run used a GPU."""

    title: str
    gpu: bool
    points: tuple[Point, ...]


def make_front(board: Board) -> Front:
    """The numbers of a board's picture."""
    gpu = any(place.gpu_hours > 0 for place in board.places)
    priced = []
    for place in board.places:
        cost, score = place.gpu_hours if gpu else place.seconds, place.scores[BALANCED]
        if cost is not None and score.mean is not None:
            priced.append((cost, score.mean, place, score))
    # The cheapest first, of equally cheap ones the best.
    priced.sort(key=lambda item: (item[0], -item[1]))
    best, front = -1.0, set()
    for _, mean, place, _ in priced:
        if mean > best:
            best = mean
            front.add(place.entry.position)
    others = [place.entry.position for place in board.places if place.entry.position not in front]
    named = front | set(others[: max(0, NAMED - len(front))])
    points = tuple(
        Point(
            rank=place.rank,
            label=place.label,
            cost=cost,
            score=mean,
            low=mean if score.low is None else score.low,
            high=mean if score.high is None else score.high,
            on_front=place.entry.position in front,
            named=place.entry.position in named,
        )
        for cost, mean, place, score in priced
    )
    return Front(title=board.title, gpu=gpu, points=points)


def write_plot(leaderboard: Leaderboard, path: Path) -> None:
    """Draw every board into one file, PNG or SVG by its name; raises InputError for another, or where nothing is."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"--plot: {path}: must end in {' or '.join(SUFFIXES)}")
    fronts = [front for board in leaderboard.boards if (front := make_front(board)).points]
    if not fronts:
        raise InputError("--plot: no run has both a score and a cost: nothing to draw")
    import matplotlib as mpl

    with mpl.rc_context(style()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        sink = io.BytesIO()
        metadata = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
        draw(fronts).savefig(sink, format=path.suffix[1:], metadata=metadata, dpi=DOTS_PER_INCH)
    write_whole(path, sink.getvalue())


def draw(fronts: Sequence[Front]) -> Figure:
    figure = new_figure(9.0, 4.4 * len(fronts))
    axes = figure.subplots(len(fronts), squeeze=False)[:, 0]
    for front, below in zip(fronts, axes, strict=True):
        _draw(front, below)
    return figure


def _draw(front: Front, axes: Axes) -> None:
    messages = make_messages("en")
    handles: list[Artist] = []
    labels: list[str] = []
    for point in sorted(front.points, key=lambda point: point.rank):
        of = colour(len(handles)) if point.named else GREY
        if point.named:
            axes.vlines(point.cost, point.low, point.high, color=of, alpha=0.35, linewidth=1.2)
        dot = axes.scatter(
            point.cost, point.score, s=46 if point.named else 14, color=of, zorder=3, clip_on=False,
            marker="o" if point.on_front else "x", linewidths=0 if point.on_front else 1.2,
        )  # fmt: skip
        if point.named:
            axes.annotate(
                str(point.rank), (point.cost, point.score), xytext=(5, 4), textcoords="offset points", fontsize=8
            )
            handles.append(dot)
            labels.append(f"{point.rank} {short(point.label)}")
    edge = [point for point in front.points if point.on_front]
    axes.step(
        [point.cost for point in edge], [point.score for point in edge], where="post", color=GREY, linewidth=1, zorder=1
    )
    costs = [point.cost for point in front.points if point.cost > 0]
    if costs and max(costs) > WIDE * min(costs):
        # A run without a GPU costs none: it is at the left end.
        axes.set_xscale("symlog", linthresh=min(costs))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(bottom=max(0.0, min(point.low for point in front.points) - 0.05))
    axes.set_xlabel(messages("GPU-hours" if front.gpu else "training time"))
    axes.set_ylabel(messages(f"test_{BALANCED}"))
    axes.set_title(front.title)
    axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, title="o on the Pareto front"
    )
