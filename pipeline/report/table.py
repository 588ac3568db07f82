"""A table as a value, and its text in CSV, Markdown, HTML and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape

from sharedfs.typed_json import Json

NOTHING = "–"
_MARKDOWN_ESCAPES = str.maketrans(
    {**{mark: f"\\{mark}" for mark in "\\`*_[]|#"}, "<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)
LATEX_HEAD = r"""\documentclass[a4paper]{article}
\usepackage{iftex}
\ifPDFTeX\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{textcomp}\fi
\usepackage{array,booktabs,longtable,pdflscape,amssymb}
\usepackage[margin=1.5cm]{geometry}
\begin{document}
\begin{landscape}
\setlength{\LTcapwidth}{\linewidth}
"""
LATEX_PAGE_PT = 750.0  # a landscape A4 within its margins
LATEX_GAP_PT = 7.0
LATEX_CHARACTER_PT = {"scriptsize": 4.1, "tiny": 3.2}
LATEX_SIZES = (
    ("scriptsize", 30),
    ("scriptsize", 18),
    ("tiny", 30),
    ("tiny", 14),
    ("tiny", 9),
)  # and characters in a line of text
LATEX_FOOT = "\\end{landscape}\n\\end{document}\n"
_LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "−": r"$-$",
        "±": r"$\pm$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "★": r"$\bigstar$",
        "–": "--",
        "…": r"\ldots{}",
        "\n": " ",
        "\r": " ",
    }
)


# A table before it is written in any format: columns, cells with their numbers, a caption.


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown; ``value`` is what it is sorted by, ``position`` that of the run that it names, if any."""

    text: str
    value: float | None = None
    bold: bool = False
    position: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    key: str
    title: str
    number: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """``rows`` have a cell for every column; ``notes`` say below the table how to read it."""

    name: str
    group: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    notes: tuple[str, ...] = field(default=())


EMPTY = Cell(NOTHING)


def number(value: float | None, decimals: int = 3, *, bold: bool = False, sign: bool = False) -> Cell:
    """A figure with fixed decimals; a true minus and never a negative zero."""
    if value is None:
        return EMPTY
    return Cell(number_text(value, decimals, sign=sign), value, bold)


def number_text(value: float, decimals: int = 3, *, sign: bool = False) -> str:
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    if float(text) == 0:
        text = f"{0.0:.{decimals}f}"
    return text.replace("-", "−")


def spread(mean: float | None, deviation: float | None, decimals: int = 3, *, bold: bool = False) -> Cell:
    """``0.932 ± 0.004``, or the mean alone for a single seed."""
    if mean is None:
        return EMPTY
    text = number_text(mean, decimals)
    if deviation is not None:
        text = f"{text} ± {number_text(deviation, decimals)}"
    return Cell(text, mean, bold)


def setting(value: Json) -> Cell:
    """A hyperparameter as people write it: ``256, 128``, ``1e-05``, ``true``."""
    if value is None:
        return EMPTY
    if isinstance(value, bool):
        return Cell("true" if value else "false", float(value))
    if isinstance(value, list | tuple):
        return Cell(", ".join(str(item) for item in value), float(len(value)))
    if isinstance(value, int | float):
        return Cell(setting_number(value), float(value))
    return Cell(str(value))


def setting_number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}"


def collapse_constant_columns(
    table: Table, keep: Iterable[str], heading: str, *, alone: Iterable[str] | None = None
) -> Table:
    """Move columns that are equal in every row to the caption; drop those that are empty in every row.

    For settings ``alone`` is given, the ones that always deserve a column: any other is equal when it is so in all
    rows that have it, and in a table of one row only the columns ``alone`` stay.
    """
    kept, constant = [], []
    fixed = set(keep)
    for position, column in enumerate(table.columns):
        texts = {row[position].text for row in table.rows}
        if texts == {NOTHING} or (alone is not None and column.key not in alone):
            texts.discard(NOTHING)
        single = len(table.rows) > 1 or (alone is not None and column.key not in alone)
        if column.key in fixed:
            kept.append(position)
        elif not texts:
            continue
        elif len(texts) == 1 and single:
            constant.append(f"{column.title} {texts.pop()}")
        else:
            kept.append(position)
    sentence = f"{heading}: {'; '.join(constant)}." if constant else ""
    return replace(
        table,
        columns=tuple(table.columns[position] for position in kept),
        rows=tuple(tuple(row[position] for position in kept) for row in table.rows),
        caption=" ".join(part for part in (table.caption, sentence) if part),
    )


def mark_bold(cells: list[Cell], positions: Iterable[int]) -> list[Cell]:
    marked = set(positions)
    return [replace(cell, bold=True) if position in marked else cell for position, cell in enumerate(cells)]


def rows_of(columns: Mapping[str, list[Cell]]) -> tuple[tuple[Cell, ...], ...]:
    """Cells by column turned into rows."""
    return tuple(zip(*columns.values(), strict=True))


# Tables on a terminal.


