"""An architecture's network over a data set's word vectors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

from jobs.data.dataset import Dataset
from jobs.training.device import UnusableError


def build(settings: Mapping[str, Any], dataset: Dataset, device: torch.device) -> nn.Module:
    """The network with its initial weights, the same for a seed wherever it runs.

    Raises UnusableError where its own ``unsupported`` says why it can't be computed so on this device.
    """
    network = import_module(f"jobs.models.{settings['architecture']}.network")
    problem = network.unsupported(device, settings["precision"]) if hasattr(network, "unsupported") else None
    if problem is not None:
        raise UnusableError("error", problem)
    with warnings.catch_warnings():
        # The vectors are a read-only map shared by every task of the node; a network only reads them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        vectors = torch.from_numpy(dataset.vectors())
    torch.manual_seed(settings["seed"])
    model: nn.Module = network.build(settings, vectors=vectors, classes=len(dataset.classes))
    return model.to(device)
