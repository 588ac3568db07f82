"""JSON lines in chunks, read by polars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import polars as pl

from jobs.data.source import Chunk, Parse, Source, present
from jobs.errors import InputError

_SEEN_LINES = 100
_BOM = b"\xef\xbb\xbf"


def parses(source: Source, stream: Iterator[bytes], chunk_bytes: int) -> Iterator[Parse]:
    """See ``jobs.data.formats.parses``. A key that a line lacks is empty there; a value that is no text is its JSON."""
    names: Mapping[str, str] | None = None
    line = 1
    for chunk in _chunks(stream, chunk_bytes):
        if names is None:
            names = present(source, _keys(source, chunk))
        yield lambda chunk=chunk, names=names, line=line: _read(source, names, chunk, line)  # type: ignore[misc]
        line += chunk.count(b"\n")
    if names is None:
        raise InputError(f"{source.path}: an empty file")


def _chunks(stream: Iterator[bytes], chunk_bytes: int) -> Iterator[bytes]:
    pending = b""
    first = True
    for block in stream:
        pending += block
        if len(pending) < chunk_bytes:
            continue
        cut = pending.rfind(b"\n") + 1
        chunk, pending = pending[:cut], pending[cut:]
        if chunk.strip():
            yield chunk.removeprefix(_BOM) if first else chunk
            first = False
    if pending.strip():
        yield pending.removeprefix(_BOM) if first else pending


def _keys(source: Source, chunk: bytes) -> list[str]:
    keys: dict[str, None] = {}
    for number, line in enumerate(chunk.split(b"\n", _SEEN_LINES)[:_SEEN_LINES], start=1):
        if line.strip():
            keys.update(dict.fromkeys(_object(source, line, number)))
    return list(keys)


def _object(source: Source, line: bytes, number: int) -> dict[str, Any]:
    try:
        value = orjson.loads(line.decode("utf-8", "replace"))
    except orjson.JSONDecodeError as error:
        raise InputError(f"{source.path}:{number}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{source.path}:{number}: not a JSON object but {type(value).__name__}")
    return value


def _read(source: Source, names: Mapping[str, str], chunk: bytes, first_line: int) -> Chunk:
    try:
        chunk.decode() if not chunk.isascii() else None
    except UnicodeDecodeError:
        chunk = chunk.decode("utf-8", "replace").encode()
    schema = {theirs: pl.List(pl.String) if ours == "tokens" else pl.String for ours, theirs in names.items()}
    try:
        table = pl.read_ndjson(chunk, schema=schema)
    except pl.exceptions.PolarsError as error:
        for number, line in enumerate(chunk.split(b"\n"), start=first_line):
            if line.strip():
                _object(source, line, number)
        raise InputError(f"{source.path}: from line {first_line} on: {error}") from error
    return Chunk(table=table.select(pl.col(theirs).alias(ours) for ours, theirs in names.items()))
