"""Tables in Markdown, as GitHub reads them."""

from __future__ import annotations

from pipeline.report.table import Cell, Table


def write(table: Table) -> str:
    """The table with its caption above it and its notes below."""
    head = [escape(column.title) for column in table.columns]
    rule = ["---:" if column.number else "---" for column in table.columns]
    lines = [_line(head), _line(rule), *(_line([_cell(cell) for cell in row]) for row in table.rows)]
    before = f"{escape(table.caption)}\n\n" if table.caption else ""
    after = "".join(f"\n{escape(note)}" for note in table.notes)
    return before + "\n".join(lines) + "\n" + (f"{after}\n" if after else "")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"**{text}**" if cell.bold else text


_ESCAPES = str.maketrans(
    {**{mark: f"\\{mark}" for mark in "\\`*_[]|#"}, "<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)


def escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    return text.translate(_ESCAPES)
