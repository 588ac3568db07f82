"""results.md, results.tex and a file a table: the same tables in the formats that people paste."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from pipeline.report.collect import Collected
from pipeline.report.files import file_name
from pipeline.report.i18n import Messages
from pipeline.report.table import Table, escape_markdown, latex_document, to_csv, to_html, to_latex, to_markdown


def as_markdown(
    collected: Collected,
    tables: Iterable[Table],
    written: Mapping[str, bytes],
    observations: Iterable[str],
    pictures: Mapping[str, Iterable[str]],
    messages: Messages,
) -> bytes:
    """Everything in one text: where it stands, what was observed, and each group's tables and pictures.

    ``written`` are the tables' own files, as ``table_files`` makes them.
    """
    parts = [
        f"# {escape_markdown(messages('results of', name=collected.manifest.name))}\n",
        f"{completion_line(collected, messages)}\n",
    ]
    told = list(observations)
    if told:
        lines = "".join(f"- {escape_markdown(sentence)}\n" for sentence in told)
        parts.append(f"## {messages('observations')}\n\n{lines}")
    for group, members in groupby(tables, key=lambda table: table.group):
        parts.append(f"## {escape_markdown(group)}\n")
        for table in members:
            title = table.title.removeprefix(f"{group}: ")
            parts.append(f"### {escape_markdown(title[:1].upper() + title[1:])}\n")
            parts.append(written[_place(table, "md")].decode())
        parts += [f"![{escape_markdown(group)}]({path})\n" for path in pictures.get(group, ())]
    parts += [f"![{escape_markdown(messages('cost title'))}]({path})\n" for path in pictures.get("", ())]
    return "\n".join(parts).encode()


def as_latex(collected: Collected, tables: Iterable[Table], written: Mapping[str, bytes], messages: Messages) -> bytes:
    texts = (written[_place(table, "tex")].decode() for table in tables)
    return latex_document(messages("results of", name=collected.manifest.name), texts).encode()


def table_files(tables: Iterable[Table]) -> dict[str, bytes]:
    """Each table alone, in every format: ``tables/<group>-<table>.<suffix>``."""
    files = {}
    for table in tables:
        files[_place(table, "md")] = to_markdown(table).encode()
        files[_place(table, "tex")] = to_latex(table).encode()
        files[_place(table, "html")] = to_html(table).encode()
        files[_place(table, "csv")] = to_csv(table).encode()
    return files


def _place(table: Table, suffix: str) -> str:
    return f"tables/{file_name(table.group)}-{table.name}.{suffix}"


def completion_line(collected: Collected, messages: Messages) -> str:
    """One sentence: all is finished, or how much is missing."""
    total, missing = len(collected.results), collected.missing()
    if not missing:
        return messages("all done", total=total)
    reasons: dict[str, int] = {}
    for result in collected.results:
        if not result.done:
            reasons[result.reason() or result.state] = reasons.get(result.reason() or result.state, 0) + 1
    told = ", ".join(f"{count} {messages.name(reason)}" for reason, count in sorted(reasons.items()))
    return messages("missing rows", missing=missing, total=total, told=told)
