"""Quotes in a CSV: where rows end, which quote breaks the file, which field may have swallowed rows.

A field that begins with a quote is quoted: it ends at the next quote that is not doubled, and may hold separators and
line feeds. Any other quote is a character. Lines end at a line feed; a carriage return alone is a character.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NEWLINE, RETURN, QUOTE = 10, 13, 34  # as in a numpy array of bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RowEnd:
    """How a row ends: ``whole`` at a line feed, ``open`` inside quotes, ``broken`` by text after a closing quote.

    ``at`` is the position of the next row, or that of the quote that opened the field; ``cut`` has no line feed.
    """

    state: Literal["whole", "open", "broken", "cut"]
    at: int


def first_row_end(text: bytes, separator: str) -> RowEnd:
    """How the row ends that begins with this text, and where."""
    field, at = _field(separator), 0
    while True:
        start, match = at, field.match(text, at)
        assert match is not None  # the pattern matches the empty text, too
        at = match.end()
        if match["quoted"] is None and text[start : start + 1] == b'"':
            return RowEnd(state="open", at=start)
        if text[at : at + 2] in (b"", b"\r"):
            return RowEnd(state="cut", at=at)
        if text[at] == NEWLINE or text[at : at + 2] == b"\r\n":
            return RowEnd(state="whole", at=text.index(b"\n", at) + 1)
        if text[at] != ord(separator):
            return RowEnd(state="broken", at=start)
        at += 1


@functools.cache
def _field(separator: str) -> re.Pattern[bytes]:
    # Possessive quantifiers: a field that is never closed must not match up to the first half of a doubled quote.
    return re.compile(rb'(?P<quoted>"(?:[^"]++|"")*+")|[^\n%b]*+' % separator.encode())


def last_row_end(text: bytes, separator: str) -> int | None:
    """Where the last whole row ends (0: none does), or None when a quote is where no CSV writer puts one.

    In a file as RFC 4180 has it, quotes alternate: the first, third, ... opens a field (or is the second half of a
    doubled quote), the second, fourth, ... closes one (or is the first half). So a position is inside quotes where an
    odd number of quotes is before it, and no row has to be parsed. One stray quote would turn inside and outside round
    for the rest of the text; therefore every opening quote must follow a separator, a line end or a quote, and every
    closing quote must be followed by one. Where that does not hold, rows have to be read one by one (None). Costs a
    few passes of numpy over the text.
    """
    data = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(data == QUOTE)
    opening, closing = quotes[0::2], quotes[1::2]
    before = data[opening[opening > 0] - 1]
    after = data[closing[closing < len(data) - 1] + 1]
    pairs = closing[closing < len(data) - 2]
    pairs = pairs[data[pairs + 1] == RETURN]
    if not (
        np.isin(before, (NEWLINE, ord(separator), QUOTE)).all()
        and np.isin(after, (NEWLINE, RETURN, ord(separator), QUOTE)).all()
        and (data[pairs + 2] == NEWLINE).all()
    ):
        return None
    end = len(text) if len(quotes) % 2 == 0 else int(quotes[-1])
    while (newline := text.rfind(b"\n", 0, end)) >= 0:
        inside = int(np.searchsorted(quotes, newline))
        if inside % 2 == 0:
            return newline + 1
        end = int(quotes[inside - 1])
    return 0


def line_starts(text: bytes) -> NDArray[np.int64]:
    """Where each line of the text begins; the last is what follows the last line feed."""
    return np.concatenate(([0], np.flatnonzero(np.frombuffer(text, np.uint8) == NEWLINE) + 1))


def count_lines(text: bytes, end: int) -> int:
    """The line feeds before this position; several times faster than ``bytes.count`` where there are many."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8, count=end) == NEWLINE))


def rows_in_doubt(text: bytes, separator: str, width: int) -> Iterator[tuple[int, bytes]]:
    """The rows of several lines, each of them with the separators of a whole row: number of the first line, and text.

    Lines count from 0. The text must be whole rows in which quotes alternate (``last_row_end``). Quotes within a line
    are not looked at, so this finds too many rows and never too few; ``each_line_is_a_row`` decides. All lines are
    filtered at once, so that a file in which most rows span several lines is not slow.
    """
    if b'"' not in text:
        return
    data = np.frombuffer(text, np.uint8)
    newlines = np.flatnonzero(data == NEWLINE)
    inside = np.searchsorted(np.flatnonzero(data == QUOTE), newlines) % 2 == 1
    if not inside.any():
        return
    separators = np.searchsorted(np.flatnonzero(data == ord(separator)), newlines)
    blank = np.diff(newlines, prepend=-1) <= len(b"\r\n")
    enough = blank | (np.diff(separators, prepend=0) >= width - 1)
    last_lines = np.flatnonzero(~inside)
    first_lines = np.concatenate(([0], last_lines[:-1] + 1))
    doubtful = (first_lines < last_lines) & np.logical_and.reduceat(enough, first_lines)
    for row in np.flatnonzero(doubtful).tolist():
        first = int(first_lines[row])
        start = int(newlines[first - 1]) + 1 if first else 0
        yield first, text[start : int(newlines[last_lines[row]]) + 1]


def each_line_is_a_row(row: bytes, separator: str, width: int | None = None) -> bool:
    """Whether each line of a row of several lines would be a row of this many fields by itself.

    Without ``width``: of as many as its first line. A quote that a line leaves open is a character of that line; blank
    lines do not count; one field alone is not taken for a row.
    """
    lines = [line for line in (line.rstrip(b"\r") for line in row.split(b"\n")) if line]
    width = width or _count_fields(lines[0], separator)
    return width > 1 and len(lines) > 1 and all(_count_fields(line, separator) == width for line in lines)


def _count_fields(line: bytes, separator: str) -> int:
    """The number of fields of a line read by itself; 0 when there is text after a closing quote."""
    field, at, count = _field(separator), 0, 0
    while True:
        match = field.match(line, at)
        assert match is not None  # the pattern matches the empty text, too
        at, count = match.end(), count + 1
        if at == len(line):
            return count
        if line[at] != ord(separator):
            return 0
        at += 1
