"""results.md, results.tex and a file a table: the same tables in the formats that people paste."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from pipeline.report.collect import Collected
from pipeline.report.formats import csv, html, latex, markdown
from pipeline.report.names import file_name
from pipeline.report.table import Table
from pipeline.report.words import Words


def as_markdown(
    collected: Collected,
    tables: Iterable[Table],
    observations: Iterable[str],
    pictures: Mapping[str, Iterable[str]],
    words: Words,
) -> bytes:
    """Everything in one text: where it stands, what was observed, and each group's tables and pictures."""
    parts = [
        f"# {markdown.escape(words('results of', name=collected.manifest.name))}\n",
        f"{standing(collected, words)}\n",
    ]
    told = list(observations)
    if told:
        lines = "".join(f"- {markdown.escape(sentence)}\n" for sentence in told)
        parts.append(f"## {words('observations')}\n\n{lines}")
    for group, members in groupby(tables, key=lambda table: table.group):
        parts.append(f"## {markdown.escape(group)}\n")
        for table in members:
            title = table.title.removeprefix(f"{group}: ")
            parts.append(f"### {markdown.escape(title[:1].upper() + title[1:])}\n\n{markdown.write(table)}")
        parts += [f"![{markdown.escape(group)}]({path})\n" for path in pictures.get(group, ())]
    parts += [f"![{markdown.escape(words('cost title'))}]({path})\n" for path in pictures.get("", ())]
    return "\n".join(parts).encode()


def as_latex(collected: Collected, tables: Iterable[Table], words: Words) -> bytes:
    return latex.document(words("results of", name=collected.manifest.name), tables).encode()


def table_files(tables: Iterable[Table]) -> dict[str, bytes]:
    """Each table alone, in every format: ``tables/<group>-<table>.<suffix>``."""
    files = {}
    for table in tables:
        name = f"tables/{file_name(table.group)}-{table.name}"
        files[f"{name}.md"] = markdown.write(table).encode()
        files[f"{name}.tex"] = latex.write(table).encode()
        files[f"{name}.html"] = html.write(table).encode()
        files[f"{name}.csv"] = csv.write(table).encode()
    return files


def standing(collected: Collected, words: Words) -> str:
    """One sentence: all is finished, or how much is missing."""
    total, missing = len(collected.results), collected.missing()
    if not missing:
        return words("all done", total=total)
    reasons: dict[str, int] = {}
    for result in collected.results:
        if not result.done:
            reasons[result.reason() or result.state] = reasons.get(result.reason() or result.state, 0) + 1
    told = ", ".join(f"{count} {words.reason(reason)}" for reason, count in sorted(reasons.items()))
    return words("missing rows", missing=missing, total=total, told=told)
