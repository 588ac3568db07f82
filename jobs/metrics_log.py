"""A run's metrics.jsonl: one line an epoch, one writer, readable at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from jobs.storage import open_plain, read_plain, write_whole

NAME = "metrics.jsonl"
EpochMetrics = dict[str, Any]


def encode(lines: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY) for line in lines)


def append(folder: Path, line: Mapping[str, Any]) -> None:
    """Append one epoch with a single write and an fsync."""
    with open_plain(folder / NAME, "ab") as file:
        file.write(encode([line]))
        file.flush()
        os.fsync(file.fileno())


def rewrite(folder: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace the log whole, as a resumed run does: it keeps the epochs that its checkpoint has."""
    write_whole(folder / NAME, encode(lines))


def read(folder: Path) -> list[dict[str, Any]]:
    """Every epoch written so far, in order; a torn last line is one not yet written; no file, no epochs.

    A line for an epoch already seen replaces it: a killed attempt may have written past its checkpoint.
    """
    try:
        text = read_plain(folder / NAME)
    except FileNotFoundError:
        return []
    epochs: dict[int, dict[str, Any]] = {}
    for line in text.split(b"\n"):
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(document, dict) and isinstance(document.get("epoch"), int):
            epochs[document["epoch"]] = document
    return [epochs[epoch] for epoch in sorted(epochs)]
