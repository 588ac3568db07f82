"""What doctor says of GPUs: torch's build against the driver, and what a node's process sees."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import orjson
import pytest
import torch
from rig import Rig
from small_manifest import tanda

from jobs import gpu_facts
from jobs.gpu_facts import GpuFacts
from pipeline import doctor_gpu
from pipeline.doctor_gpu import check_build, examine_gpu, has_kernels, judge, read_facts
from pipeline.doctor_profile import examine_site
from slurm.array import Site
from slurm.errors import SlurmError
from slurm.sbatch import setup_lines
from slurm.srun import srun_command

CU130 = "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n"
CU126 = "__version__ = '2.13.0+cu126'\ncuda: Optional[str] = '12.6'\n"
CPU = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n"
NVRM = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Release Build\nGCC version: gcc version 12.2.0\n"
H200 = GpuFacts(
    host="n1", visible="0", torch="2.13.0+cu130", cuda="13.0", cudnn=91300,
    architectures=("sm_75", "sm_80", "sm_90", "sm_100", "compute_120"), name="NVIDIA H200", capability="9.0",
    driver="580.65.06", compute_mode="Default", mig="Disabled", mps=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("version", "driver", "ok", "words"),
    [
        (CPU, None, True, "2.13.0+cpu is built without CUDA"),
        (CU130, None, True, "built for CUDA 13.0: nodes need NVIDIA driver 580 or later"),
        (CU130, "580.65.06", True, "this machine has 580.65.06"),
        (CU130, "550.54.15", False, "this machine has 550.54.15; renew the driver, or install a torch for its CUDA"),
        (CU126, "550.54.15", True, "nodes need NVIDIA driver 525.60.13 or later, this machine has 550.54.15"),
        (CU126, "525.60.02", False, "this machine has 525.60.02; renew"),
    ],
)
def test_torchs_build_is_held_against_the_driver(
    tmp_path: Path, version: str, driver: str | None, ok: bool, words: str
) -> None:
    (tmp_path / "version.py").write_text(version)
    if driver is not None:
        (tmp_path / "driver").write_text(NVRM.format(driver))
    found = check_build(tmp_path / "version.py", tmp_path / "driver")
    assert (found.ok, found.name) == (ok, "torch") and words in found.reason


def test_the_build_is_that_of_the_torch_that_is_here() -> None:
    assert str(torch.__version__) in check_build(driver_file=Path("/nowhere")).reason


@pytest.mark.parametrize(
    ("capability", "architectures", "known"),
    [
        ("9.0", ("sm_80", "sm_90"), True),
        ("8.6", ("sm_80",), True),  # a binary of the same major version
        ("8.0", ("sm_86",), False),
        ("7.0", ("sm_75", "sm_80", "compute_120"), False),  # V100 and CUDA 13
        ("12.1", ("sm_90", "compute_120"), True),
        ("10.0", ("sm_90",), False),
        ("9.0", ("sm_90a",), True),
        ("10.3", ("sm_100a",), False),  # of that very GPU alone
        ("9.0", (), False),
    ],
)
def test_whether_a_build_has_kernels_for_a_gpu(capability: str, architectures: tuple[str, ...], known: bool) -> None:
    assert has_kernels(capability, architectures) is known


@pytest.mark.parametrize(
    ("change", "name", "ok", "words"),
    [
        (
            {},
            "GPU of n1",
            True,
            "NVIDIA H200, compute capability 9.0, driver 580.65.06, torch 2.13.0+cu130",
        ),
        ({}, "kernels", True, "sm_90"),
        ({}, "compute mode", True, "Default"),
        ({}, "MIG", True, "Disabled: whole GPUs"),
        ({"mig": "Enabled"}, "MIG", True, "each task gets a slice"),
        ({}, "MPS", True, "can share a GPU by MPS"),
        ({"mps": False}, "MPS", True, "take turns"),
        ({"capability": "7.0"}, "kernels", False, "none for 7.0; install a build of torch that has them"),
        ({"compute_mode": "Exclusive_Process"}, "compute mode", True, "a second task of a `pack` ends there"),
        ({"compute_mode": "Prohibited"}, "compute mode", False, "no process may compute"),
        ({"problem": "No CUDA GPUs are available"}, "GPU of n1", False, "No CUDA GPUs are available"),
    ],
)
def test_what_a_node_saw_is_judged(change: dict[str, object], name: str, ok: bool, words: str) -> None:
    found = {finding.name: finding for finding in judge(replace(H200, **change))}  # type: ignore[arg-type]
    assert found[name].ok is ok and words in found[name].reason
    assert all(finding.ok for finding in found.values()) is ok


def test_facts_are_found_among_what_logins_print() -> None:
    line = orjson.dumps(asdict(H200)).decode()
    assert read_facts(f"Loading python/3.11\n{line}\nbye\n") == H200
    assert read_facts("Loading python/3.11\n") is None and read_facts('{"host": 3}\n') is None


def test_the_probe_says_what_torch_says_where_there_is_no_gpu() -> None:
    done = subprocess.run([sys.executable, "-m", "jobs.gpu_facts"], capture_output=True, text=True, check=True)
    facts = read_facts(done.stdout)
    assert facts is not None and facts.torch == str(torch.__version__) and facts.visible == ""
    assert facts.problem is not None and "device: cuda is asked for, but this task was given no GPU" in facts.problem


def test_the_probe_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By stand-ins for torch's questions and nvidia-smi."""
    monkeypatch.setattr("jobs.training.device.choose", lambda _name: torch.device("cuda"))
    for name, value in (
        ("get_device_capability", (9, 0)), ("get_device_name", "NVIDIA H200"), ("get_arch_list", ["sm_90"]),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '580.65.06, Exclusive_Process, Enabled'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    facts = gpu_facts.collect()
    assert (facts.problem, facts.capability, facts.architectures, facts.mps) == (None, "9.0", ("sm_90",), False)
    assert (facts.driver, facts.compute_mode, facts.mig) == ("580.65.06", "Exclusive_Process", "Enabled")


def test_a_node_is_asked_by_the_sites_options() -> None:
    site = Site(partition="gpu", account="lab", gres_type="a100", exclude="n9", modules=("py",), activate=". env")
    command = srun_command(["python", "-m", "jobs.gpu_facts"], site, gpus=1, wait_s=60, code=Path("/c"))
    assert command == [
        "srun", "--ntasks=1", "--gpus=a100:1", "--time=5", "--immediate=60", "--job-name=tanda-doctor",
        "--partition=gpu", "--account=lab", "--exclude=n9", "bash", "-c",
        "\n".join([*setup_lines(site), "exec python -m jobs.gpu_facts"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        (SlurmError("srun: error: Unable to allocate resources: Requested nodes are busy"), "Requested nodes are busy"),
        ("Illegal instruction\n", "answered what cannot be read: Illegal instruction"),
        ("", "answered what cannot be read: nothing"),
    ],
)
def test_a_node_that_does_not_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, printed: str | Exception, words: str
) -> None:
    def ask(*_: object, **__: object) -> str:
        if isinstance(printed, Exception):
            raise printed
        return printed

    monkeypatch.setattr(doctor_gpu, "run_on_node", ask)
    (found,) = examine_gpu(Site())
    assert not found.ok and words in found.reason and "\n" not in found.reason


def test_this_machine_is_asked_by_this_package_and_fails_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").touch()  # another project's, in the working directory
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        monkeypatch.delenv(name, raising=False)
    *_, found = examine_gpu(None)
    assert "was given no GPU" in found.reason
    monkeypatch.setattr(doctor_gpu, "PROBE", (sys.executable, "-c", "raise ImportError('libcudart.so.13: not found')"))
    (found,) = examine_gpu(None)
    assert not found.ok and found.reason.endswith("status 1: ImportError: libcudart.so.13: not found")


def test_without_slurm_this_machine_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    profile = tmp_path / "site.yaml"
    profile.write_text("partition: gpu\n")
    found = {finding.name: finding for finding in examine_site(tmp_path / "s", ask_gpu=True, profile=profile)}
    gpu = next(finding for name, finding in found.items() if name.startswith("GPU of "))
    assert not gpu.ok and "was given no GPU" in gpu.reason and found["torch"].ok


def test_a_wrong_profile_is_one_line(tmp_path: Path) -> None:
    profile = tmp_path / "site.yaml"
    profile.write_text("partiton: gpu\n")
    printed = tanda("doctor", tmp_path / "s", "--gpu", "--cluster", profile, status=2)
    assert f"{profile}:1:1: partiton: unknown" in printed and "partition" in printed


@pytest.mark.cluster
def test_a_node_of_the_cluster_says_that_it_has_no_gpu(cluster: Rig, tmp_path: Path) -> None:
    """Its GPUs are device files: Slurm gives one, torch finds none."""
    printed = tanda("doctor", tmp_path / "s", "--gpu", "--json", status=1)
    findings = {finding["name"]: finding for finding in json.loads(printed)}
    (name,) = [name for name in findings if name.startswith("GPU of n")]
    assert not findings[name]["ok"]
    assert re.search(r"CUDA_VISIBLE_DEVICES: \d\)", findings[name]["reason"])
