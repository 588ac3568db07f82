"""RNN: a stacked LSTM over a title's word vectors, its state after the last word, then hidden layers."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le

from jobs.models import NetworkSettings, Width
from jobs.settings import ORIGINAL, Doc, settings

KIND = "network"
REVISION = 1


@settings
class Settings(NetworkSettings):
    """Those of every network, and the LSTM's."""

    lstm_layers: Annotated[int, Ge(1), Le(64), ORIGINAL, Doc("LSTMs on top of each other")] = 1
    lstm_features: Annotated[Width, ORIGINAL, Doc("size of an LSTM's state")] = 128
