"""MLP: the mean of a title's word vectors, then hidden layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.models import HEAD, WORDS

KIND = "network"
SETTINGS = (*HEAD, *WORDS)


def check(_settings: Mapping[str, Any], _max_length: int) -> str | None:
    """Nothing that its settings can get wrong between them."""
    return None
