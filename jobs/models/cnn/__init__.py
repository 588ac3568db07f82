"""CNN: convolutions of several lengths over a title's word vectors, the maximum over time, then hidden layers."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, MinLen

from jobs.models import NETWORK_SPACE, NetworkSettings, Width
from jobs.settings import ORIGINAL, DataShape, Doc, settings

KIND = "network"
REVISION = 2
SPACE = {
    **NETWORK_SPACE,
    "hidden_layers": {"choice": [[], [128], [256]]},
    "filters_count": {"qloguniform": [50, 400, 50]},
    "filters_length": {"choice": [[1, 2], [2, 3], [1, 2, 3], [2, 3, 4]]},
}


@settings
class Settings(NetworkSettings):
    """Those of every network, and the filters'."""

    hidden_layers: Annotated[
        tuple[Width, ...],
        ORIGINAL,
        Doc("widths of the hidden layers; [] for none: a linear classifier of the pooled title"),
    ] = (128,)
    filters_count: Annotated[Width, ORIGINAL, Doc("filters of each length")] = 100
    filters_length: Annotated[
        tuple[Annotated[int, Ge(1), Le(1_024)], ...], MinLen(1), ORIGINAL, Doc("lengths of the filters, in words")
    ] = (2, 3, 4)

    def check(self, shape: DataShape) -> str | None:
        """A filter longer than any title, or the same length twice."""
        lengths = self.filters_length
        if max(lengths) > shape.max_length:
            return f"filters_length: a filter of {max(lengths)} words is longer than max_length, {shape.max_length}"
        if len(set(lengths)) < len(lengths):
            return f"filters_length: {list(lengths)} names a length twice"
        return None
