"""The report's files: their names, the documents that hold the tables, and how a folder gets them, each whole."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from pipeline.report.collect import Collected
from pipeline.report.groups import Group, reasons_text
from pipeline.report.i18n import Messages
from pipeline.report.insights import Observations
from pipeline.report.table import Table, escape_markdown, latex_document, to_csv, to_html, to_latex, to_markdown
from sharedfs.documents import digest
from sharedfs.files import check_plain, open_plain, plain_folder, read_plain


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """All that a report shows.

    ``pictures`` and ``cards`` are paths by group, pictures of the whole manifest under an empty name.
    """

    collected: Collected
    groups: tuple[Group, ...]
    tables: tuple[Table, ...]
    observations: Observations
    pictures: Mapping[str, Iterable[str]]
    messages: Messages
    cards: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.messages("results of", name=self.collected.manifest.name)


# Names of files made from names that people chose.


def file_name(text: str) -> str:
    """A name that every file system and browser takes, and that no other text has.

    Letters, digits, dots, dashes and underscores stay; a name that held anything else gets a digest at its end.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80]
    return plain if plain == text else f"{plain or 'unnamed'}-{digest(text)[:6]}"


# results.md, results.tex and a file a table: the same tables in the formats that people paste.


def document_files(report: ReportData) -> dict[str, bytes]:
    """``results.md``, ``results.tex``, and each table alone as ``tables/<group>-<table>.<suffix>``."""
    markdown = [to_markdown(table) for table in report.tables]
    latex = [to_latex(table) for table in report.tables]
    files = {
        "results.md": _as_markdown(report, markdown).encode(),
        "results.tex": latex_document(report.title, latex).encode(),
    }
    for table, as_markdown, as_latex in zip(report.tables, markdown, latex, strict=True):
        path = f"tables/{file_name(table.group)}-{table.name}"
        files[f"{path}.md"] = as_markdown.encode()
        files[f"{path}.tex"] = as_latex.encode()
        files[f"{path}.html"] = to_html(table).encode()
        files[f"{path}.csv"] = to_csv(table).encode()
    return files


def _as_markdown(report: ReportData, written: Iterable[str]) -> str:
    """Everything in one text: how much is finished, what was observed, and each group's tables and pictures."""
    messages = report.messages
    parts = [f"# {escape_markdown(report.title)}\n", f"{completion_line(report.collected, messages)}\n"]
    if report.observations.first:
        parts.append(f"## {messages('observations')}\n\n{_listed(report.observations.first)}")
    for group, members in groupby(zip(report.tables, written, strict=True), key=lambda pair: pair[0].group):
        parts.append(f"## {escape_markdown(group)}\n")
        for table, text in members:
            title = table.title.removeprefix(f"{group}: ")
            parts += [f"### {escape_markdown(title[:1].upper() + title[1:])}\n", text]
        if group in report.observations.by_group:
            parts += [f"### {messages('observations')}\n", _listed(report.observations.by_group[group])]
        parts += [f"[{messages('model cards')}]({path})\n" for path in report.cards.get(group, ())]
        parts += [f"![{escape_markdown(group)}]({path})\n" for path in report.pictures.get(group, ())]
    parts += [f"![{escape_markdown(messages('cost title'))}]({path})\n" for path in report.pictures.get("", ())]
    return "\n".join(parts)


def _listed(sentences: Iterable[str]) -> str:
    return "".join(f"- {escape_markdown(sentence)}\n" for sentence in sentences)


def completion_line(collected: Collected, messages: Messages) -> str:
    """All is finished, or how much is missing and why; then what the GPUs did, where that was measured."""
    total, missing = len(collected.results), collected.missing()
    reasons = reasons_text(collected.results, messages)
    line = messages("missing rows", missing=missing, total=total, reasons=reasons) if missing else ""
    used = collected.gpu
    if used is None or used.mean is None:
        return line or messages("all done", total=total)
    hours, mean = f"{used.measured_s / 3600:.2f}", f"{used.mean:.0f}"
    energy = "–" if used.energy_kwh is None else f"{used.energy_kwh:.3g}"
    return f"{line or messages('all done', total=total)} {messages('GPUs did', hours=hours, mean=mean, energy=energy)}"


# A report's folder: derived files, each replaced whole and only when its bytes changed.


def publish(folder: Path, files: Mapping[str, bytes], *, own: tuple[str, ...]) -> None:
    """Make ``folder`` hold these files; in the sub-folders ``own``, files of earlier reports are removed.

    Nothing is synced: a report lost with the power is made again from storage.
    """
    plain_folder(folder)
    for name in sorted({str(Path(name).parent) for name in files}):
        plain_folder(folder / name)
    for name, content in files.items():
        replace(folder / name, content)
    for name in own:
        home = folder / name
        check_plain(home)
        for path in sorted(home.iterdir()) if home.is_dir() else ():
            if f"{name}/{path.name}" not in files and path.is_file() and not path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write a file whole; untouched when it holds these bytes already."""
    if _same(path, content):
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open_plain(temporary, "xb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _same(path: Path, content: bytes) -> bool:
    try:
        return path.lstat().st_size == len(content) and read_plain(path) == content
    except (OSError, ValueError):
        return False
