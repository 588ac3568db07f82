"""Data files: which there are, of which format, with which columns, and their bytes out of gzip or zstandard."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_READ = 1 << 20
_GZIP_WINDOW = 31  # zlib's number for: a gzip header, the largest window
_GZIP, _ZSTD, _XZ, _ZIP, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", (b"PK\3\4", b"PK\5\6"), b"PAR1"
# Three letters are too few to know a file by: bzip2's first block, or its end, begins after them and a digit.
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
_LONGEST_MAGIC = 10


# The data files a manifest names: which they are, what format they are in, how they are compressed.


def find_files(pattern: str | Iterable[str], setting: str) -> list[Path]:
    """The files behind a path, a folder, a pattern (``parts/*.csv.gz``) or a list of these, in order of name.

    A folder gives the files directly in it; left out are hidden ones, what Spark, Hadoop and Arrow write beside the
    data (names that begin with ``_``), and empty parts. Raises FileNotFoundError naming the setting.
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
        files = _parts(path.iterdir(), beside=(".", "_"))
        if not files:
            raise MissingFileError(
                f"data.{setting}: no file in the folder {path} (names with _ or . are not looked at)"
            )
        return files
    matches = map(Path, glob.glob(str(path)))  # noqa: PTH207 - an absolute pattern
    files = _parts(matches, beside=() if path.name.startswith("_") else ("_",))
    if not files:
        raise MissingFileError(f"data.{setting}: no such file: {path}")
    return files


def _parts(paths: Iterable[Path], beside: tuple[str, ...]) -> list[Path]:
    """The data files among these, in order of name; an empty one is a part without rows, unless all are."""
    files = sorted(path for path in paths if path.is_file() and not path.name.startswith(beside))
    return [path for path in files if path.stat().st_size] or files


def compression(path: Path) -> str | None:
    """``gzip``, ``zstd``, ``bzip2``, ``xz`` or None, by the file's first bytes, whatever its name.

    Raises InputError for a zip archive, which is several files, or a spreadsheet.
    """
    with path.open("rb") as file:
        head = file.read(_LONGEST_MAGIC)
    if head.startswith(_ZIP):
        raise InputError(f"{path}: a zip archive or a spreadsheet: unpack it, or save it as csv")
    if _BZIP2.match(head):
        return "bzip2"
    magics = {"gzip": _GZIP, "zstd": _ZSTD, "xz": _XZ}
    return next((kind for kind, magic in magics.items() if head.startswith(magic)), None)


def file_format(path: Path, format_: str = "auto") -> str:
    """One of ``FORMATS``: the one named, else by the file's name, else by its content.

    Raises ValueError for a file that is of none of them.
    """
    if format_ != "auto":
        return format_
    return format_by_name(path) or _by_content(path)


def format_by_name(path: Path) -> str | None:
    """The format that a file's name says; None where it says none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _by_content(path: Path) -> str:
    start = head(path, 1 << 16)
    if (marked := encodings.marked_encoding(start)) is not None:
        start = start[marked[1] :].decode(marked[0], "replace").encode()
    if start.startswith(PARQUET):
        return "parquet"
    line = start.removeprefix(encodings.BOM).lstrip().split(b"\n", 1)[0]
    if line.startswith((b"{", b"[")):
        return "jsonl"
    if b"\t" in line and line.count(b"\t") >= line.count(b","):
        return "tsv"
    if b"," in line:
        return "csv"
    raise InputError(f"{path}: can't tell its format: set data.format to one of {', '.join(FORMATS)}")


# Blocks of bytes out of a plain or packed file.


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
    readers = {"gzip": _gzip, "zstd": _zstd, "bzip2": _bzip2, "xz": _xz}
    return (_plain if kind is None else readers[kind])(path, read)


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


def _bzip2(path: Path, read: Callable[[int], None]) -> Iterator[bytes]:
    import bz2

    return _members(path, read, "bzip2", bz2.BZ2Decompressor, OSError)


def _xz(path: Path, read: Callable[[int], None]) -> Iterator[bytes]:
    import lzma

    return _members(path, read, "xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), lzma.LZMAError, padding=b"\0")


def _members(
    path: Path,
    read: Callable[[int], None],
    kind: str,
    start: Callable[[], Any],
    broken: type[Exception],
    padding: bytes = b"",
) -> Iterator[bytes]:
    """The content of all members, frames or streams, one after the other; padding between them is skipped.

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


class EmptyFileError(InputError):
    """A file without content: as one of several it is a part without rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file to read: ``columns`` maps our names to the file's, ``required`` are ours that must be there."""

    path: Path
    format: str
    columns: Mapping[str, str]
    required: frozenset[str]
    header: bool = True
    quotes: Quotes = "checked"
    separator: str | None = None  # csv, tsv: where it is not that of the format
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
    """Consecutive rows of a file, and how many could not be read, by cause; ``problem`` is the first of these.

    ``positions`` are the rows' among all of the chunk, where some could not be read.
    """

    table: pl.DataFrame
    positions: Sequence[int] | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    problem: str | None = None


Parse = Callable[[], Chunk]


def present_columns(source: Source, names: list[str]) -> dict[str, str]:
    """Which of our columns a file with these column names has: our name -> the file's.

    Raises ValueError naming the columns there are and the setting to change, or a column that is there twice.
    """
    present = {ours: theirs for ours, theirs in source.columns.items() if theirs in names}
    for theirs in present.values():
        if names.count(theirs) > 1:
            at = [number for number, name in enumerate(names, start=1) if name == theirs]
            raise InputError(f"{source.path}: column {theirs!r} is there {len(at)} times, as {at}: rename all but one")
    for ours in sorted(source.required):
        if ours not in present:
            setting = _SPLIT_SETTINGS.get(ours, f"data.columns.{ours}")
            raise InputError(
                f"{source.path}: no column {source.columns[ours]!r}; the columns there are: {', '.join(names)}; "
                f"set {setting} to the right one{_column_advice(source, ours)}"
            )
    return present


_SPLIT_SETTINGS = {"group": "data.split.by", "time": "data.split.time"}


def _column_advice(source: Source, ours: str) -> str:
    if ours in ("language", "quality"):
        return f", or leave out data.{ours}"
    if source.format in ("csv", "tsv") and source.header:
        return " (data.header: false when the first line is a row: the columns are then called 1, 2, ...)"
    return ""
