"""CSV and TSV in chunks: cut where a row ends, read by polars, or by Python's reader where quotes are irregular.

A chunk is cut at the last line feed outside quotes, which is found without parsing (``csv_quotes.last_row_end``), and
polars reads it on any thread. Python's csv module reads the chunk instead where a quote is not where a CSV writer puts
one, or where a row has too many fields: it is slower, and says which row is at fault. ``quotes``
decides what a quote is:

- ``double``: it opens a field at the field's beginning, and closes it;
- ``checked``: the same, and a field of several lines that would each be a row is an error: a stray quote at the
  beginning of a title would otherwise swallow all rows up to the next quote;
- ``none``: a character like any other.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import polars as pl

from jobs.data import csv_quotes
from jobs.data.encodings import BOM
from jobs.data.files import Chunk, EmptyFileError, Parse, Source, present_columns
from sharedfs.errors import InputError

if TYPE_CHECKING:
    from _csv import Reader

SEPARATORS = {"csv": ",", "tsv": "\t"}
TOO_MANY = "too many fields"
LONGEST_ROW = 16 << 20
_LONGEST_HEADER = 1 << 20
_SEPARATOR_LINE = re.compile(rb'"?sep=(?P<separator>[,;|\t])"?', re.IGNORECASE)
_QUOTED = re.compile(rb'"[^"]*+"')
_QUOTES_HINT = "if quotes are characters of the text, set data.quotes: none (tanda init --quotes none)"
# Python's reader ends rows at a carriage return alone, which polars takes as a character, as we do. A lone surrogate
# stands for it meanwhile: decoded text holds none.
_LONE_RETURN, _STAND_IN = re.compile(r"\r(?!\n)"), "\udc0d"


def parse_jobs(source: Source, stream: Iterator[bytes], chunk_bytes: int) -> Iterator[Parse]:
    """See ``jobs.data.formats.parse_jobs``.

    A row with more fields than the header is dropped and counted; in one with fewer the missing ones are empty.
    Raises ValueError naming the line, whatever the chunks, for a quote that is never closed, for text after a closing
    quote, for bytes that are not UTF-8, and (``quotes: checked``) for a quoted field that swallowed rows.
    """
    source, stream, line = _after_preamble(source, stream)
    first, pending = _first_row(source, stream, line)
    reader = _Reader(source=source, names=_names(source, first, line))
    if source.header:
        line += first.count(b"\n")
    else:
        pending = first + pending
    more = True
    while more:
        if (block := next(stream, None)) is not None:
            pending += block
            if len(pending) < chunk_bytes:
                continue
        else:
            more = False
            pending = _with_last_line_end(pending)
        try:
            parse, cut = reader.cut(pending, line, more=more)
        except ValueError as error:
            # Raised when its turn comes: an earlier chunk, not read yet, may have an error in an earlier line.
            yield functools.partial(_raise, error)
            return
        if parse is not None:
            yield parse
        line += csv_quotes.count_lines(pending, cut)
        pending = pending[cut:]


def column_names(source: Source, stream: Iterator[bytes]) -> list[str]:
    """The names of the columns: the first row's fields, or 1, 2, ... where that is a row like others."""
    source, stream, line = _after_preamble(source, stream)
    return _names(source, _first_row(source, stream, line)[0], line)


def _after_preamble(source: Source, stream: Iterator[bytes]) -> tuple[Source, Iterator[bytes], int]:
    """The file without what stands before its first row, the separator that this names, and that row's line.

    Blank lines, Excel's ``sep=;``, and above a header also comments: lines that begin with # and are no header.
    """
    pending, line = b"", 1
    while True:
        block = next(stream, None)
        pending = (pending + (block or b"")).removeprefix(BOM)
        while (end := pending.find(b"\n")) >= 0:
            first = pending[:end].removesuffix(b"\r")
            if (named := _SEPARATOR_LINE.fullmatch(first)) is not None:
                source = replace(source, separator=named["separator"].decode())
            elif first.strip(b" ") and not (source.header and _is_comment(source, first, pending[end + 1 :])):
                return _with_separator_of(first, source), itertools.chain([pending], stream), line
            pending, line = pending[end + 1 :], line + 1
        if block is None or len(pending) > _LONGEST_HEADER:
            return source, itertools.chain([pending], stream), line


