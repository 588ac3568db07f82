"""A table before it is written in any format: columns, cells with their numbers, a caption."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown; ``value`` is what it is sorted by, ``entry`` the run's position where it names one."""

    text: str
    value: float | None = None
    bold: bool = False
    entry: int | None = None


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


def setting(value: Any) -> Cell:
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


def fold(table: Table, keep: Iterable[str], words_equal: str, *, alone: Iterable[str] | None = None) -> Table:
    """Move columns that are equal in every row to the caption; drop those that are empty in every row.

    For settings ``alone`` is given, the ones that always deserve a column: any other is equal when it is so in all
    rows that have it, and in a table of one row only the columns ``alone`` stay.
    """
    kept, told = [], []
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
            told.append(f"{column.title} {texts.pop()}")
        else:
            kept.append(position)
    said = f"{words_equal}: {'; '.join(told)}." if told else ""
    return replace(
        table,
        columns=tuple(table.columns[position] for position in kept),
        rows=tuple(tuple(row[position] for position in kept) for row in table.rows),
        caption=" ".join(part for part in (table.caption, said) if part),
    )


def embolden(cells: list[Cell], positions: Iterable[int]) -> list[Cell]:
    marked = set(positions)
    return [replace(cell, bold=True) if position in marked else cell for position, cell in enumerate(cells)]


def rows_of(columns: Mapping[str, list[Cell]]) -> tuple[tuple[Cell, ...], ...]:
    """Cells by column turned into rows."""
    return tuple(zip(*columns.values(), strict=True))
