"""JSON lines, and one JSON array as lines: read by polars on any thread, and line by line where that fails.

What is no JSON by the letter but clear is read all the same: half of a surrogate pair and a control character in a
string become U+FFFD, as bytes that cannot be read do, and NaN is a missing value. Any other line is a dropped row, with
its cause; how many there may be is ``data.bad_lines``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain

import orjson
import polars as pl

from jobs.data.encodings import BOM
from jobs.data.files import Chunk, EmptyFileError, Parse, Source, present_columns, whole_lines
from sharedfs.errors import InputError
from sharedfs.typed_json import Json

NO_JSON, NO_OBJECT = "not JSON", "not a JSON object"
_KEY_LINES = 100  # lines looked at for the keys there are
_ARRAY = "json array"  # as the format of a source: its lines are then elements
_EXACT = 2.0**53  # from here on not every whole number is a float
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
# Each escape by itself, so that the second of two backslashes begins none; a whole pair is one.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_STRING, _CONTROL = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL), re.compile(r"[\0-\x1f]")
# What decides where an element of an array ends: whole strings, brackets, commas; and a quote that is not closed yet.
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},"]', re.DOTALL)


def parse_jobs(source: Source, stream: Iterator[bytes], chunk_bytes: int) -> Iterator[Parse]:
    """See ``jobs.data.formats.parse_jobs``. A key that a line lacks is empty there; what is no text is its JSON."""
    source, stream = as_lines(source, stream)
    names: Mapping[str, str] | None = None
    for chunk, line in whole_lines(stream, chunk_bytes):
        if not chunk.strip():
            continue
        if names is None:
            names = present_columns(source, _keys(source, chunk, line))
        yield partial(_read, source, names, chunk, line)
    if names is None:
        raise EmptyFileError(f"{source.path}: an empty file")


def as_lines(source: Source, stream: Iterator[bytes]) -> tuple[Source, Iterator[bytes]]:
    """The stream without its mark, and an array's with an element a line; raises InputError for one without an end."""
    first = b""
    while (len(first) < len(BOM) or not first.strip()) and (block := next(stream, None)) is not None:
        first += block
    first = first.removeprefix(BOM)
    stream = chain([first], stream)
    if not first.lstrip().startswith(b"["):
        return source, stream
    source = replace(source, format=_ARRAY)
    return source, _elements(source, stream)


def _elements(source: Source, stream: Iterator[bytes]) -> Iterator[bytes]:
    """The elements of an array, each on a line of its own."""
    pending, at, start, depth = b"", 0, 0, 0
    for block in stream:
        pending += block
        lines = []
        for mark in _MARKS.finditer(pending, at):
            at, token = mark.end(), mark[0]
            if token == b'"':  # of a string that ends in a later block
                at -= 1
                break
            if len(token) > 1:
                continue
            if token in b"[{":
                depth += 1
                start = at if depth == 1 else start
            elif token in b"]}":
                depth -= 1
            if (token == b"," and depth == 1) or depth == 0:
                lines.append(pending[start : at - 1])
                start = at
            if depth == 0:
                break
        yield b"".join(line.translate(_NO_BREAKS) + b"\n" for line in lines if line.strip())
        if depth == 0 and at:
            _check_end(source, chain([pending[at:]], stream))
            return
        pending, at, start = pending[start:], at - start, 0
    raise InputError(f"{source.path}: the JSON array is not closed: fetch or write the file again")


_NO_BREAKS = bytes.maketrans(b"\r\n", b"  ")


def _check_end(source: Source, rest: Iterator[bytes]) -> None:
    if any(block.strip() for block in rest):
        raise InputError(f"{source.path}: there is more after the end of the JSON array")


def _where(source: Source, number: int) -> str:
    return f"{source.path}: element {number}" if source.format == _ARRAY else f"{source.path}:{number}"


def _keys(source: Source, chunk: bytes, first_line: int) -> list[str]:
    """The keys of the first lines; raises InputError where none of these is an object, or where a column is one."""
    keys: dict[str, None] = {}
    problem = None
    for number, line in enumerate(chunk.split(b"\n", _KEY_LINES)[:_KEY_LINES], start=first_line):
        if not line.strip():
            continue
        value = _object(_without_lone_surrogates(source.valid_utf8(line, number)))
        if isinstance(value, _Problem):
            problem = problem or f"{_where(source, number)}: {value.text}"
            continue
        for ours, theirs in source.columns.items():
            if ours in source.required and isinstance(value.get(theirs), dict):
                raise InputError(
                    f"{_where(source, number)}: {theirs!r} is an object, not text: a file by columns? "
                    "Write a row a line (pandas: to_json(orient='records', lines=True))"
                )
        keys.update(dict.fromkeys(value))
    if problem is not None and not keys:
        raise InputError(problem)
    return list(keys)


def _read(source: Source, names: Mapping[str, str], chunk: bytes, first_line: int) -> Chunk:
    schema = {theirs: pl.List(pl.String) if ours == "tokens" else pl.String for ours, theirs in names.items()}
    text = _without_lone_surrogates(source.valid_utf8(chunk, first_line))
    try:
        table = pl.read_ndjson(text, schema=schema)
    except pl.exceptions.PolarsError:
        return _read_lines(source, names, text, first_line)
    return Chunk(table=table.select(pl.col(theirs).alias(ours) for ours, theirs in names.items()))


def _read_lines(source: Source, names: Mapping[str, str], text: bytes, first_line: int) -> Chunk:
    """Line by line; raises InputError where most lines cannot be read: then it is no such file."""
    rows: list[dict[str, Json]] = []
    positions: list[int] = []
    dropped: Counter[str] = Counter()
    problem = None
    for number, line in enumerate(text.split(b"\n"), start=first_line):
        if not line.strip():
            continue
        value = _object(line)
        if isinstance(value, _Problem):
            dropped[value.cause] += 1
            problem = problem or f"{_where(source, number)}: {value.text}"
        else:
            positions.append(len(rows) + dropped.total())
            rows.append(value)
    if problem is not None and dropped.total() > len(rows):
        raise InputError(problem)
    table = pl.DataFrame(
        {
            ours: [(_tokens if ours == "tokens" else _text)(row.get(theirs)) for row in rows]
            for ours, theirs in names.items()
        },
        schema={ours: pl.List(pl.String) if ours == "tokens" else pl.String for ours in names},
    )
    return Chunk(table=table, positions=positions, dropped=dict(dropped), problem=problem)


class _Problem:
    """Why a line is no row."""

    def __init__(self, cause: str, more: str) -> None:
        self.cause, self.text = cause, f"{cause}{more}"


def _object(line: bytes) -> dict[str, Json] | _Problem:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        text = _STRING.sub(lambda string: _CONTROL.sub("\ufffd", string[0]), line.decode())
        try:
            value = json.loads(text, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            return _Problem(NO_JSON, f": {error}")
    return value if isinstance(value, dict) else _Problem(NO_OBJECT, f" but {type(value).__name__}")


def _without_lone_surrogates(text: bytes) -> bytes:
    # Polars takes half of a pair for the character 0, and says nothing.
    if not _LONE_SURROGATE.search(text):
        return text
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape["lone"] else escape[0], text)


def _text(value: Json) -> str | None:
    """A value as polars writes it: a whole number without ``.0``."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)
    return (
        str(value) if isinstance(value, int | float) and not isinstance(value, bool) else orjson.dumps(value).decode()
    )


def _tokens(value: Json) -> list[str | None] | None:
    if value is None:
        return None
    return [_text(item) for item in value] if isinstance(value, list) else [_text(value)]
