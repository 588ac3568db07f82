"""RNN: a stacked LSTM over a title's word vectors, its state after the last word, then hidden layers."""

from __future__ import annotations

from jobs.models import HEAD, WORDS
from jobs.settings import Setting

KIND = "network"
SETTINGS = (
    *HEAD,
    Setting(name="lstm_layers", type="int", default=1, low=1, high=64, doc="LSTMs on top of each other"),
    Setting(name="lstm_features", type="int", default=128, low=1, high=65_536, doc="size of an LSTM's state"),
    *WORDS,
)
