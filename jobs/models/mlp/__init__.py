"""MLP: the mean of a title's word vectors, then hidden layers."""

from __future__ import annotations

from jobs.models import HEAD, WORDS

KIND = "network"
SETTINGS = (*HEAD, *WORDS)
