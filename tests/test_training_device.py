"""How a process is set up to compute."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
    found = subprocess.run([sys.executable, "-c", STEPS, way], check=True, capture_output=True, text=True)
    return float(found.stdout)


def test_memory_that_a_step_frees_is_there_for_the_next() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the C library is not glibc")
    # Given back to the kernel each time it is thousands of faults a step, or tens where the kernel has huge pages.
    assert faults_a_step("prepared") < faults_a_step("bare") / 5
