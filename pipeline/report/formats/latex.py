"""Tables in LaTeX, with booktabs; a document of them compiles with pdflatex, xelatex and lualatex."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.report.table import Cell, Table

HEAD = r"""\documentclass[a4paper]{article}
\usepackage{iftex}
\ifPDFTeX\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{textcomp}\fi
\usepackage{array,booktabs,longtable,pdflscape,amssymb}
\usepackage[margin=1.5cm]{geometry}
\begin{document}
\begin{landscape}
\setlength{\LTcapwidth}{\linewidth}
"""
PAGE_PT = 750.0  # a landscape A4 within its margins
GAP_PT = 7.0
CHARACTER_PT = {"scriptsize": 4.1, "tiny": 3.2}
SIZES = (
    ("scriptsize", 30),
    ("scriptsize", 18),
    ("tiny", 30),
    ("tiny", 14),
    ("tiny", 9),
)  # and characters in a line of text
FOOT = "\\end{landscape}\n\\end{document}\n"


def document(title: str, tables: Iterable[str]) -> str:
    """A whole document, one written table after the other."""
    return HEAD + f"\\section*{{{escape(title)}}}\n" + "\n".join(tables) + FOOT


def write(table: Table) -> str:
    """One table as a longtable, which may run over pages; in the largest print in which it fits a landscape A4."""
    narrow = len(table.columns) > 6
    headings = [_lines(column.title) if narrow else [column.title] for column in table.columns]
    size, longest = next((fit for fit in SIZES if _width_pt(table, headings, fit) <= PAGE_PT), SIZES[-1])
    kinds = "".join(_kind(table, place, size, longest) for place in range(len(table.columns)))
    said = " ".join(part for part in (f"{table.title}.", table.caption, *table.notes) if part)
    lines = [
        "% needs \\usepackage{array,booktabs,longtable,amssymb}",
        f"\\begingroup\\{size}\\setlength{{\\tabcolsep}}{{{GAP_PT / 2:g}pt}}",
        f"\\begin{{longtable}}{{@{{}}{kinds}@{{}}}}",
        f"\\caption{{{escape(said)}}}\\\\",
        "\\toprule",
        f"{' & '.join(map(_heading, headings))} \\\\",
        *("\\midrule", "\\endhead", "\\bottomrule", "\\endfoot"),
        *(" & ".join(map(_cell, row)) + " \\\\" for row in table.rows),
        "\\end{longtable}",
        "\\endgroup",
    ]
    return "\n".join([*lines, ""])


def _width_pt(table: Table, headings: Sequence[Sequence[str]], fit: tuple[str, int]) -> float:
    """How wide a table is about: every column as its longest text, long ones wrapped."""
    size, longest = fit
    widths = []
    for place, (column, heading) in enumerate(zip(table.columns, headings, strict=True)):
        cells = _characters(table, place)
        widths.append(max(*map(len, heading), 0, cells if column.number else min(cells, longest)))
    return CHARACTER_PT[size] * sum(widths) + GAP_PT * (len(widths) - 1)


def _characters(table: Table, place: int) -> int:
    return max((len(row[place].text) for row in table.rows), default=0)


def _kind(table: Table, place: int, size: str, longest: int) -> str:
    if table.columns[place].number:
        return "r"
    if _characters(table, place) <= longest:
        return "l"
    return f">{{\\raggedright\\arraybackslash}}p{{{longest * CHARACTER_PT[size]:.0f}pt}}"


def _lines(title: str) -> list[str]:
    """A long name over several lines, so that a dozen columns fit a page."""
    return title.replace("_", "_ ").split(" ")


def _heading(lines: Sequence[str]) -> str:
    words = [escape(line) for line in lines]
    return words[0] if len(words) == 1 else "\\shortstack{" + "\\\\".join(words) + "}"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"\\textbf{{{text}}}" if cell.bold else text


_ESCAPES = str.maketrans(
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


def escape(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return text.translate(_ESCAPES)
