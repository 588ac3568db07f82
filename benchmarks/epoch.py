"""A whole training epoch of the engine against the same model stepping over batches that lie in memory already.

The ceiling is forward, loss, backward and update and nothing else. What a step cannot change the engine computes for
many batches at once (the mean of a title's frozen vectors), which may take the mlp past it. Both sides run in turn,
several times, in this process: times are the best ones, the share is the median over the rounds, each of which runs
both sides.

    python benchmarks/epoch.py [--titles 100000] [--rounds 15] [ARCHITECTURE ...]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import time

import torch
from _made import context_for, recipe_of, storage_with
from torch import nn

from jobs.data.batches import Batch, TrainBatches
from jobs.data.dataset import Dataset
from jobs.models import Recipe
from jobs.storage import Storage
from jobs.training import device, optimiser
from jobs.training.loop import build_network
from jobs.training.run import train

# Titles an epoch, so that each takes a few seconds.
SHARE = {"mlp": 1.0, "cnn": 0.25, "rnn": 0.1}


def ceiling_s(recipe: Recipe, dataset: Dataset, batches: list[Batch]) -> float:
    """Seconds to step over the batches once, a few steps to warm up left out."""
    where = torch.device("cpu")
    device.prepare(where, cpus=cores(), deterministic=True, precision="float32", tf32=True)
    model = build_network(recipe, dataset, where)
    adam = optimiser.make(model, recipe.network, where)
    model.train()

    def step(batch: Batch) -> None:
        adam.zero_grad()
        nn.functional.cross_entropy(model(batch), batch.labels).backward()
        adam.step()

    for batch in batches[:10]:
        step(batch)
    began = time.perf_counter()
    for batch in batches:
        step(batch)
    return time.perf_counter() - began


def epoch_s(recipe: Recipe, storage: Storage, dataset: Dataset, number: int) -> float:
    """Seconds of the second of two epochs, its validation left out: both sides are warm."""
    context = context_for(storage, cores(), recipe, number)
    with contextlib.redirect_stderr(io.StringIO()):
        result = train(context, recipe=recipe, dataset=dataset, folder=context.folder)
    return len(dataset.splits["train"]) / float(result.lines[-1]["titles_per_s"])


def cores() -> int:
    return len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--titles", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("architectures", nargs="*", default=["mlp", "cnn", "rnn"])
    given = parser.parse_args()
    print(f"{cores()} cores, {given.titles} titles; share of the ceiling an epoch reaches (at least 95 % is claimed)")
    number = 0
    for name in given.architectures or ["mlp", "cnn", "rnn"]:
        titles = int(given.titles * SHARE.get(name, 1.0))
        with storage_with(titles) as (storage, made):
            dataset = Dataset.open(storage.dataset(made))
            for size in (128, 1024):
                recipe = recipe_of(name, batch_size=size, epochs=2, patience_chance=99)
                batches = list(TrainBatches(dataset.splits["train"], batch_size=size, seed=0).epoch(0))
                pairs = []
                for _ in range(given.rounds):
                    number += 1
                    bare = ceiling_s(recipe, dataset, batches)
                    pairs.append((bare, epoch_s(recipe, storage, dataset, number)))
                best = [min(side) for side in zip(*pairs, strict=True)]
                share = statistics.median(bare / whole for bare, whole in pairs)
                print(
                    f"{name:4} batch {size:5}: ceiling {titles / best[0]:10,.0f} titles/s, "
                    f"epoch {titles / best[1]:10,.0f} titles/s, {share:6.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
