"""Stages of ``gpu_check.py`` that say how fast a GPU trains, what it takes, and how it fails."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from _gpu_ground import CASES, Ground, dataset_of, epochs_of, listening, sit
from _made import make_dataset, recipe_of, storage_with, task_of
from _side import cores_each, side_by_side
from torch.profiler import ProfilerActivity, profile

from jobs import metrics_log
from jobs.entry import _cause
from jobs.gpu_errors import GPU_OUT_OF_MEMORY, cause_of
from jobs.storage import Storage
from jobs.task import Provenance, Record, Task, read_record

SMI = "name,driver_version,memory.total,compute_mode,mig.mode.current,persistence_mode"
CHALLENGE = (4_895_280, 1_223_820)  # titles to train on and to validate on, Spanish
STEPS = 100


def machine(ground: Ground) -> None:
    """Driver, modes, versions, what CUDA's start takes."""
    cores = len(os.sched_getaffinity(0))
    ground.note(torch=torch.__version__, cuda=torch.version.cuda, python=sys.version.split()[0], cores=cores)
    for command in (["nvidia-smi", f"--query-gpu={SMI}", "--format=csv,noheader"], ["nvidia-cuda-mps-control", "-h"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            ground.note(command=command[0], status=done.returncode, said=(done.stdout or done.stderr).strip()[:300])
        except FileNotFoundError:
            ground.note(command=command[0], status="not there")
    if ground.device == "cuda":
        ground.must(torch.cuda.is_available(), "torch sees no GPU")
        began = time.monotonic()
        torch.ones(1, device="cuda")
        ground.note(
            name=torch.cuda.get_device_name(), cudnn=torch.backends.cudnn.version(),
            start_s=round(time.monotonic() - began, 2),
            rss_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        )  # fmt: skip


def _run(task: Task, storage: Storage, **environment: str) -> tuple[int, float, Record | None, str]:
    """A whole task as a node runs it: exit status, seconds, record, log."""
    folder = task.write(storage)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "jobs", str(folder)], env={**os.environ, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.returncode, time.monotonic() - began, read_record(folder), done.stderr


def tasks(ground: Ground) -> None:
    """Whole train and evaluate tasks with `device: auto`; what one says that was given no GPU that torch can see."""
    with storage_with(ground.titles(60_000), ground.titles(5_000) // 4) as (storage, _):
        for name in ("mlp", "cnn-trained", "rnn"):
            train = task_of(recipe_of(**CASES[name], epochs=2, patience_chance=10_000))
            evaluate = Task(stage="evaluate", settings={"train": train.id}, needs=(train.id,))
            for task in (train, evaluate):
                status, spent_s, record, log = _run(task, storage)
                result, about = (record.result, record.about) if record else ({}, Provenance())
                ground.note(
                    case=name, task=task.stage, status=status, s=round(spent_s, 1), device=result.get("device"),
                    rss_mb=about.peak_mb, gpu_mb=result.get("gpu_peak_mb"), rate=result.get("titles_per_s"),
                    warns=[line[:200] for line in log.splitlines() if "Warning" in line][:3],
                )  # fmt: skip
                ground.must(status == 0, f"{name}: {task.stage} ended with status {status}: {log[-300:]}")
                if task is train:
                    ground.must(result.get("device") == ground.device, f"{name} trained on {result.get('device')}")
        for seed, visible in enumerate(("", "NoDevFiles", "7")):
            recipe = recipe_of("mlp", epochs=1, patience_chance=10_000, seed=90 + seed)
            status, _, record, _ = _run(task_of(recipe), storage, CUDA_VISIBLE_DEVICES=visible)
            ground.note(
                visible=repr(visible), status=status, device=record and record.result.get("device"),
                gpus=record and record.about.gpus, message=record and record.message,
            )  # fmt: skip


def micro(ground: Ground) -> None:
    """Microseconds a step: of the host, of the device, of a replayed graph; kernels a step."""
    with dataset_of(ground, 300_000) as (storage, dataset):
        for architecture in ("mlp", "cnn", "rnn"):
            for size, frozen in ((128, True), (128, False), (1024, True)):
                with ground.guarded(architecture=architecture, batch=size, frozen=frozen):
                    asked = {"batch_size": size, "freeze_embeddings": frozen, "compile": True}
                    label = f"micro-{architecture}-{size}-{frozen}"
                    sitting = sit(ground, storage, label, architecture=architecture, **asked)
                    epochs = epochs_of(sitting, dataset)
                    with listening(sitting):
                        facts = _steps(ground, epochs, size)
                    without = [line for line in sitting.said if "compile:" in line]
                    ground.note(architecture=architecture, batch=size, frozen=frozen, **facts, said=without)
                    ground.must(not without, f"{label}: {without}")


def _steps(ground: Ground, epochs: Any, size: int) -> dict[str, Any]:
    draws = [draw for draw in islice(epochs.batches.draws(0), 2 * STEPS) if len(draw.rows) == size][:STEPS]

    def eager() -> None:
        for draw in draws:
            epochs.stepper.step(epochs.batches.make(draw.rows, draw.width))

    def replayed() -> None:
        for draw in draws:
            epochs.replayer.step(draw)

    facts: dict[str, Any] = {}
    for name, steps in (("eager", eager), ("graph", replayed)):
        steps()  # loads kernels, captures graphs
        ground.synchronize()
        began = time.perf_counter()
        steps()
        host_s = time.perf_counter() - began
        ground.synchronize()
        whole_s = time.perf_counter() - began
        facts[f"{name}_us"] = round(1e6 * whole_s / len(draws))
        facts[f"{name}_host_us"] = round(1e6 * host_s / len(draws))
        facts[f"{name}_rate"] = round(size * len(draws) / whole_s)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        epochs.stepper.step(epochs.batches.make(draws[0].rows, draws[0].width))
        ground.synchronize()
    kernels = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    gpu_mb = round(torch.cuda.max_memory_allocated() / 2**20)
    return {
        **facts,
        "kernels": len(kernels),
        "device_us": round(sum(event.device_time for event in kernels)),
        "gpu_mb": gpu_mb,
    }


def full(ground: Ground) -> None:
    """Whole tasks of the MeLi challenge's size: seconds an epoch, with validation and whole; memory; evaluation."""
    training, validation = (4_000, 1_000) if ground.small else CHALLENGE
    with TemporaryDirectory() as root:
        storage, first = Storage(Path(root)), None
        make_dataset(storage.datasets / "made", train=training, validation=validation)
        for architecture, given in (
            ("mlp", {"batch_size": 1024, "compile": True}),
            ("mlp", {"batch_size": 128, "compile": True}),
            ("mlp", {"batch_size": 1024, "freeze_embeddings": False, "compile": True}),
            ("cnn", {"batch_size": 1024, "compile": True}),
            ("rnn", {"batch_size": 1024, "compile": True, "bucket_by_length": True}),
        ):
            task = task_of(recipe_of(architecture, epochs=2, patience_chance=10_000, **given))
            first = first or task
            status, whole_s, record, log = _run(task, storage)
            lines = metrics_log.read(storage.run(task.id))
            ground.note(
                architecture=architecture, **given, status=status, whole_s=round(whole_s, 1),
                epoch_s=[round(training / line["titles_per_s"], 2) for line in lines],
                with_validation_s=[round(line["seconds"], 2) for line in lines],
                rss_mb=record and record.about.peak_mb, gpu_mb=record and record.result.get("gpu_peak_mb"),
                said=[line for line in log.splitlines() if "compile" in line],
            )  # fmt: skip
            ground.must(status == 0, f"{architecture} {given}: status {status}: {log[-300:]}")
        assert first is not None
        status, spent_s, _, log = _run(Task(stage="evaluate", settings={"train": first.id}, needs=(first.id,)), storage)
        ground.note(evaluate_status=status, evaluate_s=round(spent_s, 1), titles=2 * validation)
        ground.must(status == 0, f"evaluate: status {status}: {log[-300:]}")


def side(ground: Ground) -> None:
    """Four runs on one GPU against one alone, over the time in which all of them train; steps as graphs and as not."""
    titles = ground.titles(200_000)
    mps = "CUDA_MPS_PIPE_DIRECTORY" in os.environ
    with storage_with(titles, 500) as (storage, _):
        for graphs in (False, True) if ground.device == "cuda" else (False,):
            alone, most = 0.0, 2 if ground.small else 4
            for count in (1, most):
                with ground.guarded(graphs=graphs, k=count):
                    asked = {"architecture": "mlp", "batch_size": 128, "compile": graphs, "device": ground.device}
                    window = side_by_side(storage, count, cpus=cores_each(most), titles=titles, **asked)
                    alone = alone or window.titles_per_s
                    ground.note(
                        mps=mps, graphs=graphs, k=count, rate=round(window.titles_per_s),
                        times=round(window.titles_per_s / alone, 2), window_s=round(window.window_s, 1),
                        said=window.told,
                    )  # fmt: skip


FULL = """
import time, torch
free, _ = torch.cuda.mem_get_info()
kept = torch.empty(free - 300 * 2**20, dtype=torch.uint8, device="cuda")
print("held", flush=True)
time.sleep(60)
"""
OUTSIDE = (
    "import torch; x = torch.zeros(4, device='cuda'); x[torch.tensor([9], device='cuda')]; torch.cuda.synchronize()"
)
PRODUCT = "import torch; x = torch.ones(64, 64, device='cuda'); torch.mm(x, x)"


def errors(ground: Ground) -> None:
    """The classes and words of real CUDA errors, and the causes that tanda makes of them."""

    def told(what: str, work: Callable[[], Any], expected: str) -> None:
        try:
            work()
            ground.note(what=what, raised="nothing")
        except Exception as error:  # noqa: BLE001 - the error is what is looked at
            words, cause = str(error).splitlines()[0][:150], _cause(error)[0]
            ground.note(what=what, kind=type(error).__name__, cause=cause, words=words)
            ground.must(cause == expected, f"{what}: {cause}, not {expected}")

    def in_process(what: str, code: str, expected: str | None) -> None:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        cause = cause_of(done.stderr)
        ground.note(what=what, status=done.returncode, cause=cause, words=done.stderr.strip().splitlines()[-5:])
        ground.must(done.returncode == 0 or cause == expected, f"{what}: {cause}, not {expected}")

    told("too large", lambda: torch.empty(10**13, device=ground.device), GPU_OUT_OF_MEMORY)
    in_process("an index out of range on the device", OUTSIDE, None)
    with subprocess.Popen([sys.executable, "-c", FULL], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            in_process("a GPU that another process fills", PRODUCT, GPU_OUT_OF_MEMORY)
        finally:
            holder.kill()
