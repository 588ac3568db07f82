"""Independent draws (Bergstra & Bengio 2012): the yardstick for every other algorithm."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

from jobs.search.algorithms import Observation
from jobs.search.space import Choice, Dimension, Draws, Range, Space

REVISION = 2


def propose(space: Space, history: Sequence[Observation], seed: int) -> Draws:  # noqa: ARG001 - what every algorithm is given
    """Draws that depend on the seed alone."""
    draws: Draws = {}
    _draw(space.dimensions, random.Random(seed), draws)
    return draws


def _draw(dimensions: Iterable[Dimension], source: random.Random, draws: Draws) -> None:
    for dimension in dimensions:
        if isinstance(dimension, Range):
            draws[dimension.label] = _number(dimension, source)
            continue
        position = source.randrange(len(dimension.options))
        draws[dimension.label] = position
        if not isinstance(dimension, Choice):
            _draw(dimension.options[position].dimensions, source, draws)


def _number(dimension: Range, source: random.Random) -> float:
    if dimension.log:
        return math.exp(source.uniform(math.log(dimension.low), math.log(dimension.high)))
    return source.uniform(dimension.low, dimension.high)
