"""An architecture's network over a data set's word vectors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

from jobs.data.dataset import Dataset


def build(settings: Mapping[str, Any], dataset: Dataset, device: torch.device) -> nn.Module:
    """The network with its initial weights, the same for a seed wherever it runs."""
    network = import_module(f"jobs.models.{settings['architecture']}.network")
    with warnings.catch_warnings():
        # The vectors are a read-only map shared by every task of the node; a network only reads them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        vectors = torch.from_numpy(dataset.vectors())
    torch.manual_seed(settings["seed"])
    model: nn.Module = network.build(settings, vectors=vectors, classes=len(dataset.classes))
    return model.to(device)
