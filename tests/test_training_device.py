"""How a process is set up to compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_fixture import publish_dataset, train_task

from jobs import metrics_log
from jobs.storage import Storage
from jobs.task import read_record

# A tensor of 40 MB comes and goes: more than glibc, left alone, ever keeps for the next one.
STEPS = """
import resource, sys, torch
from jobs.training import device
if sys.argv[1] == "prepared":
    device.prepare(torch.device("cpu"), cpus=1, deterministic=True, precision="float32")
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
        assert record.message == (
            "precision: bfloat16: this processor computes no LSTM in it; set precision: float32, or use a GPU"
        )
        assert metrics_log.read(folder) == [] and "Traceback" not in ended.stderr
