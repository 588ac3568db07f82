"""A data file that is to be read, and the chunks of rows that come out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from jobs.data.files import Quotes
from jobs.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file to read: ``columns`` maps our names to the file's, ``required`` are ours that must be there."""

    path: Path
    format: str
    columns: Mapping[str, str]
    required: frozenset[str]
    header: bool = True
    quotes: Quotes = "checked"


@dataclass(slots=True, kw_only=True)
class Chunk:
    """Consecutive rows of a file: what was read, and how many rows were not rows at all."""

    table: pl.DataFrame
    dropped: dict[str, int] = field(default_factory=dict)


Parse = Callable[[], Chunk]


def present(source: Source, names: list[str]) -> dict[str, str]:
    """Which of our columns a file with these column names has: our name -> the file's.

    Raises ValueError naming the columns there are and the setting to change.
    """
    found = {ours: theirs for ours, theirs in source.columns.items() if theirs in names}
    for ours in sorted(source.required):
        if ours not in found:
            raise InputError(
                f"{source.path}: no column {source.columns[ours]!r}; the columns there are: {', '.join(names)}; "
                f"set data.columns.{ours} to the right one{_advice(source, ours)}"
            )
    return found


def _advice(source: Source, ours: str) -> str:
    if ours in ("language", "quality"):
        return f", or leave out data.{ours}"
    if source.format in ("csv", "tsv") and source.header:
        return " (data.header: false when the first line is a row: the columns are then called 1, 2, ...)"
    return ""
