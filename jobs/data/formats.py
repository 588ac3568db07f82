"""A data file as a stream of tables with the columns that matter: text (or tokens), label, language, quality."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import polars as pl

from jobs.data import csv_text, json_lines
from jobs.data.files import Chunk, Parse, Source, present_columns
from sharedfs.errors import InputError

CHUNK_BYTES = 8 << 20
_PARQUET_ROWS = 100_000
_EXACT = 2.0**53  # from here on not every whole number is a float


def parse_jobs(source: Source, read: Callable[[int], None]) -> Iterator[Parse]:
    """The file as pieces of work that can be done on any thread, in order; calling one gives its rows.

    Columns of the chunks: ``text`` or ``tokens``, ``label``, and ``language`` and ``quality`` where the file
    has them; strings, and a list of strings for tokens. Raises ValueError naming file, and line where there is
    one, for a file that is not of its format or lacks a required column.
    """
    if source.format == "parquet":
        yield from _parquet(source, read)
        return
    stream = source.blocks(read)
    if source.format == "jsonl":
        yield from json_lines.parse_jobs(source, stream, CHUNK_BYTES)
    else:
        yield from csv_text.parse_jobs(source, stream, CHUNK_BYTES)


# Parquet, by batches of rows.


def _parquet(source: Source, read: Callable[[int], None]) -> Iterator[Parse]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = source.path.stat().st_size
    try:
        with pq.ParquetFile(source.path) as file:
            names = present_columns(source, file.schema_arrow.names)
            total = max(1, file.metadata.num_rows)
            for batch in file.iter_batches(_PARQUET_ROWS, columns=list(names.values())):
                read(size * batch.num_rows // total)
                yield partial(_from_arrow, source, names, batch)
    except (pa.ArrowException, OSError) as error:  # an OSError is also how Arrow refuses what is no parquet
        raise InputError(f"{source.path}: broken parquet file: {error}") from error


def _from_arrow(source: Source, names: Mapping[str, str], batch: Any) -> Chunk:
    table = pl.DataFrame(pl.from_arrow(batch))
    kinds = {ours: pl.List(pl.String) if ours == "tokens" else pl.String for ours in names}
    for ours, theirs in names.items():
        if table.schema[theirs].is_nested() and not isinstance(table.schema[theirs], type(kinds[ours])):
            raise InputError(
                f"{source.path}: column {theirs!r} is {table.schema[theirs]}, not text (data.columns.{ours})"
            )
    try:
        table = table.select(
            _as_text(table.schema[theirs], theirs).cast(kinds[ours]).alias(ours) for ours, theirs in names.items()
        )
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{source.path}: a column that can't be read as text: {error}") from error
    return Chunk(table=table)


def _as_text(kind: pl.DataType, name: str) -> pl.Expr:
    """A column as text: what is no number is missing, and a whole number is written without ``.0``, as JSON's are."""
    column = pl.col(name)
    if kind.is_decimal():
        return column.cast(pl.String).str.replace(r"\.0*$", "")
    if not kind.is_float():
        return column
    whole = (column == column.round()) & (column.abs() < _EXACT)
    text = pl.when(whole).then(column.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(column.cast(pl.String))
    return pl.when(column.is_nan()).then(None).otherwise(text)