def _with_separator_of(first: bytes, source: Source) -> Source:
    """A csv whose first line has no comma outside quotes, but tabs or semicolons: separated by these.

    Spreadsheets write semicolons where the comma is the decimal point. A file of titles alone and without a header
    has no separator: its first title may have a semicolon.
    """
    bare = _QUOTED.sub(b"", first)
    if source.format != "csv" or source.separator is not None or b"," in bare:
        return source
    alone = not source.header and len(source.required) == 1
    separator = max("\t" if alone else "\t;", key=lambda one: bare.count(one.encode()))
    return replace(source, separator=separator) if separator.encode() in bare else source


def _is_comment(source: Source, line: bytes, following: bytes) -> bool:
    if not line.startswith(b"#"):
        return False
    separator = _separator(source).encode()
    if source.required:
        return not {source.columns[ours].encode() for ours in source.required} <= {*line.split(separator)}
    return line.count(separator) != following.partition(b"\n")[0].count(separator)


def _separator(source: Source) -> str:
    return source.separator or SEPARATORS[source.format]


def _first_row(source: Source, stream: Iterator[bytes], line: int) -> tuple[bytes, bytes]:
    """The first row, which is on this line, and what was read of the stream beyond it."""
    separator = _separator(source)
    pending, more = b"", True
    while more:
        more = (block := next(stream, None)) is not None
        pending += block or b""
        if not more:
            pending = _with_last_line_end(pending)
        if source.quotes == "none":
            end = csv_quotes.RowEnd(state="whole" if b"\n" in pending else "cut", at=pending.find(b"\n") + 1)
        else:
            end = csv_quotes.first_row_end(pending, separator)
        if end.state in ("whole", "broken") or len(pending) > _LONGEST_HEADER:
            break
    if not pending.strip():
        raise EmptyFileError(f"{source.path}: an empty file")
    if end.state == "cut" or end.at > _LONGEST_HEADER:
        raise InputError(
            f"{source.path}: a first line of more than {_LONGEST_HEADER} bytes: not a {source.format} file"
        )
    if end.state != "whole":
        _refuse_quote(source, line + pending.count(b"\n", 0, end.at), end)
    first = pending[: end.at]
    if source.quotes == "checked" and first.count(b"\n") > 1 and csv_quotes.each_line_is_a_row(first, separator):
        _refuse_lines(source, line, first)
    return first, pending[end.at :]


def _names(source: Source, first: bytes, line: int) -> list[str]:
    lines = io.StringIO(source.valid_utf8(first, line).decode(), newline="\n")
    try:
        fields = next(_python_reader(source, lines), [])
    except csv.Error as error:
        raise _no_csv(source, line, error) from error
    return fields if source.header else [str(number) for number in range(1, len(fields) + 1)]


def _python_reader(source: Source, lines: io.StringIO) -> Reader:
    return csv.reader(
        lines,
        delimiter=_separator(source),
        quoting=csv.QUOTE_NONE if source.quotes == "none" else csv.QUOTE_MINIMAL,
        strict=True,
    )


def _with_last_line_end(text: bytes) -> bytes:
    return text.removesuffix(b"\r") + b"\n" if text and not text.endswith(b"\n") else text


