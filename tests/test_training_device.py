"""How a process is set up to compute."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_fixture import publish_dataset, train_task

from jobs import entry, metrics_log, predict
from jobs.models.rnn.network import unsupported
from jobs.storage import Storage
from jobs.task import Task, read_record
from jobs.training import device

# A tensor of 40 MB comes and goes: more than glibc, left alone, ever keeps for the next one.
STEPS = """
import resource, sys, torch
from jobs.training import device
if sys.argv[1] == "prepared":
    device.prepare(torch.device("cpu"), cpus=1, deterministic=True, precision="float32", tf32=True)
def step():
    return torch.ones(10_000_000)[0]
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
before = faults()
for _ in range(50):
    step()
print((faults() - before) / 50)
"""


def faults_a_step(way: str) -> float:
    done = subprocess.run([sys.executable, "-c", STEPS, way], check=True, capture_output=True, text=True)
    return float(done.stdout)


def test_memory_that_a_step_frees_is_there_for_the_next() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the C library is not glibc")
    # Given back to the kernel each time it is thousands of faults a step, or tens where the kernel has huge pages.
    assert faults_a_step("prepared") < faults_a_step("bare") / 5


# oneDNN leaves out what newer processors have: so every machine can be one that has no LSTM in bfloat16.
@pytest.mark.parametrize(("architecture", "trains"), [("rnn", False), ("cnn", True), ("mlp", True)])
def test_bfloat16_is_refused_where_the_processor_lacks_it_before_anything_is_trained(
    tmp_path: Path, architecture: str, trains: bool
) -> None:
    storage = Storage(tmp_path)
    dataset = publish_dataset(storage)
    folder = train_task(architecture, dataset, precision="bfloat16", epochs=1, device="cpu").write(storage)
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "TANDA_CPUS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "jobs", str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    record = read_record(folder)
    assert record is not None and (ended.returncode == 0, record.state == "done") == (trains, trains), ended.stderr
    if not trains:
        assert record.message == ("precision: bfloat16: this processor computes no LSTM in it; set precision: float32")
        assert metrics_log.read(folder) == [] and "Traceback" not in ended.stderr


@pytest.mark.parametrize(("kind", "refused"), [("cuda", True), ("meta", False)])
def test_an_lstm_in_bfloat16_is_refused_on_a_gpu_which_would_compute_it_in_float16(kind: str, refused: bool) -> None:
    problem = unsupported(torch.device(kind), "bfloat16")
    assert (problem is not None and "float16" in problem and "set precision: float32" in problem) is refused
    assert unsupported(torch.device(kind), "float32") is None


@pytest.fixture
def gpu_set_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A stand-in for a GPU's driver, and torch's own switches put back; what was reset."""
    reset: list[str] = []
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: reset.append(device.type))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    precision, allowed = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield reset
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = allowed
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


@pytest.mark.parametrize(("tf32", "precision"), [(True, "high"), (False, "highest"), (True, "high")])
def test_tf32_is_a_setting_and_every_run_counts_its_own_gpu_memory(
    gpu_set_up: list[str], tf32: bool, precision: str
) -> None:
    line = device.prepare(torch.device("cuda"), cpus=1, deterministic=True, precision="float32", tf32=tf32)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (precision, tf32)
    assert f"TF32 {'on' if tf32 else 'off'} (NVIDIA H200; 1 more given and not used" in line
    assert gpu_set_up == ["cuda"]


@pytest.mark.parametrize("tf32", [True, False])
def test_evaluation_and_prediction_compute_as_training_did(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tf32: bool
) -> None:
    storage = Storage(tmp_path)
    dataset = publish_dataset(storage)
    train = train_task("mlp", dataset, epochs=1, tf32=tf32)
    folder = train.write(storage)
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(device, "prepare", lambda _device, **asked: seen.append(asked) or "")
    monkeypatch.setenv("TANDA_CPUS", "1")
    assert entry.run(folder) == 0
    evaluate = Task(stage="evaluate", settings={"train": train.id}, needs=(dataset, train.id)).write(storage)
    assert entry.run(evaluate) == 0
    monkeypatch.setattr(predict, "TitleEncoder", lambda _dataset: None)
    assert list(predict.predict(tmp_path, folder, [])) == []
    asked = {"cpus": 1, "deterministic": True, "precision": "float32", "tf32": tf32}
    assert seen == [asked] * 3
