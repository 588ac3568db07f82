"""CSV and TSV in chunks: cut where a row ends, read by polars, or by Python's reader where quotes are astray."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import polars as pl

from jobs.data.source import Chunk, Parse, Source, present

SEPARATORS = {"csv": ",", "tsv": "\t"}
TOO_MANY = "too many fields"
_NEWLINE, _RETURN, _QUOTE = 10, 13, 34
_BOM = b"\xef\xbb\xbf"
_LONGEST_HEADER = 1 << 20
_PYTHON_ROWS = 50_000


def parses(source: Source, stream: Iterator[bytes], chunk_bytes: int) -> Iterator[Parse]:
    """See ``jobs.data.tables.parses``.

    A row with more fields than the header is dropped and counted; in one with fewer the missing ones are empty.
    Bytes that are not UTF-8 become U+FFFD.
    """
    separator = SEPARATORS[source.format]
    first, rest = _first_line(source, stream)
    try:
        fields = next(csv.reader([first.decode("utf-8", "replace")], delimiter=separator), [])
    except csv.Error as error:
        raise _no_csv(source, error) from error
    names = fields if source.header else [str(number) for number in range(1, len(fields) + 1)]
    shape = _Shape(source=source, separator=separator, names=names)
    pending = rest if source.header else first + b"\n" + rest
    for block in stream:
        pending += block
        if len(pending) < chunk_bytes:
            continue
        cut = _end_of_rows(pending, ord(separator))
        if cut is None:
            yield from shape.by_python(itertools.chain([pending], stream))
            return
        chunk, pending = pending[:cut], pending[cut:]
        if chunk:
            yield lambda chunk=chunk: shape.read(chunk)  # type: ignore[misc]
    if pending:
        if _end_of_rows(pending + b"\n", ord(separator)) != len(pending) + 1:
            yield from shape.by_python([pending])
        else:
            yield lambda: shape.read(pending)


def _no_csv(source: Source, error: csv.Error) -> ValueError:
    return ValueError(f"{source.path}: not a {source.format} file: {error}")


def _first_line(source: Source, stream: Iterator[bytes]) -> tuple[bytes, bytes]:
    pending = b""
    for block in stream:
        pending += block
        if b"\n" in pending or len(pending) > _LONGEST_HEADER:
            break
    pending = pending.removeprefix(_BOM)
    if not pending.strip():
        raise ValueError(f"{source.path}: an empty file")
    first, _, rest = pending.partition(b"\n")
    if len(first) > _LONGEST_HEADER:
        raise ValueError(
            f"{source.path}: a first line of more than {_LONGEST_HEADER} bytes: not a {source.format} file"
        )
    return first.rstrip(b"\r"), rest


def _end_of_rows(text: bytes, separator: int) -> int | None:
    """Where the last whole row ends (0: none does), or None when a quote stands where no CSV writer puts one."""
    data = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(data == _QUOTE)
    opening, closing = quotes[0::2], quotes[1::2]
    before = data[opening[opening > 0] - 1]
    after = data[closing[closing < len(data) - 1] + 1]
    if not (
        np.isin(before, (_NEWLINE, separator, _QUOTE)).all()
        and np.isin(after, (_NEWLINE, _RETURN, separator, _QUOTE)).all()
    ):
        return None
    end = len(text) if len(quotes) % 2 == 0 else int(quotes[-1])
    while (newline := text.rfind(b"\n", 0, end)) >= 0:
        inside = int(np.searchsorted(quotes, newline))
        if inside % 2 == 0:
            return newline + 1
        end = int(quotes[inside - 1])
    return 0


class _Shape:
    """A file's columns, and how a chunk of its rows is read."""

    def __init__(self, *, source: Source, separator: str, names: list[str]) -> None:
        self._source = source
        self._separator = separator
        self._width = len(names)
        self._columns = {ours: names.index(theirs) for ours, theirs in present(source, names).items()}

    def read(self, chunk: bytes) -> Chunk:
        try:
            chunk.decode() if not chunk.isascii() else None
        except UnicodeDecodeError:
            chunk = chunk.decode("utf-8", "replace").encode()
        try:
            table = pl.read_csv(
                chunk,
                has_header=False,
                separator=self._separator,
                schema={f"column_{number + 1}": pl.String for number in range(self._width)},
                columns=sorted(set(self._columns.values())),
                raise_if_empty=False,
            )
        except pl.exceptions.PolarsError:
            # Some row has more fields than the header: the slow reader says which, and keeps the others.
            tables = [piece() for piece in self.by_python([chunk])]
            dropped = sum(piece.dropped.get(TOO_MANY, 0) for piece in tables)
            return Chunk(table=pl.concat([piece.table for piece in tables]), dropped={TOO_MANY: dropped})
        return Chunk(table=table.select(pl.col(f"column_{at + 1}").alias(ours) for ours, at in self._columns.items()))

    def by_python(self, stream: Iterable[bytes]) -> Iterator[Parse]:
        """The rest of a file by Python's csv module, which takes a stray quote as it stands."""
        lines = io.TextIOWrapper(
            io.BufferedReader(_Stream(iter(stream))), encoding="utf-8", errors="replace", newline=""
        )
        rows = csv.reader(lines, delimiter=self._separator)
        while True:
            try:
                batch = list(itertools.islice(rows, _PYTHON_ROWS))
            except csv.Error as error:
                raise _no_csv(self._source, error) from error
            yield lambda batch=batch: self._rows(batch)  # type: ignore[misc]
            if len(batch) < _PYTHON_ROWS:
                return

    def _rows(self, rows: list[list[str]]) -> Chunk:
        good = [row for row in rows if len(row) <= self._width]
        values: Mapping[str, list[str | None]] = {
            ours: [row[at] if at < len(row) else None for row in good] for ours, at in self._columns.items()
        }
        table = pl.DataFrame(values, schema=dict.fromkeys(self._columns, pl.String))
        return Chunk(table=table, dropped={TOO_MANY: len(rows) - len(good)} if len(good) < len(rows) else {})


class _Stream(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = block
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
