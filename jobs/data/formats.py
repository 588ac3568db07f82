"""A data file as a stream of tables with the columns that matter: text (or tokens), label, language, quality."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson
import polars as pl

from jobs.data import csv_text
from jobs.data.encodings import BOM
from jobs.data.files import Chunk, Parse, Source, present_columns, whole_lines
from sharedfs.errors import InputError
from sharedfs.typed_json import Json

CHUNK_BYTES = 8 << 20
_PARQUET_ROWS = 100_000
_EXACT = 2.0**53  # from here on not every whole number is a float
_KEY_LINES = 100  # lines looked at for the keys there are


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
        yield from jsonl_parse_jobs(source, stream, CHUNK_BYTES)
    else:
        yield from csv_text.parse_jobs(source, stream, CHUNK_BYTES)


# JSON lines, in chunks that end where a line ends.


def jsonl_parse_jobs(source: Source, stream: Iterator[bytes], chunk_bytes: int) -> Iterator[Parse]:
    """As ``parse_jobs``. A key that a line lacks is empty there; a value that is no text is its JSON."""
    names: Mapping[str, str] | None = None
    for chunk, line in whole_lines(stream, chunk_bytes):
        chunk = chunk.removeprefix(BOM) if line == 1 else chunk
        if not chunk.strip():
            continue
        if names is None:
            names = present_columns(source, _keys(source, chunk, line))
        yield partial(_read_jsonl, source, names, chunk, line)
    if names is None:
        raise InputError(f"{source.path}: an empty file")


def _keys(source: Source, chunk: bytes, first_line: int) -> list[str]:
    keys: dict[str, None] = {}
    for number, line in enumerate(chunk.split(b"\n", _KEY_LINES)[:_KEY_LINES], start=first_line):
        if line.strip():
            keys.update(dict.fromkeys(_object(source, line, number)))
    return list(keys)


def _object(source: Source, line: bytes, number: int) -> dict[str, Json]:
    try:
        value = orjson.loads(source.valid_utf8(line, number))
    except orjson.JSONDecodeError as error:
        raise InputError(f"{source.path}:{number}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{source.path}:{number}: not a JSON object but {type(value).__name__}")
    return value


def _read_jsonl(source: Source, names: Mapping[str, str], chunk: bytes, first_line: int) -> Chunk:
    schema = {theirs: pl.List(pl.String) if ours == "tokens" else pl.String for ours, theirs in names.items()}
    try:
        table = pl.read_ndjson(source.valid_utf8(chunk, first_line), schema=schema)
    except pl.exceptions.PolarsError as error:
        for number, line in enumerate(chunk.split(b"\n"), start=first_line):
            if line.strip():
                _object(source, line, number)
        raise InputError(f"{source.path}: from line {first_line} on: {error}") from error
    return Chunk(table=table.select(pl.col(theirs).alias(ours) for ours, theirs in names.items()))


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
