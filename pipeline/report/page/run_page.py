"""A run's own page: its settings, its figures, its curves, where it errs, and how to reproduce it."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from typing import TypedDict

import numpy as np
from jinja2 import Template

from jobs import gpu_use
from jobs.metrics import metric_of
from pipeline.report.calibration import Diagram, read_calibration
from pipeline.report.collect import Collected, Result
from pipeline.report.groups import Entry
from pipeline.report.i18n import Messages
from pipeline.report.page.title_errors import ShownErrors
from pipeline.report.plots import colour
from pipeline.report.plots.confusion import most_frequent
from pipeline.report.plots.curves import interactive_curves
from pipeline.report.results_csv import CALIBRATED, DECIMALS, WHOLE, figure_names
from pipeline.report.table import number_text, setting

CONFUSIONS = 15


class Recall(TypedDict):
    """Recall and titles by category, for the page's script: hundreds of rows, as one list a column."""

    headings: list[str]
    columns: list[list[float | None]]
    colour: str


def render(
    template: Template,
    result: Result,
    entry: Entry,
    collected: Collected,
    messages: Messages,
    errors: ShownErrors | None,
) -> str:
    """The page of one of an entry's results, with links to those of the other seeds."""
    row = result.row
    seed = f" ({messages('seed')} {row.seed})" if len(entry.results) > 1 else ""
    return template.render(
        title=f"{row.group} / {row.run}{seed}",
        root="../",
        result=result,
        siblings=[(other.row.seed, file_of(other), other is result) for other in entry.results],
        reason=messages.name(result.cause or result.state),
        settings=_settings(result),
        figures=_figures(result, messages),
        curves=interactive_curves([replace(entry, results=(result,))], messages),
        recall=_recall(result, collected, messages),
        classes_file=classes_file(result) if collected.classes(result) else None,
        confusions=_confusions(result, collected),
        errors=errors,
        calibration=_calibration(result, collected),
        log=collected.log(result),
        commit=result.git_commit or messages("unknown commit"),
        command=command(result, collected),
    )


def file_of(result: Result) -> str:
    return f"{result.row.evaluate}.html"


def classes_file(result: Result) -> str:
    return f"classes-{result.row.dataset}.js"


def _settings(result: Result) -> list[tuple[str, str]]:
    return [(name, setting(value).text) for name, value in result.settings.items()]


def _figures(result: Result, messages: Messages) -> list[tuple[str, str, str]]:
    """Name, our figure and the published one."""
    rows = []
    for metric in figure_names():
        value = result.figures.get(metric)
        published = result.row.reference.get(metric)
        if value is None and published is None:
            continue
        decimals = 0 if metric in WHOLE else DECIMALS.get(metric) or metric_of(metric).decimals + 1
        ours = "–" if value is None else number_text(value, decimals)
        rows.append(
            (
                messages.name(metric),
                ours,
                "" if published is None else number_text(published, metric_of(metric).decimals),
            )
        )
    rows += [
        (messages(name), number_text(result.figures[name], 4), "") for name in CALIBRATED if name in result.figures
    ]
    if result.gpu_hours is not None:
        rows.append((messages("GPU-hours"), number_text(result.gpu_hours, 4), ""))
    for name, value in gpu_use.figures(result.gpu).items():
        if value is not None:
            rows.append((messages(name), number_text(value, DECIMALS[name]), ""))
    return rows


def _recall(result: Result, collected: Collected, messages: Messages) -> Recall | None:
    splits = collected.evaluation(result)
    if not splits:
        return None
    return {
        "headings": [messages("category")]
        + [f"{messages(name)}: {messages(what)}" for name in splits for what in ("recall", "support")],
        "columns": [
            column
            for split in splits.values()
            for column in (
                [None if np.isnan(value) else value for value in np.round(split.recall, 4).tolist()],
                split.support.tolist(),
            )
        ],
        "colour": colour(0),
    }


class _Diagram(TypedDict):
    """A reliability diagram: titles, confidence, accuracy and the circle's radius of each bin."""

    error: str
    circles: list[tuple[int, float, float, float]]


class _Calibration(TypedDict):
    """A run's temperature and its diagrams, each with the key of its title."""

    temperature: str
    diagrams: list[tuple[str, _Diagram]]


def _calibration(result: Result, collected: Collected) -> _Calibration | None:
    found = read_calibration(collected, result)
    if found is None:
        return None
    diagrams = (("as trained", found.test.as_trained), ("at temperature", found.test.at_temperature))
    return {
        "temperature": number_text(found.temperature, 3),
        "diagrams": [(key, _diagram(diagram)) for key, diagram in diagrams],
    }


def _diagram(diagram: Diagram) -> _Diagram:
    most = max(diagram.titles, default=1) or 1
    return {
        "error": number_text(diagram.error, 4),
        # Areas are titles; a bin of few is still seen.
        "circles": [(*found, max(2.0, 12 * math.sqrt(found[0] / most))) for found in diagram.filled],
    }


def _confusions(result: Result, collected: Collected) -> list[tuple[str, str, int, str]]:
    predictions, classes = collected.predictions(result, "test"), collected.classes(result)
    if predictions is None or not classes:
        return []
    return [
        (classes[pair.true], classes[pair.predicted], pair.count, number_text(pair.share, 3))
        for pair in most_frequent(predictions, len(classes), CONFUSIONS)
    ]


def command(result: Result, collected: Collected) -> str:
    """Shell lines that reproduce this run, in a storage of its own: the same tasks, so the same ids."""
    row, storage = result.row, str(collected.storage.root)
    lines = [f"git checkout {shlex.quote(result.git_commit)}"] if result.git_commit else []
    lines.append(f"old={shlex.quote(storage)} new=again")
    lines += _search_lines(result, collected)
    tasks = [row.dataset, *([result.id] if result.id else []), row.evaluate]
    lines += [
        f"for id in {' '.join(tasks)}; do",
        '  mkdir -p "$new/runs/$id" && cp "$old/runs/$id/task.json" "$new/runs/$id/"',
        '  python -m jobs "$new/runs/$id" || break',
        "done",
    ]
    return "\n".join(lines)


def _search_lines(result: Result, collected: Collected) -> list[str]:
    """A trial takes its point from its search's folder, and is the best only among all trials and their results."""
    row = result.row
    search = next((search for search in collected.searches if search.planned.id == row.search), None)
    if search is None:
        return []
    folders = " ".join(
        f'"$old/searches/{row.search}/trials/{trial.number:04d}"' for trial in search.trials if trial.point
    )
    others = " ".join(trial.id for trial in search.trials if trial.id != result.id)
    home = f'"$new/searches/{row.search}/trials"'
    return [
        f'mkdir -p {home} && cp "$old/searches/{row.search}/search.json" "$new/searches/{row.search}/"',
        f"cp -r {folders} {home}",
        f"for id in {others}; do",
        '  mkdir -p "$new/runs/$id" && cp "$old/runs/$id/record.json" "$new/runs/$id/"',
        "done",
    ]
