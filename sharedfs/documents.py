"""JSON documents on the storage: written whole, read with what is wrong named; and the digest that ids are made of."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import orjson

from sharedfs.errors import DamagedFileError
from sharedfs.files import read_plain, write_whole
from sharedfs.typed_json import Undecodable, decode

T = TypeVar("T")
ID_LENGTH = 16
# Many times the largest that is written. A larger one would fill the memory of whoever looks at it.
MOST_BYTES = 1 << 28


def digest(value: object) -> str:
    """The id of a JSON value: the first 16 hexadecimal digits of the SHA-256 of its canonical form."""
    canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.sha256(canonical).hexdigest()[:ID_LENGTH]


def write_json(path: Path, value: object, *, permissions: int = 0o666) -> None:
    """Write a JSON document whole, indented for people who look."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    write_whole(path, orjson.dumps(value, option=options), permissions=permissions)


def read_json(path: Path | str) -> Any:
    """Read a JSON document; raises FileNotFoundError, or ValueError naming the file if it is not JSON."""
    try:
        return orjson.loads(read_plain(path, most_bytes=MOST_BYTES))
    except orjson.JSONDecodeError as error:
        raise DamagedFileError(f"{path}: not a JSON document: {error}") from error


def read_as(kind: type[T], path: Path | str, what: str) -> T:
    """A stored document as ``kind``; raises FileNotFoundError, or DamagedFileError: ``PATH: not WHAT: why``."""
    return decode_as(kind, read_json(path), path, what)


def decode_as(kind: type[T], document: object, where: object, what: str) -> T:
    """A document that was read from ``where`` as ``kind``; raises DamagedFileError: ``WHERE: not WHAT: why``."""
    try:
        return decode(kind, document)
    except Undecodable as error:
        raise DamagedFileError(f"{where}: not {what}: {error}") from error
