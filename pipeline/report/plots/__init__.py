"""The plots, one file each: numbers first (``build``), then the picture (``draw``).

A module holds ``ORDER``, ``build(group, collected, messages) -> list of data`` and ``draw(data, messages) -> Figure``;
each data has a ``name``, the picture's file name. ``group`` is None for plots over the whole manifest.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Distinct on white and on the dark page, neighbours far apart also for colour-blind eyes.
COLOURS = (
    "#2878b5",
    "#d1495b",
    "#2a9d5c",
    "#e08214",
    "#7b4fb5",
    "#8c6d31",
    "#d65db1",
    "#1aa3b8",
    "#7a8a12",
    "#4a5bd0",
    "#c1440e",
    "#6b7787",
)
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#9aa1a9"
LABEL = 36  # characters of a name in a legend: a whole one of 100 would leave no room for the axes
COLOURED = 12  # more lines than this are not told apart by anyone
DOTS_PER_INCH = 110
# Equal bytes for equal numbers: without these, matplotlib writes the date and random ids.
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "tanda",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a run may be called $x$
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def colour(position: int) -> str:
    """The colour of a run wherever it appears, by its position among all entries."""
    return COLOURS[position % len(COLOURS)]


def marker(position: int) -> str:
    """Tells apart the runs that share a colour, once there are more runs than colours."""
    return MARKERS[position // len(COLOURS) % len(MARKERS)]


def coloured(scores: Mapping[int, float]) -> frozenset[int]:
    """The best runs, by position: drawn in colours and named; all others are grey, and one line of the legend."""
    ranked = sorted(scores, key=lambda position: (-scores[position], position))
    return frozenset(ranked if len(ranked) <= COLOURED else ranked[: COLOURED - 1])


def short(name: str, most: int = LABEL) -> str:
    """A name cut in the middle, where it says least; an SVG may hold no control characters."""
    name = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    if len(name) <= most:
        return name
    half = (most - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches), drawn without any display or global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain_numbers(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis: names may hold a dollar sign, so nothing is read as a formula."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def style() -> dict[Any, Any]:
    """Settings under which figures are made and written."""
    return dict(_STYLE)


def files(name: str, figure: Figure) -> dict[str, bytes]:
    """The picture as PNG and SVG: the same bytes for the same numbers."""
    out = {}
    with warnings.catch_warnings():
        # Names may be in any script: what the font lacks is a box in the PNG, and text in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            sink = io.BytesIO()
            figure.savefig(sink, format=suffix, metadata=metadata)
            out[f"plots/{name}.{suffix}"] = sink.getvalue()
    return out
