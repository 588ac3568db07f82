"""The search algorithms there are, each one file in `jobs/search/`, known without importing them."""

from __future__ import annotations

ALGORITHMS = ("random", "tpe")


def algorithms() -> tuple[str, ...]:
    """Names of the algorithms, sorted."""
    return ALGORITHMS
