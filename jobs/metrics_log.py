"""A run's metrics.jsonl: one line an epoch, one writer, readable at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypedDict, cast

import orjson

from sharedfs.documents import MOST_BYTES
from sharedfs.faults import patient
from sharedfs.files import open_plain, read_plain, write_whole

NAME = "metrics.jsonl"


class EpochMetrics(TypedDict):
    """A line: losses a title, scores from 0 to 1, ``gradient_norm`` the mean of those looked at.

    Any other metric that training computes every epoch has its two figures here as well: ``figure`` finds it.

    ``step`` counts all steps so far, ``seconds`` those of the epoch with its validation, ``titles_per_s`` without;
    ``ended`` is in seconds since the epoch, by the attempt of that number.
    """

    epoch: int
    step: int
    train_loss: float
    train_balanced_accuracy: float
    train_accuracy: float
    validation_loss: float
    validation_balanced_accuracy: float
    validation_accuracy: float
    gradient_norm: float | None
    seconds: float
    titles_per_s: float
    ended: float
    attempt: int


def make_line(
    *,
    train: Mapping[str, float],
    validation: Mapping[str, float],
    epoch: int,
    step: int,
    gradient_norm: float | None,
    seconds: float,
    titles_per_s: float,
    ended: float,
    attempt: int,
) -> EpochMetrics:
    """A line of an epoch, whose figures on the two splits are by metric."""
    line = {
        "epoch": epoch,
        "step": step,
        **{f"train_{name}": value for name, value in train.items()},
        **{f"validation_{name}": value for name, value in validation.items()},
        "gradient_norm": gradient_norm,
        "seconds": seconds,
        "titles_per_s": titles_per_s,
        "ended": ended,
        "attempt": attempt,
    }
    return cast(EpochMetrics, line)


def figure(line: EpochMetrics, name: str) -> float | None:
    """A figure of a line by its name; None where it has none of that name."""
    return cast(Mapping[str, float | None], line).get(name)


def encode(lines: Iterable[EpochMetrics]) -> bytes:
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY) for line in lines)


def append(folder: Path, line: EpochMetrics) -> None:
    """Append one epoch with a single write and an fsync."""
    path = folder / NAME
    _append(path, _size(path), encode([line]))


@patient
def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


@patient
def _append(path: Path, size: int, text: bytes) -> None:
    with open_plain(path, "ab") as file:
        # Longer than it was, it has what is left of a try that a fault of the file system cut short: it has one writer.
        if os.fstat(file.fileno()).st_size > size:
            os.ftruncate(file.fileno(), size)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def rewrite(folder: Path, lines: Iterable[EpochMetrics]) -> None:
    """Replace the log whole, as a resumed run does: it keeps the epochs that its checkpoint has."""
    write_whole(folder / NAME, encode(lines))


def read(folder: Path | str) -> list[EpochMetrics]:
    """Every epoch written so far, in order; a torn last line is one not yet written; no file, no epochs.

    A line for an epoch already seen replaces it: a killed attempt may have written past its checkpoint.
    """
    try:
        text = read_plain(f"{folder}/{NAME}", most_bytes=MOST_BYTES)
    except FileNotFoundError:
        return []
    epochs = _parse_at_once(text) or {line["epoch"]: line for line in _parse_each(text)}
    return [epochs[epoch] for epoch in sorted(epochs)]


def _parse_at_once(text: bytes) -> dict[int, EpochMetrics] | None:
    """All lines in one parse, which is far faster; None when one of them is torn or no line of a metrics log."""
    try:
        lines = orjson.loads(b"[" + text.rstrip().replace(b"\n", b",") + b"]")
        epochs = {line["epoch"]: line for line in lines}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return epochs if set(map(type, epochs)) == {int} else None


def _parse_each(text: bytes) -> Iterator[EpochMetrics]:
    for line in map(_parse_line, text.split(b"\n")):
        if isinstance(line, dict) and isinstance(line.get("epoch"), int):
            yield cast(EpochMetrics, line)


def _parse_line(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
