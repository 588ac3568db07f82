"""A journal's lines as points of curves, and settings as a tracking server keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

CURVES = (
    "train_loss",
    "train_balanced_accuracy",
    "train_accuracy",
    "validation_loss",
    "validation_balanced_accuracy",
    "validation_accuracy",
    "titles_per_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of a metric; ``at_ms`` is when it was measured, as the journal or the record says."""

    metric: str
    value: float
    step: int
    at_ms: int


def curves(epochs: Iterable[Mapping[str, Any]], started: float) -> Iterator[Point]:
    """A journal's lines as points of curves, at the times at which the epochs ended."""
    for line in epochs:
        at_ms = milliseconds(float(line.get("ended") or started))
        for metric in CURVES:
            value = line.get(metric)
            if isinstance(value, int | float):
                yield Point(metric=metric, value=float(value), step=int(line["epoch"]), at_ms=at_ms)


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def params(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as text; lists as ``256,128``."""
    return {name: _param(value) for name, value in settings.items() if value is not None}


def _param(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value):
        return ",".join(str(item) for item in value)
    return orjson.dumps(value).decode() if isinstance(value, Mapping | list | tuple) else str(value)
