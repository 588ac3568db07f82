"""The hidden layers and the output: the last part of every network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from jobs.models.dropout import Dropout
from jobs.models.product import Linear


def build_head(settings: Mapping[str, Any], *, features: int, classes: int) -> nn.Sequential:
    """Linear, ReLU and dropout for each of ``hidden_layers``, then the logits: (B, features) -> (B, classes)."""
    layers: list[nn.Module] = []
    if settings["embedding_dropout"]:
        layers.append(Dropout(settings["embedding_dropout"]))
    for width in settings["hidden_layers"]:
        layers += [Linear(features, width), nn.ReLU()]
        if settings["dropout"]:
            layers.append(Dropout(settings["dropout"]))
        features = width
    layers.append(Linear(features, classes))
    return nn.Sequential(*layers)
