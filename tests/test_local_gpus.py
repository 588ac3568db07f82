"""Which GPUs the tasks of local runs are given: those of the machine, or those that the person left visible."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from slurm.array import Array, Resources
from slurm.commands import warn_once
from slurm.executors.local import LOCAL_GPUS, LocalQueue, visible_here
from slurm.local_supervisor import Supervisor
from slurm.machine import Machine, list_gpus, parse_gpu_list, this_machine

MIG = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaaaaaa-d33d-2b2c-524d-9e3d8d2b8a77)
"""
SLICES = ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb")


@pytest.mark.parametrize(
    ("devices", "listed", "names"),
    [
        ((), None, ()),
        (("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"), None, ("0", "1")),  # no nvidia-smi
        (("nvidia3", "nvidiactl"), None, ("0",)),  # a container's: CUDA counts what it sees
        (("nvidia0", "nvidia1"), MIG, (*SLICES, "1")),
        (("nvidia0",), "Failed to initialize NVML: Driver/library version mismatch\n", ("0",)),
    ],
)
def test_gpus_of_a_machine_by_their_names(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: tuple[str, ...],
    listed: str | None,
    names: tuple[str, ...],
) -> None:
    (tmp_path / "bin").mkdir()
    for device in devices:
        (tmp_path / device).touch()
    if listed is not None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'E'\n{listed}E\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert list_gpus(tmp_path) == names


def test_a_list_without_a_gpu_names_none() -> None:
    assert parse_gpu_list("No devices were found\n") == ()


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ("1",)),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ()),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1,GPU-2"}, ("MIG-1", "GPU-2")),
        # The closing job, an element without GPUs of its own, submits again for its array's.
        ({"CUDA_VISIBLE_DEVICES": "", LOCAL_GPUS: "1,2"}, ("1", "2")),
    ],
)
def test_what_the_person_left_visible(
    monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], names: tuple[str, ...] | None
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", LOCAL_GPUS):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert visible_here() == names


def started(queue: LocalQueue, monkeypatch: pytest.MonkeyPatch, *visible: str | None) -> list[Mapping[str, str]]:
    """The environments of what one supervisor starts, of arrays of two elements submitted one after the other."""
    monkeypatch.setattr(LocalQueue, "_ensure_supervisor", lambda _self: None)
    environments: list[Mapping[str, str]] = []

    class Process:
        pid = os.getpid()

        def __init__(self, *_: object, env: Mapping[str, str], **__: object) -> None:
            environments.append(env)

    monkeypatch.setattr("slurm.local_supervisor.Popen", Process)
    monkeypatch.setattr("slurm.local_supervisor._ended", lambda _run: None)
    supervisor = Supervisor(queue, machine=replace(this_machine(), cpus=64, mem_gb=64.0, gpus=("0", "1", "2")))
    for number, names in enumerate(visible):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if names is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
        folder = queue.folder.parent / f"s{number}"
        paths = tuple((folder / name,) for name in "ab")
        resources = Resources(gpus=1, mem_gb=0.1)
        queue.add(Array(name="x", elements=paths, command=("true",), folder=folder, resources=resources))
        supervisor.step()
    return environments


@pytest.mark.parametrize(
    ("visible", "dealt"),
    [
        ((None,), ["0", "1"]),
        (("2",), ["2"]),  # the second waits for it
        (("1", "1,2"), ["1", "2"]),  # one supervisor, two submitters: a GPU in use is not given twice
        (("", None), ["", "", "0", "1"]),  # no GPU left visible: run without, as on a machine without
        (("MIG-1,MIG-2",), ["MIG-1", "MIG-2"]),
    ],
)
def test_local_tasks_are_given_what_their_submitter_left_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: tuple[str | None, ...], dealt: list[str]
) -> None:
    environments = started(LocalQueue(tmp_path / "queue"), monkeypatch, *visible)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == dealt
    whole = [names if names is not None else "0,1,2" for names in visible]
    assert environments[0][LOCAL_GPUS] == whole[0]


def test_a_machine_has_cores_and_memory() -> None:
    machine = this_machine()
    assert isinstance(machine, Machine) and machine.cpus >= 1 and machine.mem_gb > 0


def test_a_list_in_other_words_is_said_and_the_devices_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    warn_once.cache_clear()
    (tmp_path / "nvidia0").touch()
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho Device 0: an accelerator\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert list_gpus(tmp_path) == ("0",)
    assert "nvidia-smi printed a list that cannot be read: 'Device 0: an accelerator'" in capfd.readouterr().err
