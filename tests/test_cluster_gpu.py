"""On a real cluster, with stand-ins for NVML and MPS: what tasks asked for, used and held, and what they are told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest
from mps_fixture import mps_calls, mps_folder
from nvml_fixture import pynvml_folder
from rig import Rig
from small_manifest import tanda, wait_until_over, with_only, write_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(280)]
LIMIT_S = 200
# Two packed on a GPU; the second goes on alone.
RUNS = "      MLP: {architecture: mlp, epochs: 250}\n      long: {architecture: mlp, epochs: 500}"
TRAIN = "  train: {cpus: 2, gpus: 1, pack: 2, mem_gb: 3, time_min: 20}"
BOARD = "FakeNvml(Board(utilisation=cycle([{use}]), mig={mig}))"


def _write(folder: Path, name: str, runs: str = RUNS, train: str = TRAIN) -> Path:
    lines = with_only("MLP").splitlines()
    changed = {"name: small": f"name: {name}", "      MLP: {architecture: mlp}": runs}
    changed["  train: {cpus: 1, mem_gb: 0.5, time_min: 20}"] = train
    assert changed.keys() <= set(lines)
    return write_manifest(folder, "\n".join(changed.get(line, line) for line in lines) + "\n")


def _submit(manifest: Path, *words: str, nvml: str, mps: Path) -> None:
    path = f"{pynvml_folder(Path(mkdtemp(dir=manifest.parent)), nvml)}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {"PYTHONPATH": path, "PATH": f"{mps}{os.pathsep}{os.environ['PATH']}"}
    tanda("submit", manifest, *words, environment=environment)


def _show(manifest: Path, *words: str) -> str:
    """A command's output, which `pytest -s` prints as a transcript."""
    shown = tanda(*words[:1], manifest, *words[1:])
    sys.stdout.write(f"$ tanda {words[0]} {manifest.name} {' '.join(words[1:])}\n{shown}\n")
    return shown


def test_what_was_measured_becomes_advice_and_the_next_size(cluster: Rig, tmp_path: Path) -> None:
    """Packed tasks under MPS on a GPU that has little to do; beside them some of a MIG slice, and MPS that refuses."""
    packed, mig = _write(tmp_path / "packed", "packed"), _write(tmp_path / "mig", "mig")
    mps, refusing = mps_folder(tmp_path), mps_folder(tmp_path / "mig", refuses=True)
    _submit(packed, nvml=BOARD.format(use=20, mig=None), mps=mps)
    _submit(mig, nvml=BOARD.format(use=20, mig=True), mps=refusing)
    assert wait_until_over(packed, LIMIT_S)["summary"] == {"done": 5}
    assert [call.split()[0] for call in mps_calls(mps)] == ["start", "start_server", "get_server_list", "quit"]
    status = _show(packed, "status")
    assert "train: `pack: 8` in `resources`: a GPU was in use 20 % of the time in which it had work" in status
    assert "train: asked 3 GB, used 0." in status
    # With no GPU on this machine the tasks computed on the CPU, and that is what is said of what they held.
    efficiency = _show(packed, "efficiency")
    assert "asked too much" in efficiency and "train: 2 side by side trained " in efficiency
    # Sized by what was used, the next ones ask for less.
    sizes = ("--set", "resources.train.mem_gb=auto", "--set", "defaults.seed=1")
    assert "GB at most in 2 finished tasks, x 1.3, for 2 side by side" in _show(packed, "plan", *sizes)
    (asked,) = [
        array["resources"]["mem_gb"]
        for array in json.loads(tanda("plan", packed, "--json", *sizes))["arrays"]
        if array["stage"] == "train"
    ]
    assert asked < 3
    assert wait_until_over(mig, LIMIT_S)["summary"] == {"done": 5}
