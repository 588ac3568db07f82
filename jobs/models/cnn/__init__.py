"""CNN: convolutions of several lengths over a title's word vectors, the maximum over time, then hidden layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jobs.models import DROPOUT, EMBEDDING_DROPOUT, HIDDEN_LAYERS, WORDS
from jobs.settings import Setting

KIND = "network"
SETTINGS = (
    replace(HIDDEN_LAYERS, default=[128]),
    DROPOUT,
    EMBEDDING_DROPOUT,
    Setting(name="filters_count", type="int", default=100, low=1, high=65_536, doc="filters of each length"),
    Setting(
        name="filters_length", type="ints", default=[2, 3, 4], low=1, high=1_024, doc="lengths of the filters, in words"
    ),
    *WORDS,
)


def check(settings: Mapping[str, Any], max_length: int) -> str | None:
    """A filter longer than any title, or the same length twice."""
    lengths = settings["filters_length"]
    if max(lengths) > max_length:
        return f"filters_length: a filter of {max(lengths)} words is longer than max_length, {max_length}"
    if len(set(lengths)) < len(lengths):
        return f"filters_length: {lengths} names a length twice"
    return None
