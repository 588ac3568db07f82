"""Titles a second on a GPU, per architecture and batch size, against the floor of bytes, operations and launches.

The aim on an H200, at batch 128 / 1024: MLP 1,000,000 / 5,000,000; CNN 300,000 / 1,000,000; 3 x 128 LSTM
80,000 / 500,000 titles a second (the published runs: about 14,000). Exit status 1 when graphs were not to be had:
a figure `with compile: true` is never one without.

    python benchmarks/gpu.py [--titles 1000000] [--precision float32|bfloat16]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from dataclasses import replace

import torch
from _made import context_for, recipe_of, storage_with
from torch import Tensor, nn

from jobs.data.batches import TrainBatches
from jobs.data.dataset import Dataset
from jobs.models import Recipe
from jobs.storage import Storage
from jobs.training.run import train
from jobs.training.trainer import Trainer

AIM = {
    ("mlp", 128): 1_000_000,
    ("mlp", 1024): 5_000_000,
    ("cnn", 128): 300_000,
    ("cnn", 1024): 1_000_000,
    ("rnn", 128): 80_000,
    ("rnn", 1024): 500_000,
}
# What the floor takes a GPU for: an H200's memory, its TF32 matrix units at half their peak, a microsecond for each
# kernel of a replayed graph.
BYTES_PER_S = 4.8e12
OPERATIONS_PER_S = 2.4e14
LAUNCH_S = 1e-6


def measured(recipe: Recipe, storage: Storage, dataset: Dataset, number: int) -> tuple[float, float, str]:
    """Titles a second in the second of two epochs of the engine, its mean loss, and why it went on without graphs."""
    context = context_for(storage, len(os.sched_getaffinity(0)), recipe, number)
    with contextlib.redirect_stderr(io.StringIO()) as log:
        result = train(context, recipe=recipe, dataset=dataset, folder=context.folder)
    without = [line for line in log.getvalue().splitlines() if "compile: " in line]
    line = result.lines[-1]
    return float(line["titles_per_s"]), float(line["train_loss"]), "; ".join(without)


def floor(recipe: Recipe, storage: Storage, dataset: Dataset) -> tuple[float, int]:
    """Titles a second if a step cost only its largest of bytes, operations and launches; and kernels a step."""
    from torch.profiler import ProfilerActivity, profile

    context = context_for(storage, 1, recipe, "floor")
    with contextlib.redirect_stderr(io.StringIO()):
        epochs = Trainer(context, recipe, dataset, context.folder, None)
        epochs.prepare()
    batches = TrainBatches(dataset.splits["train"], batch_size=recipe.network.batch_size, seed=0, device="cuda").epoch(
        0
    )
    for _ in range(3):
        epochs.stepper.step(next(batches))
    batch = next(batches)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU], with_flops=True) as seen:
        epochs.stepper.step(batch)
        torch.cuda.synchronize()
    kernels = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in seen.events())
    operations = sum(event.flops or 0 for event in seen.key_averages()) + lstm_operations(epochs.model, batch.tokens)
    trained = sum(weight.numel() for weight in epochs.model.parameters() if weight.requires_grad)
    # Weights, gradients and Adam's two moments are read and written once; word vectors are read per word.
    moved = 4 * (7 * trained + 2 * batch.tokens.numel() * dataset.vectors().shape[1])
    step_s = max(moved / BYTES_PER_S, operations / OPERATIONS_PER_S, kernels * LAUNCH_S)
    return recipe.network.batch_size / step_s, kernels


def lstm_operations(model: nn.Module, tokens: Tensor) -> int:
    """Multiplications and additions of a model's LSTMs in a step on tokens (B, T): the profiler counts none of them.

    A layer multiplies 4 x H rows of weights with its inputs and its state at each word, and twice that going back.
    """
    lstms = [module for module in model.modules() if isinstance(module, nn.LSTM)]
    return sum(
        3 * 2 * tokens.numel() * 4 * lstm.hidden_size * (size + lstm.hidden_size)
        for lstm in lstms
        for size in [lstm.input_size, *[lstm.hidden_size] * (lstm.num_layers - 1)]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--titles", type=int, default=1_000_000)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU is present: nothing was measured")
        return 0
    fell_back = []
    print(f"{torch.cuda.get_device_name()}, {given.precision}, TF32 matrix products")
    with storage_with(given.titles) as (storage, made):
        dataset = Dataset.open(storage.dataset(made))
        for number, ((name, size), aim) in enumerate(AIM.items()):
            recipe = recipe_of(
                name, batch_size=size, epochs=2, patience_chance=99, device="cuda", precision=given.precision
            )
            plain, loss, _ = measured(recipe, storage, dataset, 2 * number)
            graphs, loss_again, without = measured(
                replace(recipe, settings=replace(recipe.settings, compile=True)), storage, dataset, 2 * number + 1
            )
            least, kernels = floor(recipe, storage, dataset)
            rate = plain if without else max(plain, graphs)
            by_graphs = "no graphs" if without else f"{graphs:12,.0f}"
            fell_back += [f"{name} batch {size}: not measured with graphs: {without}"] if without else []
            print(
                f"{name:4} batch {size:5}: {plain:12,.0f} titles/s, {by_graphs} with compile: true (losses "
                f"{loss:.4f} and {loss_again:.4f}); the better {rate / least:6.1%} of the floor ({least:,.0f}; "
                f"{kernels} kernels a step), aim {aim:,}: {rate / aim:.2f}",
                flush=True,
            )
    print(*fell_back, sep="\n")
    return int(bool(fell_back))


if __name__ == "__main__":
    sys.exit(main())