class _Reader:
    """Reads the rows of a file whose columns are known."""

    def __init__(self, *, source: Source, names: list[str]) -> None:
        self._source = source
        self._separator = _separator(source)
        self._width = len(names)
        self._columns = {ours: names.index(theirs) for ours, theirs in present_columns(source, names).items()}

    def cut(self, text: bytes, line: int, *, more: bool) -> tuple[Parse | None, int]:
        """A job that reads this text's whole rows, the first of them on this line, and where they end.

        ``more``: the file goes on after it. Raises ValueError for a quote that breaks the file.
        """
        if self._source.quotes == "none":
            end: int | None = text.rfind(b"\n") + 1
        else:
            end = csv_quotes.last_row_end(text, self._separator)
        if end is None or (end < len(text) and not more) or (end == 0 and len(text) > LONGEST_ROW):
            rows, end = self._rows_by_python(text, line, more=more)
            return (lambda: self._chunk(rows)) if rows else None, end
        chunk = text[:end]
        return (lambda: self._read(chunk, line)) if chunk else None, end

    def _read(self, chunk: bytes, line: int) -> Chunk:
        if self._source.quotes == "checked":
            for number, row in csv_quotes.rows_in_doubt(chunk, self._separator, self._width):
                self._check_lines(line + number, row)
        chunk = self._source.valid_utf8(chunk, line)
        try:
            table = pl.read_csv(
                chunk,
                has_header=False,
                separator=self._separator,
                quote_char=None if self._source.quotes == "none" else '"',
                schema={f"column_{number + 1}": pl.String for number in range(self._width)},
                columns=sorted(set(self._columns.values())),
                raise_if_empty=False,
            )
        except pl.exceptions.PolarsError:
            # Some row has more fields than the header: the slow reader says which, and keeps the others.
            return self._chunk(self._rows_by_python(chunk, line, more=False)[0])
        return Chunk(table=table.select(pl.col(f"column_{at + 1}").alias(ours) for ours, at in self._columns.items()))

    def _rows_by_python(self, text: bytes, line: int, *, more: bool) -> tuple[list[list[str]], int]:
        """The whole rows by Python's csv module, which keeps a stray quote as a character, and where they end."""
        whole = self._source.valid_utf8(text[: text.rfind(b"\n") + 1], line).decode()
        if "\r" in whole:
            whole = _LONE_RETURN.sub(_STAND_IN, whole)
        reader = _python_reader(self._source, io.StringIO(whole, newline="\n"))
        rows: list[list[str]] = []
        multiline: list[tuple[int, int]] = []  # first line, and the line after the last
        done, failure = 0, None
        try:
            for row in reader:
                rows.append(row)
                if reader.line_num > done + 1:
                    multiline.append((done, reader.line_num))
                done = reader.line_num
        except csv.Error as error:
            failure = error
        starts = csv_quotes.line_starts(text)
        if self._source.quotes == "checked":
            for first, after in multiline:
                self._check_lines(line + first, text[starts[first] : starts[after]])
        end = int(starts[done])
        if failure is not None or end < len(text):
            self._check_rest(text[end:], line + done, failure, more=more)
        return rows, end

    def _check_lines(self, line: int, row: bytes) -> None:
        if csv_quotes.each_line_is_a_row(row, self._separator, self._width):
            _refuse_lines(self._source, line, row)

    def _check_rest(self, rest: bytes, line: int, failure: csv.Error | None, *, more: bool) -> None:
        """Raise ValueError unless the text after the last whole row is a row that may end in a later block."""
        too_long = len(rest) > LONGEST_ROW
        if failure is not None:
            end = csv_quotes.first_row_end(rest, self._separator)
            if end.state in ("open", "cut") and more and not too_long:
                return
            if end.state in ("open", "broken"):
                _refuse_quote(self._source, line + rest.count(b"\n", 0, end.at), end)
            raise _no_csv(self._source, line, failure) from failure
        if too_long:
            raise InputError(f"{self._source.path}:{line}: a line of more than {LONGEST_ROW} bytes")

    def _chunk(self, rows: list[list[str]]) -> Chunk:
        positions = [at for at, row in enumerate(rows) if len(row) <= self._width]
        good = [rows[at] for at in positions]
        values: Mapping[str, list[str | None]] = {
            ours: [row[at].replace(_STAND_IN, "\r") if at < len(row) else None for row in good]
            for ours, at in self._columns.items()
        }
        table = pl.DataFrame(values, schema=dict.fromkeys(self._columns, pl.String))
        if len(good) == len(rows):
            return Chunk(table=table)
        return Chunk(table=table, positions=positions, dropped={TOO_MANY: len(rows) - len(good)})


def _raise(error: ValueError) -> NoReturn:
    raise error


def _no_csv(source: Source, line: int, error: csv.Error) -> ValueError:
    return InputError(f"{source.path}:{line}: not {source.format}: {error}")


def _refuse_quote(source: Source, line: int, end: csv_quotes.RowEnd) -> NoReturn:
    what = "is not closed" if end.state == "open" else "is closed before the end of its field"
    raise InputError(f"{source.path}:{line}: the quote that opens a field {what}; {_QUOTES_HINT}")


def _refuse_lines(source: Source, line: int, row: bytes) -> NoReturn:
    last = line + row.count(b"\n") - 1
    raise InputError(
        f"{source.path}:{line}: a quoted field runs on to line {last}, and each of these lines would be a row by "
        f"itself; {_QUOTES_HINT}; if it is one field, data.quotes: double"
    )
