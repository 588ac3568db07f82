"""Tables in LaTeX, with booktabs; a document of them compiles with pdflatex, xelatex and lualatex."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.report.table import Cell, Table

HEAD = r"""\documentclass{article}
\usepackage{iftex}
\ifPDFTeX\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{textcomp}\fi
\usepackage{booktabs,longtable,pdflscape,amssymb}
\usepackage[margin=1.5cm]{geometry}
\setlength{\tabcolsep}{3.5pt}
\begin{document}
\begin{landscape}
\scriptsize
"""
FOOT = "\\end{landscape}\n\\end{document}\n"


def document(title: str, tables: Iterable[str]) -> str:
    """A whole document, one written table after the other."""
    return HEAD + f"\\section*{{{escape(title)}}}\n" + "\n".join(tables) + FOOT


def write(table: Table) -> str:
    """One table as a longtable, which may run over pages."""
    kinds = "".join("r" if column.number else "l" for column in table.columns)
    head = " & ".join(_heading(column.title, narrow=len(table.columns) > 6) for column in table.columns)
    said = " ".join(part for part in (f"{table.title}.", table.caption, *table.notes) if part)
    lines = [f"\\begin{{longtable}}{{@{{}}{kinds}@{{}}}}", f"\\caption{{{escape(said)}}}\\\\", "\\toprule"]
    lines += [f"{head} \\\\", "\\midrule", "\\endhead", "\\bottomrule", "\\endfoot"]
    lines += [" & ".join(map(_cell, row)) + " \\\\" for row in table.rows]
    return "\n".join([*lines, "\\end{longtable}", ""])


def _heading(title: str, *, narrow: bool) -> str:
    words = title.split(" ")
    if not narrow or len(words) < 2:
        return escape(title)
    # A long name over two or three lines: a dozen columns fit a page.
    return "\\shortstack{" + "\\\\".join(escape(word) for word in words) + "}"


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
