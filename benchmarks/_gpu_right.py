"""Stages of ``gpu_check.py`` that say whether what a GPU computes is right, and the same every time."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from _gpu_ground import CASES, Ground, Sitting, dataset_of, difference, epochs_of, listening, sit, train_to_the_end
from _made import recipe_of
from torch.utils._python_dispatch import TorchDispatchMode

from jobs.data.batches import TrainBatches, _DeviceMaker
from jobs.data.dataset import Dataset
from jobs.models import Recipe, layers
from jobs.training import cuda_graphs, optimiser, stops
from jobs.training import device as devices
from jobs.training.loop import MetricAccumulator, Stepper, build_network, forward

# Of a loss, and of a gradient by its norm, against float64: TF32 keeps ten bits of each factor.
OFF, OFF_TF32 = 1e-5, 3e-3
BATCH = 128


def waits(ground: Ground) -> None:
    """Neither a step nor adding its gradient norm waits for the device."""
    with dataset_of(ground, 20_000) as (storage, dataset):
        for case, given in CASES.items():
            with ground.guarded(case=case):
                epochs = epochs_of(sit(ground, storage, f"waits-{case}", **given), dataset)
                batches = epochs.batches.epoch(0)
                for _ in range(3):
                    epochs.stepper.step(next(batches))
                ground.synchronize()
                torch.cuda.set_sync_debug_mode("error")
                try:
                    for _ in range(3):
                        epochs.stepper.step(next(batches))
                        epochs.train_metrics.add_grad_norm(stops.norm_of(epochs.stepper.gradients()))
                finally:
                    torch.cuda.set_sync_debug_mode("default")
                ground.note(case=case, host="never waits")


def failing(ground: Ground) -> None:
    """A network that reads a value on the host cannot be captured: the run goes on without, as the log says.

    That is found before a capture; and where it is not looked for, by the capture that fails.
    """
    found, watch = "the host waits for the device in it", cuda_graphs.forbid_waiting
    with dataset_of(ground, 20_000) as (storage, dataset):
        for looked_for in (True, False):
            cuda_graphs.forbid_waiting = watch if looked_for else lambda _device: nullcontext()
            label = f"failing-{looked_for}"
            sitting = sit(ground, storage, label, architecture="mlp", dropout=0.3, compile=True, epochs=1)
            _go_on_without(ground, sitting, dataset, label)
            ground.must(any(found in line for line in sitting.said) is looked_for, f"{label}: {sitting.said[-1:]}")
    cuda_graphs.forbid_waiting = watch


def _go_on_without(ground: Ground, sitting: Sitting, dataset: Dataset, label: str) -> None:
    epochs = epochs_of(sitting, dataset)
    assert epochs.replayer is not None
    plain = epochs.model.forward

    def reading(batch: Any) -> Any:
        int(batch.lengths.max())
        return plain(batch)

    epochs.model.forward = reading
    before = torch.cuda.current_stream()
    done = 0
    with ground.guarded(case=label), listening(sitting):
        for draw, _ in zip(epochs.batches.draws(0), range(20), strict=False):
            epochs.replayer.step(draw)
            epochs.train_metrics.add_grad_norm(stops.norm_of(epochs.replayer.gradients()))
            done += 1
        torch.cuda.synchronize()
    with ground.guarded(case=f"{label}: empty_cache afterwards"):
        torch.cuda.empty_cache()
    ground.must(torch.cuda.current_stream() == before, f"{label}: the stream is not the one from before the capture")
    ground.must(any("does not work here" in line for line in sitting.said), f"{label}: the log does not say so")
    ground.note(case=label, steps=done, said=sitting.said[-1:])


def exact(ground: Ground) -> None:
    """Twice the same bits; and the same when cut in the first epoch, in validation, in the second epoch."""
    with dataset_of(ground, 24_000) as (storage, dataset):
        steps = -(-len(dataset.splits["train"]) // BATCH)
        cuts = (steps // 3, steps - steps // 3 + 1, steps // 2)
        for case, given in CASES.items():
            for graphs in (False, True) if ground.device == "cuda" else (False,):
                with ground.guarded(case=case, graphs=graphs):
                    asked = {**given, "epochs": 2, "batch_size": BATCH, "seed": 5, "compile": graphs}
                    alone, twin, cut = (
                        train_to_the_end(sit(ground, storage, f"{case}-{graphs}-{label}", **asked), dataset, interrupt)
                        for label, interrupt in (("alone", ()), ("twin", ()), ("cut", cuts))
                    )
                    twice, resumed = difference(alone, twin), difference(alone, cut)
                    ground.note(case=case, graphs=graphs, twice=twice, resumed=resumed, said=alone.told)
                    ground.must(
                        twice == resumed == "bit for bit", f"{case} graphs={graphs}: {twice}; resumed {resumed}"
                    )


def correct(ground: Ground) -> None:
    """One step's loss and gradients against the same in float64 on the CPU, with TF32 products and without."""
    layers.ONEDNN = False  # float64 goes by MKL
    with dataset_of(ground, 4_000) as (_, dataset):
        here = torch.device(ground.device)
        devices.prepare(here, cpus=4, deterministic=True, precision="float32", tf32=True)
        for case, given in CASES.items():
            plain = {key: value for key, value in given.items() if key not in ("dropout", "word_dropout")}
            recipe = recipe_of(plain.pop("architecture"), seed=3, **plain)
            expected, wanted = _in_float64(recipe, dataset)
            for tf32 in (False, True) if ground.device == "cuda" else (False,):
                with ground.guarded(case=case, tf32=tf32):
                    if ground.device == "cuda":
                        torch.set_float32_matmul_precision("high" if tf32 else "highest")
                        torch.backends.cudnn.allow_tf32 = tf32
                    loss, off = _against(recipe, dataset, here, wanted)
                    loss_off, worst = abs(loss - expected) / expected, max(off, key=off.__getitem__)
                    ground.note(
                        case=case, tf32=tf32, loss_off=f"{loss_off:.1e}", gradient_off=f"{off[worst]:.1e}", of=worst
                    )
                    right = max(loss_off, off[worst]) <= (OFF_TF32 if tf32 else OFF)
                    ground.must(right, f"{case} tf32={tf32}: off by {max(loss_off, off[worst]):.1e}")


