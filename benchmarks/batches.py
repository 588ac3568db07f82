"""The batch maker against a DataLoader that parses jsonl.gz as the published work did, and as a share of a step.

python benchmarks/batches.py [--rows 200000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from _made import recipe_of, storage_with
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from jobs.data.batches import Batch, TrainBatches
from jobs.data.dataset import Dataset
from jobs.data.sample import write_sample
from jobs.training import device, optimiser
from jobs.training.loop import build_network

BUFFER = 2048


class Published(IterableDataset):  # type: ignore[type-arg]
    """Titles out of a gzipped JSON file, shuffled inside one buffer."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        buffer: list[dict[str, Any]] = []
        with gzip.open(self.path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                buffer.append({"data": row["data"] or [1], "target": row["target"]})
                if len(buffer) == BUFFER:
                    random.shuffle(buffer)
                    yield from buffer
                    buffer = []
        random.shuffle(buffer)
        yield from buffer


def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """One length for all titles of a batch."""
    longest = max(len(row["data"]) for row in rows)
    return {
        "data": torch.LongTensor([row["data"] + [0] * (longest - len(row["data"])) for row in rows]),
        "target": torch.LongTensor([row["target"] for row in rows]),
    }


def titles_per_s(batches: Iterable[Any], count: Any) -> float:
    began = time.perf_counter()
    titles = sum(count(batch) for batch in batches)
    return float(titles) / (time.perf_counter() - began)


def published_rate(rows: int, folder: Path | None) -> float:
    with TemporaryDirectory(prefix="tanda-", dir=folder) as name:
        write_sample(Path(name), rows, formats=["university"])
        loader = DataLoader(Published(Path(name) / "spanish.train.jsonl.gz"), batch_size=128, collate_fn=pad)
        return titles_per_s(loader, lambda batch: len(batch["target"]))


def padded_titles(batch: Batch) -> int:
    """Titles of a batch, its padded matrix made as the published loader makes its own."""
    return batch.tokens.shape[0]


def step_s(dataset: Dataset, batches: list[Batch], batch_size: int) -> float:
    """Seconds of one MLP step: forward, loss, backward and update, at the better of two passes."""
    where = torch.device("cpu")
    recipe = recipe_of("mlp", batch_size=batch_size)
    device.prepare(where, cpus=len(os.sched_getaffinity(0)), deterministic=True, precision="float32", tf32=True)
    model = build_network(recipe, dataset, where)
    adam = optimiser.make(model, recipe.network, where)
    model.train()
    best = float("inf")
    for _ in range(2):
        began = time.perf_counter()
        for batch in batches:
            adam.zero_grad()
            nn.functional.cross_entropy(model(batch), batch.labels).backward()
            adam.step()
        best = min(best, (time.perf_counter() - began) / len(batches))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    theirs = published_rate(given.rows, given.folder)
    print(f"{len(os.sched_getaffinity(0))} cores; a DataLoader over gzipped JSON: {theirs:,.0f} titles/s")
    with storage_with(train=given.rows) as (storage, name):
        dataset = Dataset.open(storage.dataset(name))
        for size in (128, 1024):
            for shuffle in ("full", "buffer"):
                batches = TrainBatches(dataset.splits["train"], batch_size=size, seed=0, shuffle=shuffle)
                ours = max(titles_per_s(batches.epoch(epoch), padded_titles) for epoch in range(3))
                few = [batch for batch, _ in zip(batches.epoch(0), range(200), strict=False)]
                share = size / ours / step_s(dataset, few, size)
                print(
                    f"  batch {size}, {shuffle}: {ours:,.0f} titles/s, {ours / theirs:.0f} x (at least 15); "
                    f"{100 * share:.1f} % of an MLP step (under 3 %)"
                )


if __name__ == "__main__":
    main()
