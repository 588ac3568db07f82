"""Tables in HTML: headers with scope, numbers to sort by, everything escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from pipeline.report.table import Cell, Table


def write(table: Table, *, links: Mapping[int, str] | None = None) -> str:
    """The table; ``links`` are addresses by entry, for cells that name a run."""
    head = "".join(
        f'<th scope="col"{_class(column.number)} data-key="{escape(column.key)}">{_title(column.title)}</th>'
        for column in table.columns
    )
    caption = f"{table.title}. {table.caption}".strip()
    rows = "\n".join(f"<tr>{''.join(_cells(table, row, links or {}))}</tr>" for row in table.rows)
    return (
        f'<table data-name="{escape(table.name)}">\n<caption><span>{escape(caption)}</span></caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n"
    )


def _cells(table: Table, row: tuple[Cell, ...], links: Mapping[int, str]) -> list[str]:
    cells = []
    for position, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
        text = escape(cell.text)
        if cell.bold:
            text = f"<strong>{text}</strong>"
        if cell.entry is not None and cell.entry in links:
            text = f'<a href="{escape(links[cell.entry])}">{text}</a>'
        value = "" if cell.value is None else f' data-value="{cell.value:.9g}"'
        tag = 'th scope="row"' if position == 0 else "td"
        cells.append(f"<{tag}{_class(column.number)}{value}>{text}</{tag[:2]}>")
    return cells


def _title(text: str) -> str:
    """Long names of settings may break where people would."""
    return escape(text).replace("_", "_<wbr>")


def _class(number: bool) -> str:
    return ' class="number"' if number else ""
