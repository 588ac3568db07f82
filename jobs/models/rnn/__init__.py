"""RNN: stacked LSTMs or GRUs over a title's word vectors, their states pooled, then hidden layers."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from jobs.models import NETWORK_SPACE, NetworkSettings, Width
from jobs.settings import ORIGINAL, Baseline, DataShape, Doc, settings

KIND = "network"
REVISION = 1
SPACE = {
    **NETWORK_SPACE,
    "hidden_layers": {"choice": [[], [128], [256]]},
    "lstm_features": {"qloguniform": [64, 512, 64]},
    "bidirectional": {"choice": [False, True]},
    "pooling": {"choice": ["last", "max", "mean"]},
}


@settings
class Settings(NetworkSettings):
    """Those of every network, and the recurrent layers'."""

    lstm_layers: Annotated[int, Ge(1), Le(64), ORIGINAL, Doc("recurrent layers on top of each other")] = 1
    lstm_features: Annotated[Width, ORIGINAL, Doc("size of a recurrent layer's state, in each direction")] = 128
    cell: Annotated[Literal["lstm", "gru"], Baseline("lstm"), Doc("the kind of recurrent layer")] = "lstm"
    bidirectional: Annotated[
        bool, Baseline(False), Doc("read titles from both ends; the states of both directions go on together")
    ] = False
    pooling: Annotated[
        Literal["last", "max", "mean", "max_mean"],
        Baseline("last"),
        Doc("what the hidden layers are given: the state after the last word, or the states' maximum, mean or both"),
    ] = "last"

    def check(self, shape: DataShape) -> str | None:  # noqa: ARG002
        if self.cell == "gru" and self.precision == "bfloat16":
            return "precision: bfloat16: torch computes no GRU in it; set precision: float32, or cell: lstm"
        return None

    @property
    def pooled_features(self) -> int:
        """The width of a pooled title."""
        return self.lstm_features * (2 if self.bidirectional else 1) * (2 if self.pooling == "max_mean" else 1)
