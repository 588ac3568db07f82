"""Every run with its settings, figures and cost, for other programs and for a paper: `tanda results`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import orjson

from jobs.settings import Value
from pipeline.plan import Plan
from pipeline.report import results_csv
from pipeline.report.collect import Collected, collect
from pipeline.report.i18n import make_messages
from pipeline.report.table import Column, Table, number, setting, to_latex
from pipeline.status import task_states
from sharedfs.errors import InputError

FORMATS = ("csv", "json", "parquet", "latex")
SCORES = ("validation_balanced_accuracy", "test_balanced_accuracy", "test_accuracy", "gpu_hours")  # of the LaTeX table


def render_results(plan: Plan, form: str) -> bytes:
    """The runs of a plan, a row each: results.csv, the same as JSON or parquet, or a LaTeX table.

    The LaTeX table has what a paper shows: the runs' names, the settings that differ, and SCORES. Raises InputError for
    another form.
    """
    if form not in FORMATS:
        raise InputError(f"--format: must be one of {', '.join(FORMATS)}, not {form}")
    collected = collect(plan, task_states(plan))
    columns = results_csv.columns(collected)
    if form == "csv":
        return results_csv.as_csv(columns)
    if form == "parquet":
        return results_csv.as_parquet(columns)
    if form == "json":
        rows = [dict(zip(columns, map(_finite, row), strict=True)) for row in zip(*columns.values(), strict=True)]
        return orjson.dumps(rows, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return to_latex(_paper_table(collected, columns)).encode()


def _finite(value: Value) -> Value:
    """A diverged run's loss may be infinite, which JSON cannot say."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _paper_table(collected: Collected, columns: dict[str, Sequence[Value]]) -> Table:
    messages = make_messages(collected.manifest.language)
    # Among the runs that have it: a setting of networks alone does not differ because `linear` has none.
    had = {name: {str(value) for value in columns[name]} - {"None"} for name in results_csv.hyperparameters(collected)}
    names = (*results_csv.OF_ROW, *(name for name, values in had.items() if len(values) > 1))
    rows = []
    for at in range(len(collected.results)):
        texts = [setting(columns[name][at]) for name in names]
        rows.append((*texts, *(number(_figure(columns[name][at]), 4) for name in SCORES)))
    heads = [Column(key=name, title=messages.name(name), number=name == "seed") for name in names]
    heads += [Column(key=name, title=messages.name(name)) for name in SCORES]
    title = collected.manifest.name
    return Table(name="results", group=title, title=title, columns=tuple(heads), rows=tuple(rows))


def _figure(value: Value) -> float | None:
    return float(value) if isinstance(value, int | float) else None