def _batch(dataset: Dataset, device: torch.device) -> Any:
    return next(TrainBatches(dataset.splits["train"], batch_size=256, seed=1, device=device).epoch(0))


def _in_float64(recipe: Recipe, dataset: Dataset) -> tuple[float, dict[str, torch.Tensor]]:
    model = build_network(recipe, dataset, torch.device("cpu")).double().train()
    batch = _batch(dataset, torch.device("cpu"))
    loss = torch.nn.functional.cross_entropy(model(batch), batch.labels)
    loss.backward()
    return float(loss.detach()), {
        name: _dense(weight.grad) for name, weight in model.named_parameters() if weight.requires_grad
    }


def _against(
    recipe: Recipe, dataset: Dataset, device: torch.device, wanted: dict[str, torch.Tensor]
) -> tuple[float, dict[str, float]]:
    model = build_network(recipe, dataset, device).train()
    _, loss = forward(model, _batch(dataset, device), device, "float32")
    loss.backward()
    off = {}
    for name, weight in model.named_parameters():
        if name in wanted:
            off[name] = float((_dense(weight.grad).cpu().double() - wanted[name]).norm() / wanted[name].norm())
    return float(loss.detach()), off


def _dense(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None
    return gradient.to_dense() if gradient.is_sparse else gradient


def halves(ground: Ground) -> None:
    """``precision: bfloat16``: the type that an LSTM computes in under autocast, and what it does to the loss.

    Where a device cannot compute a network in bfloat16, that is a refusal in one line and no fault.
    """
    if ground.device == "cuda":
        lstm = torch.nn.LSTM(16, 32, 2).cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            ground.note(lstm_under_autocast=lstm(torch.randn(5, 4, 16, device="cuda"))[0].dtype)
    with dataset_of(ground, 100_000) as (storage, dataset):
        for architecture in ("mlp", "cnn", "rnn"):
            for precision in ("float32", "bfloat16"):
                with ground.guarded(architecture=architecture, precision=precision):
                    asked = {"architecture": architecture, "precision": precision, "epochs": 2, "batch_size": 1024}
                    try:
                        run = train_to_the_end(sit(ground, storage, f"{architecture}-{precision}", **asked), dataset)
                    except devices.UnusableError as refusal:
                        ground.note(architecture=architecture, precision=precision, refused=str(refusal))
                        ground.must(precision == "bfloat16", f"{architecture}: {refusal}")
                        continue
                    loss = round(run.lines[-1]["train_loss"], 4)
                    ground.note(architecture=architecture, precision=precision, loss=loss, rate=round(run.titles_per_s))


def meta(ground: Ground) -> None:
    """A step on torch's ``meta`` device, which no CPU tensor may meet and whose values nothing can read; no GPU needed.

    Finds what would fail on a GPU, or wait for it, on a machine that has none.
    """
    device = torch.device("meta")
    with dataset_of(ground, 4_000) as (_, dataset):
        maker = _DeviceMaker(dataset.splits["train"], device)
        for case, given in CASES.items():
            with ground.guarded(case=case):
                recipe = recipe_of(**given)
                model = build_network(recipe, dataset, device).train()
                accumulator = MetricAccumulator(len(dataset.classes), device)
                stepper = Stepper(
                    model,
                    optimiser.make(model, recipe.network, device),
                    accumulator,
                    device=device,
                    precision="float32",
                )
                rows = torch.empty(BATCH, dtype=torch.int64, device=device)
                with _Count() as count:
                    stepper.step(maker.batch(rows, 20))
                    accumulator.add_grad_norm(stops.norm_of(stepper.gradients()))
                ground.note(case=case, operations=count.operations)


class _Count(TorchDispatchMode):
    """How many operations torch was asked for, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.operations += 1
        return function(*args, **(kwargs or {}))
