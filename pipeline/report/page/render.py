"""Fills the templates: everything that people or jobs wrote is escaped on its way in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import orjson
from markupsafe import Markup

from pipeline.report import document
from pipeline.report.collect import Collected, Progress, Result
from pipeline.report.files import file_name
from pipeline.report.groups import Entry, Group
from pipeline.report.i18n import Messages
from pipeline.report.page import curves, run_page
from pipeline.report.table import Table, to_html

HERE = Path(__file__).parent
FILES = ("results.csv", "results.parquet", "results.md", "results.tex")


def render(
    groups: tuple[Group, ...],
    collected: Collected,
    tables: Iterable[Table],
    observations: Iterable[str],
    pictures: Mapping[str, Iterable[str]],
    messages: Messages,
    *,
    progress: Progress | None = None,
) -> dict[str, bytes]:
    """Every file of the page by its path within the report."""
    environment = make_environment(messages)
    files = {f"assets/{path.name}": path.read_bytes() for path in sorted((HERE / "assets").iterdir())}
    context = _index_context(groups, collected, tables, observations, pictures, messages)
    files["index.html"] = environment.get_template("index.html").render(context).encode()
    files |= _run_pages(environment, groups, collected, messages, progress)
    return files


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


def _index_context(
    groups: tuple[Group, ...],
    collected: Collected,
    tables: Iterable[Table],
    observations: Iterable[str],
    pictures: Mapping[str, Iterable[str]],
    messages: Messages,
) -> dict[str, Any]:
    links = {entry.position: address(entry.first) for group in groups for entry in group.entries}
    by_group: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        # html.write escapes every cell.
        written = Markup(to_html(table, links=links))  # noqa: S704
        by_group.setdefault(table.group, []).append({"table": table, "html": written})
    sections = [
        {
            "name": group.name,
            "anchor": f"group-{place}-{file_name(group.name)}",
            "tables": by_group.get(group.name, []),
            "curves": curves.of_entries(group.entries, messages),
            "pictures": _pictures(pictures.get(group.name, ()), group.name),
        }
        for place, group in enumerate(groups)
    ]
    return {
        "title": messages("results of", name=collected.manifest.name),
        "root": "",
        "standing": document.completion_line(collected, messages),
        "missing": collected.missing(),
        "total": len(collected.results),
        "observations": list(observations),
        "sections": sections,
        "pictures": _pictures(pictures.get("", ()), messages("cost title")),
        "files": FILES,
    }


def _pictures(paths: Iterable[str], title: str) -> list[dict[str, str]]:
    return [{"path": path, "alt": f"{title}: {Path(path).stem.rsplit('-', 1)[-1]}"} for path in paths]


def _run_pages(
    environment: jinja2.Environment,
    groups: tuple[Group, ...],
    collected: Collected,
    messages: Messages,
    progress: Progress | None,
) -> dict[str, bytes]:
    template = environment.get_template("run.html")
    files: dict[str, bytes] = {}
    entries = [entry for group in groups for entry in group.entries]
    total, done = len(collected.results), 0
    for entry in entries:
        for result in entry.results:
            context = run_page.context(result, entry, collected, messages)
            siblings = _siblings(entry, result)
            files[address(result)] = template.render(context, siblings=siblings).encode()
            files |= _class_names(collected, result)
            done += 1
            if progress and (done % 20 == 0 or done == total):
                progress("page", done, total)
    return files


def _siblings(entry: Entry, result: Result) -> list[dict[str, Any]]:
    return [
        {"seed": other.row.seed, "address": Path(address(other)).name, "here": other is result}
        for other in entry.results
    ]


def _class_names(collected: Collected, result: Result) -> dict[str, bytes]:
    """Category names, once for all runs of a data set: a script, because a page on disk may not fetch."""
    classes = collected.classes(result)
    if not classes:
        return {}
    text = f"window.tandaClasses = {as_data(classes)};\n"
    return {f"runs/{run_page.classes_file(result)}": text.encode()}


def address(result: Result) -> str:
    """A run's page, within the report."""
    return f"runs/{result.row.evaluate}.html"
