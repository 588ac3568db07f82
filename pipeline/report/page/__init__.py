"""The page: ``index.html`` and a page per run, which work from disk with no network and no server.

Everything that people or jobs wrote is escaped on its way into a template.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import orjson
from markupsafe import Markup

from pipeline.report.collect import Collected, Progress, Result
from pipeline.report.files import ReportData, completion_line, file_name
from pipeline.report.i18n import Messages
from pipeline.report.page import run_page
from pipeline.report.plots.curves import PageCurves, interactive_curves
from pipeline.report.results_csv import CSV, PARQUET
from pipeline.report.table import Table, to_html

HERE = Path(__file__).parent
FILES = (CSV, PARQUET, "results.md", "results.tex")


def render(report: ReportData, *, progress: Progress | None = None) -> dict[str, bytes]:
    """Every file of the page by its path within the report."""
    environment = make_environment(report.messages)
    files = {f"assets/{path.name}": path.read_bytes() for path in sorted((HERE / "assets").iterdir())}
    files["index.html"] = _index(environment, report)
    return files | _run_pages(environment, report, progress)


def make_environment(messages: Messages) -> jinja2.Environment:
    """Templates that escape by default and refuse names they don't know."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["messages"] = messages
    environment.filters["data"] = as_data
    return environment


def as_data(value: Any) -> Markup:
    """JSON for a ``<script type="application/json">``: nothing in it can end the element."""
    text = orjson.dumps(value).decode().replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(text)  # noqa: S704 - escaped just above


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A group on the page: its tables with their HTML, its curves, and its plots' paths with what they show."""

    name: str
    anchor: str
    tables: Sequence[tuple[Table, Markup]]
    curves: PageCurves | None
    pictures: Sequence[tuple[str, str]]
    observations: Sequence[str]


def _index(environment: jinja2.Environment, report: ReportData) -> bytes:
    collected, messages = report.collected, report.messages
    links = {entry.position: address(entry.first) for group in report.groups for entry in group.entries}
    by_group: dict[str, list[tuple[Table, Markup]]] = {}
    for table in report.tables:
        # to_html escapes every cell.
        written = Markup(to_html(table, links=links))  # noqa: S704
        by_group.setdefault(table.group, []).append((table, written))
    sections = [
        _Section(
            name=group.name,
            anchor=f"group-{position}-{file_name(group.name)}",
            tables=by_group.get(group.name, ()),
            curves=interactive_curves(group.entries, messages),
            pictures=_pictures(report.pictures.get(group.name, ()), group.name),
            observations=report.observations.by_group.get(group.name, ()),
        )
        for position, group in enumerate(report.groups)
    ]
    page = environment.get_template("index.html").render(
        title=report.title,
        root="",
        completion=completion_line(collected, messages),
        missing=collected.missing(),
        total=len(collected.results),
        observations=report.observations.first,
        sections=sections,
        pictures=_pictures(report.pictures.get("", ()), messages("cost title")),
        files=FILES,
    )
    return page.encode()


def _pictures(paths: Iterable[str], title: str) -> list[tuple[str, str]]:
    return [(path, f"{title}: {Path(path).stem.rsplit('-', 1)[-1]}") for path in paths]


def _run_pages(environment: jinja2.Environment, report: ReportData, progress: Progress | None) -> dict[str, bytes]:
    template = environment.get_template("run.html")
    files: dict[str, bytes] = {}
    pages = [(entry, result) for group in report.groups for entry in group.entries for result in entry.results]
    for done, (entry, result) in enumerate(pages, start=1):
        page = run_page.render(template, result, entry, report.collected, report.messages)
        files[address(result)] = page.encode()
        files |= _class_names(report.collected, result)
        if progress and (done % 20 == 0 or done == len(pages)):
            progress("page", done, len(pages))
    return files


def _class_names(collected: Collected, result: Result) -> dict[str, bytes]:
    """Category names, once for all runs of a data set: a script, because a page on disk may not fetch."""
    classes = collected.classes(result)
    if not classes:
        return {}
    text = f"window.tandaClasses = {as_data(classes)};\n"
    return {f"runs/{run_page.classes_file(result)}": text.encode()}


def address(result: Result) -> str:
    """A run's page, within the report."""
    return f"runs/{run_page.file_of(result)}"
