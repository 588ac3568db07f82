"""Which device a task computes on: never the CPU because its allotted GPU can't be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from training_fixture import publish_dataset, train_task

from jobs import context, entry, metrics_log
from jobs.provenance import provenance
from jobs.storage import Storage
from jobs.task import Task, read_record
from jobs.training import device
from jobs.training.run import Trained
from pipeline import repro
from pipeline.edge import one_line
from sharedfs.documents import read_json, write_json
from sharedfs.errors import InputError
from slurm.element import visible_gpus

DRIVER_ERROR = "The NVIDIA driver on your system is too old (found version 12040)."


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("TANDA_CPUS", "1")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPUs can't be used, whatever this one has."""

    def init() -> None:
        raise RuntimeError(f"{DRIVER_ERROR}\nPlease update your GPU driver.")

    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def surroundings(monkeypatch: pytest.MonkeyPatch, asked: str | None, devices: str | None) -> None:
    for name, value in (("TANDA_GPUS", asked), ("CUDA_VISIBLE_DEVICES", devices)):
        if value is not None:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("asked", "devices", "allotted", "visible"),
    [
        (None, None, None, []),
        ("0", None, 0, []),
        ("2", None, 2, []),
        ("0", "", 0, []),
        (None, "NoDevFiles", 0, []),
        (None, "-1", 0, []),
        ("1", "NoDevFiles", 1, []),
        (None, "3", 1, ["3"]),
        ("0", "0,1", 2, ["0", "1"]),  # a site's own option asked for them
        (None, "0,-1,1", 1, ["0"]),
        (None, "0, -1, 1", 1, ["0"]),
        ("0", "-2", 0, []),
        ("0", " ", 0, []),
        ("1", "GPU-8932f937,MIG-1", 2, ["GPU-8932f937", "MIG-1"]),
    ],
)
def test_what_was_given_is_read_as_cuda_reads_it(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, devices: str | None, allotted: int | None, visible: list[str]
) -> None:
    surroundings(monkeypatch, asked, devices)
    assert (context.allotted_gpus(), context.visible_gpus()) == (allotted, visible)
    assert list(visible_gpus(os.environ)) == visible  # by the executors' own reading
    assert provenance().gpus == len(visible)


@pytest.mark.parametrize(("asked", "devices"), [("1", "7"), ("1", None), (None, "7"), ("0", "7"), ("1", "NoDevFiles")])
def test_a_gpu_that_was_given_and_cannot_be_used_is_reported_in_the_drivers_words(
    broken: None, monkeypatch: pytest.MonkeyPatch, asked: str | None, devices: str | None
) -> None:
    surroundings(monkeypatch, asked, devices)
    with pytest.raises(device.UnusableError) as caught:
        device.choose("auto")
    assert caught.value.cause == "no GPU"
    assert str(caught.value).startswith(DRIVER_ERROR) and f"CUDA_VISIBLE_DEVICES: {devices or 'not set'}" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    assert device.choose("cpu").type == "cpu"


@pytest.mark.parametrize(("asked", "devices"), [(None, None), ("0", None), (None, ""), ("0", "NoDevFiles")])
def test_without_a_gpu_given_it_is_the_cpu(
    broken: None, monkeypatch: pytest.MonkeyPatch, asked: str | None, devices: str | None
) -> None:
    surroundings(monkeypatch, asked, devices)
    assert device.choose("auto").type == "cpu"
    with pytest.raises(device.UnusableError, match="device: cuda is asked for") as caught:
        device.choose("cuda")
    assert one_line(caught.value) == str(caught.value), "a person at a prompt sees no traceback"


def test_gpus_that_others_were_given_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node whose GPUs every process sees."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    surroundings(monkeypatch, "0", None)
    assert device.choose("auto").type == "cpu"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "GPU out of memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), "GPU out of memory"),  # a full GPU, of its context
        (torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "GPU failure"),
        (AssertionError("Torch not compiled with CUDA enabled"), "no GPU"),
        (torch.cuda.DeferredCudaCallError("CUDA call failed lazily at initialization with error: odd"), "no GPU"),
        (RuntimeError("whatever the next driver says"), "no GPU"),
    ],
)
def test_a_gpu_that_is_full_or_busy_is_not_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    def init() -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "init", init)
    surroundings(monkeypatch, "1", "0")
    with pytest.raises(device.UnusableError) as caught:
        device.choose("auto")
    assert caught.value.cause == cause


def test_such_a_task_ends_at_once_as_no_gpu_and_trains_where_the_cpu_is_asked_for(
    broken: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(tmp_path)
    dataset = publish_dataset(storage)
    surroundings(monkeypatch, "1", "7")
    folder = train_task("mlp", dataset, epochs=1).write(storage)
    assert entry.run(folder) == 1
    record = read_record(folder)
    assert record is not None and (record.state, record.cause) == ("failed", "no GPU")
    assert record.message is not None and record.message.startswith(DRIVER_ERROR)
    assert metrics_log.read(folder) == [] and "Traceback" not in capsys.readouterr().err
    assert train_task("mlp", dataset, epochs=1, device="cpu").write(storage) == folder
    assert entry.run(folder) == 0
    assert read_json(folder / "record.json")["result"]["device"] == "cpu"


def test_what_was_made_on_a_gpu_is_not_reproduced_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(tmp_path)
    folder = train_task("mlp", publish_dataset(storage), epochs=1).write(storage)
    assert entry.run(folder) == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")  # of a workstation that has one
    assert repro.check(folder) == []
    record = read_json(folder / "record.json")
    write_json(folder / "record.json", {**record, "about": {**record["about"], "gpu": "NVIDIA H200"}})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(InputError, match="ended with status 1 when it was started again"):
        repro.check(folder)
    assert "failed (no GPU): " in capfd.readouterr().err


def test_a_run_that_was_trained_on_a_gpu_is_evaluated_by_what_the_evaluation_was_given(
    broken: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage = Storage(tmp_path)
    dataset = publish_dataset(storage)
    train = train_task("mlp", dataset, epochs=1)
    folder = train.write(storage)
    assert entry.run(folder) == 0
    settings = read_json(folder / "settings.json")
    write_json(folder / "settings.json", {**settings, "device": "cuda"})
    record = read_json(folder / "record.json")
    write_json(folder / "record.json", {**record, "files": storage.sizes(folder / n for n in ("settings.json",))})
    evaluate = Task(stage="evaluate", settings={"train": train.id}, needs=(dataset, train.id)).write(storage)
    monkeypatch.setenv("TANDA_GPUS", "1")
    assert entry.run(evaluate) == 1
    assert read_json(evaluate / "record.json")["cause"] == "no GPU"
    monkeypatch.setenv("TANDA_GPUS", "0")
    assert entry.run(evaluate) == 0
    monkeypatch.delenv("TANDA_GPUS")
    assert Trained.open(storage, folder).recipe.settings.device == "cuda"  # as for `tanda predict` in a shell
