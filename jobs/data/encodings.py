"""The characters of a text file, in UTF-8 whatever its encoding is; what can't be read is an error naming the line.

``auto`` is UTF-8, or UTF-16 or UTF-32 where the file begins with its mark. UTF-8 passes as it is and is checked by
chunks, on any thread (``valid_utf8``); another encoding is decoded while the file is read.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from sharedfs.errors import InputError

AUTO = "auto"
BOM = codecs.BOM_UTF8
# The longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LONGEST_MARK, _START = 4, 1024
# What Spanish, Portuguese and English spreadsheets are saved in; the first of two that are equally good is taken.
_CANDIDATES = ("cp1252", "mac_roman", "cp850")
_LETTERS = frozenset("áéíóúñüçãõâêôàèºª¿¡°´’‘“”–€®ÁÉÍÓÚÑÜÇÃÕÂÊÔÀÈ")
_OR_REPLACE = ", or data.replace_bytes: true, which puts U+FFFD in the place of what can't be read"
_LOOK = 1 << 20  # bytes that an encoding is guessed from


def check_encoding(name: str) -> None:
    """Raise ValueError for a name that is none of Python's encodings of text."""
    if name == AUTO:
        return
    try:
        "a".encode(name)
    except (LookupError, UnicodeError, ValueError) as error:
        some = "utf-8, utf-16, cp1252, latin-1, mac_roman, ..."
        raise ValueError(f"encoding: {name!r} is none of Python's: {some}") from error


def marked_encoding(start: bytes) -> tuple[str, int] | None:
    """The encoding that a file's first bytes are the mark of, and the mark's length; None without one but UTF-8's."""
    return next(((name, len(mark)) for mark, name in _MARKS if start.startswith(mark)), None)


def to_utf8(path: Path, stream: Iterator[bytes], encoding: str, *, replace: bool) -> Iterator[bytes]:
    """The content in UTF-8, or, where the file is in UTF-8 (``auto``: or without a mark), as it is and not checked.

    Raises InputError naming the line for bytes that are none of the encoding's characters, unless they are replaced.
    """
    start = b""
    for block in stream:
        start += block
        if len(start) >= _LONGEST_MARK:
            break
    name, skip = encoding, 0
    if encoding == AUTO or codecs.lookup(encoding).name in ("utf-16", "utf-32"):
        name, skip = marked_encoding(start) or (encoding, 0)
    if name == AUTO or codecs.lookup(name).name == "utf-8":
        if (unmarked := _unmarked_utf16(start[:_START])) is not None:
            raise InputError(f"{path}:1: not UTF-8; it looks like {unmarked}: set data.encoding: {unmarked}")
        if start:
            yield start
        yield from stream
        return
    yield from _decoded(path, start[skip:], stream, name, replace=replace)


def _decoded(path: Path, start: bytes, stream: Iterator[bytes], encoding: str, *, replace: bool) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("replace" if replace else "strict")
    line, block = 1, start
    while True:
        following = next(stream, None)
        try:
            text = decoder.decode(block, final=following is None)
        except UnicodeError as error:
            if isinstance(error, UnicodeDecodeError):  # its object begins with what an earlier block left over
                line += error.object[: error.start].decode(encoding, "replace").count("\n")
            raise InputError(
                f"{path}:{line}: not {encoding}: {getattr(error, 'reason', error)}: set data.encoding to the right one"
                + _OR_REPLACE
            ) from error
        if text:
            line += text.count("\n")
            yield text.encode("utf-8", "replace")  # a few encodings give lone surrogates, which no UTF-8 has
        if following is None:
            return
        block = following


def valid_utf8(path: Path, text: bytes, line: int, *, replace: bool) -> bytes:
    """The same text, the first of it on this line, if it is UTF-8; else with U+FFFD for what is not, or InputError."""
    if text.isascii():  # several times faster than decoding, and most chunks are
        return text
    try:
        text.decode()
    except UnicodeDecodeError as error:
        if replace:
            return text.decode("utf-8", "replace").encode()
        raise InputError(_problem(path, text, line, error)) from error
    return text


def _problem(path: Path, text: bytes, line: int, error: UnicodeDecodeError) -> str:
    line += text.count(b"\n", 0, error.start)
    begin = max(0, error.start - _LOOK // 2)
    guess = likely_encoding(text[begin : begin + _LOOK])
    advice = "the rest looks like it" if guess is None else f"it looks like {guess}: set data.encoding: {guess}"
    return f"{path}:{line}: not UTF-8 (byte 0x{text[error.start]:02x}); {advice}{_OR_REPLACE}"


def _unmarked_utf16(text: bytes) -> str | None:
    # Letters of the western alphabets are every second byte of UTF-16, the others are zero; UTF-8 has no zeros.
    zeros = text.count(b"\0")
    if not zeros or zeros <= len(text) // 4:
        return None
    return "utf-16-le" if text[1::2].count(b"\0") > zeros // 2 else "utf-16-be"


def likely_encoding(text: bytes) -> str | None:
    """The encoding that bytes which are not UTF-8 are likely in; None where most of them are UTF-8 all the same."""
    if (unmarked := _unmarked_utf16(text)) is not None:
        return unmarked
    read = text.decode("utf-8", "replace")
    broken = read.count("\ufffd")
    if sum(not letter.isascii() for letter in read) - broken > broken:
        return None

    def letters(encoding: str) -> tuple[int, int]:
        """Letters that are likely, and none that are no character at all."""
        decoded = text.decode(encoding, "replace")
        return sum(decoded.count(letter) for letter in _LETTERS), -decoded.count("\ufffd")

    return max(_CANDIDATES, key=letters)