def aligned(table: Table) -> str:
    """Columns of equal width below the title."""
    lines = [[column.title for column in table.columns], *([cell.text for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(
            text.rjust(width) if column.number else text.ljust(width)
            for text, width, column in zip(line, widths, table.columns, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([f"{table.title}:", *(f"  {line}" for line in texts), ""])


# Tables in CSV: what is shown, cell by cell.


def to_csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.title for column in table.columns])
    writer.writerows(["" if cell.text == NOTHING else cell.text for cell in row] for row in table.rows)
    return out.getvalue()


# Tables in Markdown, as GitHub reads them.


def to_markdown(table: Table) -> str:
    """The table with its caption above it and its notes below."""
    head = [escape_markdown(column.title) for column in table.columns]
    rule = ["---:" if column.number else "---" for column in table.columns]
    lines = [_line(head), _line(rule), *(_line([_markdown_cell(cell) for cell in row]) for row in table.rows)]
    before = f"{escape_markdown(table.caption)}\n\n" if table.caption else ""
    after = "".join(f"\n{escape_markdown(note)}" for note in table.notes)
    return before + "\n".join(lines) + "\n" + (f"{after}\n" if after else "")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    return f"**{text}**" if cell.bold else text


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return text.translate(_MARKDOWN_ESCAPES)


# Tables in HTML: headers with scope, numbers to sort by, everything escaped.


def to_html(table: Table, *, links: Mapping[int, str] | None = None) -> str:
    """The table; ``links`` are addresses by position, for cells that name a run."""
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
        if cell.position is not None and cell.position in links:
            text = f'<a href="{escape(links[cell.position])}">{text}</a>'
        value = "" if cell.value is None else f' data-value="{cell.value:.9g}"'
        tag = 'th scope="row"' if position == 0 else "td"
        cells.append(f"<{tag}{_class(column.number)}{value}>{text}</{tag[:2]}>")
    return cells


def _title(text: str) -> str:
    """Long names of settings may break where people would."""
    return escape(text).replace("_", "_<wbr>")


def _class(number: bool) -> str:
    return ' class="number"' if number else ""


# Tables in LaTeX, with booktabs; a document of them compiles with pdflatex, xelatex and lualatex.


def latex_document(title: str, tables: Iterable[str]) -> str:
    """A whole document, one written table after the other."""
    return LATEX_HEAD + f"\\section*{{{escape_latex(title)}}}\n" + "\n".join(tables) + LATEX_FOOT


def to_latex(table: Table) -> str:
    """One table as a longtable, which may run over pages; in the largest print in which it fits a landscape A4."""
    narrow = len(table.columns) > 6
    headings = [_lines(column.title) if narrow else [column.title] for column in table.columns]
    size, longest = next(
        (fit for fit in LATEX_SIZES if _width_pt(table, headings, fit) <= LATEX_PAGE_PT), LATEX_SIZES[-1]
    )
    kinds = "".join(_kind(table, position, size, longest) for position in range(len(table.columns)))
    caption = " ".join(part for part in (f"{table.title}.", table.caption, *table.notes) if part)
    lines = [
        "% needs \\usepackage{array,booktabs,longtable,amssymb}",
        f"\\begingroup\\{size}\\setlength{{\\tabcolsep}}{{{LATEX_GAP_PT / 2:g}pt}}",
        f"\\begin{{longtable}}{{@{{}}{kinds}@{{}}}}",
        f"\\caption{{{escape_latex(caption)}}}\\\\",
        "\\toprule",
        f"{' & '.join(map(_heading, headings))} \\\\",
        *("\\midrule", "\\endhead", "\\bottomrule", "\\endfoot"),
        *(" & ".join(map(_latex_cell, row)) + " \\\\" for row in table.rows),
        "\\end{longtable}",
        "\\endgroup",
    ]
    return "\n".join([*lines, ""])


def _width_pt(table: Table, headings: Sequence[Sequence[str]], fit: tuple[str, int]) -> float:
    """How wide a table is about: every column as its longest text, long ones wrapped."""
    size, longest = fit
    widths = []
    for position, (column, heading) in enumerate(zip(table.columns, headings, strict=True)):
        cells = _characters(table, position)
        widths.append(max(*map(len, heading), 0, cells if column.number else min(cells, longest)))
    return LATEX_CHARACTER_PT[size] * sum(widths) + LATEX_GAP_PT * (len(widths) - 1)


def _characters(table: Table, position: int) -> int:
    return max((len(row[position].text) for row in table.rows), default=0)


def _kind(table: Table, position: int, size: str, longest: int) -> str:
    if table.columns[position].number:
        return "r"
    if _characters(table, position) <= longest:
        return "l"
    return f">{{\\raggedright\\arraybackslash}}p{{{longest * LATEX_CHARACTER_PT[size]:.0f}pt}}"


def _lines(title: str) -> list[str]:
    """A long name over several lines, so that a dozen columns fit a page."""
    return title.replace("_", "_ ").split(" ")


def _heading(lines: Sequence[str]) -> str:
    parts = [escape_latex(line) for line in lines]
    return parts[0] if len(parts) == 1 else "\\shortstack{" + "\\\\".join(parts) + "}"


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return f"\\textbf{{{text}}}" if cell.bold else text


def escape_latex(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return text.translate(_LATEX_ESCAPES)
