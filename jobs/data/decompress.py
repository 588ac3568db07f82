"""Blocks of bytes out of a plain, gzip or zstd file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isal import isal_zlib

from jobs.data.files import compression
from jobs.errors import InputError

_READ = 1 << 20
# isal's stubs declare the class as an instance.
_BROKEN_GZIP: type[Exception] = isal_zlib.IsalError  # type: ignore[assignment]
_GZIP_WINDOW = 31  # zlib's number for: a gzip header, the largest window


def head(path: Path, size: int) -> bytes:
    """The first bytes of a file's content, decompressed; raises ValueError if it is broken before that."""
    collected = bytearray()
    for block in blocks(path):
        collected += block
        if len(collected) >= size:
            break
    return bytes(collected[:size])


def blocks(path: Path, read: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
    """The content in blocks of about 1 to 8 MiB; ``read`` is told how many bytes of the file were taken.

    Raises ValueError naming the file when it is truncated or not what its first bytes say.
    """
    kind = compression(path)
    if kind == "gzip":
        return _gzip(path, read)
    if kind == "zstd":
        return _zstd(path, read)
    return _plain(path, read)


def _plain(path: Path, read: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(4 * _READ):
            read(len(block))
            yield block


def _gzip(path: Path, read: Callable[[int], None]) -> Iterator[bytes]:
    return _members(
        path, read, "gzip", lambda: isal_zlib.decompressobj(wbits=_GZIP_WINDOW), _BROKEN_GZIP, padding=b"\0"
    )


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
    """The content of all members (gzip) or frames (zstd), one after the other; padding between them is skipped."""
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
