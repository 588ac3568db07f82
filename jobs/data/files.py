"""The data files a manifest names: which they are, what format they are in, how they are compressed."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from jobs.errors import InputError, MissingFileError

FORMATS = ("csv", "tsv", "jsonl", "parquet")
Quotes = Literal["checked", "double", "none"]  # see data.quotes
_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSED = (".gz", ".zst")
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"


def find(named: str | Iterable[str], setting: str) -> list[Path]:
    """The files behind a path, a folder, a pattern (``parts/*.csv.gz``) or a list of these, in order of name.

    A folder gives the files directly in it, hidden ones left out. Raises FileNotFoundError naming the setting.
    """
    names = [named] if isinstance(named, str) else list(named)
    files = [path for name in names for path in _behind(name, setting)]
    if not files:
        raise MissingFileError(f"data.{setting}: an empty list: name at least one file")
    return files


def _behind(name: str, setting: str) -> list[Path]:
    path = Path(name).absolute()
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
    """``gzip``, ``zstd`` or None, by the file's first bytes: its name may say what it likes."""
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(_GZIP):
        return "gzip"
    return "zstd" if head == _ZSTD else None


def file_format(path: Path, asked: str = "auto") -> str:
    """One of ``FORMATS``: as asked, else by the file's name, else by its content.

    Raises ValueError for a file that is of none of them.
    """
    if asked != "auto":
        return asked
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    return _by_content(path)


def _by_content(path: Path) -> str:
    from jobs.data.decompress import head

    start = head(path, 1 << 16)
    if start.startswith(_PARQUET):
        return "parquet"
    line = start.split(b"\n", 1)[0].lstrip()
    if line.startswith(b"{"):
        return "jsonl"
    if b"\t" in line and line.count(b"\t") >= line.count(b","):
        return "tsv"
    if b"," in line:
        return "csv"
    raise InputError(f"{path}: can't tell its format: set data.format to one of {', '.join(FORMATS)}")
