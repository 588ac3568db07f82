"""A run's metrics.jsonl: one line an epoch, one writer, readable at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import orjson

from jobs.storage import open_plain, read_plain, write_whole

NAME = "metrics.jsonl"
EpochMetrics = dict[str, float | int | None]


def encode(lines: Iterable[Mapping[str, float | int | None]]) -> bytes:
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY) for line in lines)


def append(folder: Path, line: Mapping[str, float | int | None]) -> None:
    """Append one epoch with a single write and an fsync."""
    with open_plain(folder / NAME, "ab") as file:
        file.write(encode([line]))
        file.flush()
        os.fsync(file.fileno())


def rewrite(folder: Path, lines: Iterable[Mapping[str, float | int | None]]) -> None:
    """Replace the log whole, as a resumed run does: it keeps the epochs that its checkpoint has."""
    write_whole(folder / NAME, encode(lines))


def read(folder: Path | str) -> list[EpochMetrics]:
    """Every epoch written so far, in order; a torn last line is one not yet written; no file, no epochs.

    A line for an epoch already seen replaces it: a killed attempt may have written past its checkpoint.
    """
    try:
        text = read_plain(f"{folder}/{NAME}")
    except FileNotFoundError:
        return []
    epochs = {line["epoch"]: line for line in _parse(text)}
    return [epochs[epoch] for epoch in sorted(epochs)]


def _parse(text: bytes) -> Iterator[EpochMetrics]:
    try:
        lines = orjson.loads(b"[" + text.rstrip().replace(b"\n", b",") + b"]")  # all at once: the rule, and far faster
    except orjson.JSONDecodeError:
        lines = [_parse_line(line) for line in text.split(b"\n")]
    for line in lines:
        if isinstance(line, dict) and isinstance(line.get("epoch"), int):
            yield line


def _parse_line(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
