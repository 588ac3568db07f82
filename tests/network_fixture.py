"""Networks of every architecture, small, and batches to step them with."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from jobs.data.batches import Batch
from jobs.plugins import MODELS
from jobs.testing import settings_with

NETWORKS = [name for name in MODELS.names() if MODELS.load(name).KIND == "network"]
CPU = torch.device("cpu")
VOCABULARY, SIZE, CLASSES = 300, 12, 7


def make_batch(titles: list[list[int]], width: int = 0) -> Batch:
    width = max(width, *(len(title) for title in titles))
    tokens = torch.tensor([title + [0] * (width - len(title)) for title in titles])
    lengths = torch.tensor([len(title) for title in titles])
    rows = torch.arange(len(titles))
    return Batch(padded=lambda: tokens, lengths=lengths, labels=rows % CLASSES, rows=rows)


def draw_titles(count: int, *, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 10, (count,), generator=generator).tolist()
    return [torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def build(name: str, **changes: Any) -> nn.Module:
    torch.manual_seed(3)
    vectors = torch.randn(VOCABULARY, SIZE)
    vectors[0] = 0
    settings = settings_with(name, **changes)
    make = import_module(f"jobs.models.{name}.network").build
    network: nn.Module = make(settings, vectors=vectors, classes=CLASSES, max_length=32)
    return network


def score(model: nn.Module, batch: Batch) -> Tensor:
    model.eval()
    with torch.inference_mode():
        return model(batch).clone()
