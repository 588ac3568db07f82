"""Data files: which there are, of which format, with which columns, and their bytes out of gzip or zstandard."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from jobs.data import Format, Quotes, encodings
from sharedfs.errors import InputError, MissingFileError

if TYPE_CHECKING:  # `tanda plan` imports this module, and polars would make it slow
    import polars as pl

FORMATS: tuple[Format, ...] = get_args(Format)
_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSED = (".gz", ".zst")
_READ = 1 << 20
_GZIP_WINDOW = 31  # zlib's number for: a gzip header, the largest window
_GZIP, _ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"


# The data files a manifest names: which they are, what format they are in, how they are compressed.


def find_files(pattern: str | Iterable[str], setting: str) -> list[Path]:
    """The files behind a path, a folder, a pattern (``parts/*.csv.gz``) or a list of these, in order of name.

    A folder gives the files directly in it, hidden ones left out. Raises FileNotFoundError naming the setting.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    if not patterns:
        raise MissingFileError(f"data.{setting}: an empty list: name at least one file")
    return [path for one in patterns for path in _matching(one, setting)]


def _matching(pattern: str, setting: str) -> list[Path]:
    path = Path(pattern).absolute()
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(child for child in path.iterdir() if child.is_file() and not child.name.startswith("."))
        if not files:
            raise MissingFileError(f"data.{setting}: no file in the folder {path}")
        return files
    files = sorted(Path(match) for match in glob.glob(str(path)) if Path(match).is_file())  # noqa: PTH207 - an absolute pattern
    if not files:
        raise MissingFileError(f"data.{setting}: no such file: {path}")
    return files


def compression(path: Path) -> str | None:
    """``gzip``, ``zstd`` or None, by the file's first bytes, whatever its name."""
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(_GZIP):
        return "gzip"
    return "zstd" if head == _ZSTD else None


def file_format(path: Path, format_: str = "auto") -> str:
    """One of ``FORMATS``: the one named, else by the file's name, else by its content.

    Raises ValueError for a file that is of none of them.
    """
    if format_ != "auto":
        return format_
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    return _by_content(path)


def _by_content(path: Path) -> str:
    start = head(path, 1 << 16)
    if (marked := encodings.marked_encoding(start)) is not None:
        start = start[marked[1] :].decode(marked[0], "replace").encode()
    if start.startswith(PARQUET):
        return "parquet"
    line = start.split(b"\n", 1)[0].lstrip()
    if line.startswith(b"{"):
        return "jsonl"
    if b"\t" in line and line.count(b"\t") >= line.count(b","):
        return "tsv"
    if b"," in line:
        return "csv"
    raise InputError(f"{path}: can't tell its format: set data.format to one of {', '.join(FORMATS)}")


# Blocks of bytes out of a plain, gzip or zstd file.


def head(path: Path, size: int) -> bytes:
    """The first bytes of a file's content, decompressed; raises ValueError if it is broken before that."""
    return start_of(blocks(path), size)


def start_of(stream: Iterator[bytes], size: int) -> bytes:
    """The first bytes of a stream."""
    collected = bytearray()
    for block in stream:
        collected += block
        if len(collected) >= size:
            break
    return bytes(collected[:size])


def blocks(path: Path, read: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
    """The content in blocks of about 1 to 8 MiB; ``read`` is called with how many bytes of the file each took.

    Raises ValueError naming the file when it is truncated or not what its first bytes say.
    """
    kind = compression(path)
    if kind == "gzip":
        return _gzip(path, read)
    if kind == "zstd":
        return _zstd(path, read)
    return _plain(path, read)


def whole_lines(stream: Iterable[bytes], chunk_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Blocks joined to chunks of at least this size that end where a line ends, each with its first line's number.

    The last chunk is what is left: it may be smaller, and without a line feed at its end.
    """
    pending, line = b"", 1
    for block in stream:
        pending += block
        if len(pending) < chunk_bytes:
            continue
        if cut := pending.rfind(b"\n") + 1:
            yield pending[:cut], line
            line += pending.count(b"\n")
            pending = pending[cut:]
    if pending:
        yield pending, line


def _plain(path: Path, read: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(4 * _READ):
            read(len(block))
            yield block


def _gzip(path: Path, read: Callable[[int], None]) -> Iterator[bytes]:
    from isal import isal_zlib  # here: the command line needs this module and decompresses nothing

    # isal's stubs declare the class as an instance.
    broken: type[Exception] = isal_zlib.IsalError  # type: ignore[assignment]
    return _members(path, read, "gzip", lambda: isal_zlib.decompressobj(wbits=_GZIP_WINDOW), broken, padding=b"\0")


def _zstd(path: Path, read: Callable[[int], None]) -> Iterator[bytes]:
    import zstandard

    return _members(path, read, "zstd", lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError)


def _members(
    path: Path,
    read: Callable[[int], None],
    kind: str,
    start: Callable[[], Any],
    broken: type[Exception],
    padding: bytes = b"",
) -> Iterator[bytes]:
    """The content of all members (gzip) or frames (zstd), one after the other; padding between them is skipped.

    By hand, as zstandard's own reader takes a truncated file for a whole one.
    """
    with path.open("rb") as file:
        member: Any = None
        while packed := file.read(_READ):
            read(len(packed))
            while packed:
                if member is None:
                    packed = packed.lstrip(padding) if padding else packed
                    if not packed:
                        break
                    member = start()
                try:
                    block = member.decompress(packed)
                except broken as error:
                    raise InputError(f"{path}: broken {kind} file: {error}: fetch or write it again") from error
                packed = member.unused_data
                if member.eof:
                    member = None
                if block:
                    yield block
        if member is not None:
            raise InputError(f"{path}: the {kind} file is truncated: fetch or write it again")


# A file that is to be read by columns, and the chunks of rows that come out of it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file to read: ``columns`` maps our names to the file's, ``required`` are ours that must be there."""

    path: Path
    format: str
    columns: Mapping[str, str]
    required: frozenset[str]
    header: bool = True
    quotes: Quotes = "checked"
    encoding: str = encodings.AUTO
    replace_bytes: bool = False

    def blocks(self, read: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
        """The content as ``blocks`` gives it, in UTF-8 or unchecked; raises InputError as ``encodings.to_utf8``."""
        return encodings.to_utf8(self.path, blocks(self.path, read), self.encoding, replace=self.replace_bytes)

    def valid_utf8(self, text: bytes, line: int) -> bytes:
        """A part of the content, checked; ``line`` is its first. Raises InputError as ``encodings.valid_utf8``."""
        return encodings.valid_utf8(self.path, text, line, replace=self.replace_bytes)


@dataclass(slots=True, kw_only=True)
class Chunk:
    """Consecutive rows of a file, and how many of them could not be read, by cause."""

    table: pl.DataFrame
    dropped: dict[str, int] = field(default_factory=dict)


Parse = Callable[[], Chunk]


def present_columns(source: Source, names: list[str]) -> dict[str, str]:
    """Which of our columns a file with these column names has: our name -> the file's.

    Raises ValueError naming the columns there are and the setting to change.
    """
    present = {ours: theirs for ours, theirs in source.columns.items() if theirs in names}
    for ours in sorted(source.required):
        if ours not in present:
            raise InputError(
                f"{source.path}: no column {source.columns[ours]!r}; the columns there are: {', '.join(names)}; "
                f"set data.columns.{ours} to the right one{_column_advice(source, ours)}"
            )
    return present


def _column_advice(source: Source, ours: str) -> str:
    if ours in ("language", "quality"):
        return f", or leave out data.{ours}"
    if source.format in ("csv", "tsv") and source.header:
        return " (data.header: false when the first line is a row: the columns are then called 1, 2, ...)"
    return ""
