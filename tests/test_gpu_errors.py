"""What a GPU's errors mean: the texts of CUDA, its libraries and torch, and the cause of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs import circuit_breaker, entry, gpu_errors
from jobs.context import Context, Outcome
from jobs.stages import train
from jobs.storage import Storage
from jobs.task import CAUSES, NODE_CAUSES, Record, Task, read_record
from pipeline.decisions.retry import AWAY, FINAL
from sharedfs.errors import TandaError


class BrokenPluginError(TandaError, RuntimeError):
    pass


ASIDE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
)
# As torch 2.11 to 2.14 print them: cudaGetErrorString's texts of the runtime API, the libraries' status names.
TEXTS = {
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of": "GPU out of memory",
    "CUDA error: out of memory": "GPU out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": "GPU out of memory",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": "GPU out of memory",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED": "GPU out of memory",
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "c10/cuda/CUDACachingAllocator.cpp":1131': "GPU out of memory",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED": "out of memory",
    "[enforce fail at alloc_cpu.cpp:125] . DefaultCPUAllocator: can't allocate memory: you tried": "out of memory",
    "CUDA error: uncorrectable ECC error encountered": "GPU failure",
    "CUDA error: uncorrectable NVLink error detected during the execution": "GPU failure",
    "CUDA error: unspecified launch failure": "GPU failure",
    "CUDA error: the launch timed out and was terminated": "GPU failure",
    "CUDA error: hardware stack error": "GPU failure",
    "CUDA error: all CUDA-capable devices are busy or unavailable": "GPU failure",  # until CUDA 11
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable": "GPU failure",
    "CUDA error: exclusive-thread device already in use by a different thread": "GPU failure",
    "CUDA error: unknown error": "GPU failure",
    "CUDA error: MPS client failed to connect to the MPS control daemon or the MPS server": "GPU failure",
    "CUDA error: the remote procedural call between the MPS server and the MPS client failed": "GPU failure",
    "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.  Reboot the system": "GPU failure",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`": "GPU failure",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasLtMatmul`": "GPU failure",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED": "GPU failure",
    "CUDA error: no CUDA-capable device is detected": "no GPU",
    "No CUDA GPUs are available": "no GPU",
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU": "no GPU",
    "The NVIDIA driver on your system is too old (found version 12040). Please update": "no GPU",
    "CUDA driver version is insufficient for CUDA runtime version": "no GPU",
    "CUDA error: the provided PTX was compiled with an unsupported toolchain.": "no GPU",
    "CUDA error: no kernel image is available for execution on the device": "no GPU",
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that "
    "might have already set an error? Error 802: system not yet initialized": "no GPU",
    "Error 803: system has unsupported display driver / cuda driver combination": "no GPU",
    "Error 804: forward compatibility was attempted on non supported HW": "no GPU",
    "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable "
    "CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero.": "no GPU",
    "Failed to initialize NVML: Driver/library version mismatch": "no GPU",
    "Torch not compiled with CUDA enabled": "no GPU",
    "CUDA error: device-side assert triggered": None,
    "CUDA error: an illegal memory access was encountered": None,
    "CUDA error: misaligned address": None,
    "CUDA error: invalid argument": None,
    "CUDA error: operation not permitted when stream is capturing": None,
    "mat1 and mat2 shapes cannot be multiplied (128x300 and 600x16)": None,
}
SHARED = ("device-side assert", "illegal memory access", "misaligned address")


@pytest.mark.parametrize(("text", "cause"), TEXTS.items())
def test_every_text_has_its_cause(text: str, cause: str | None) -> None:
    assert gpu_errors.cause_of(f"AcceleratorError: {text}{ASIDE}") == cause
    of_another = any(part in text for part in SHARED)  # perhaps: under MPS a fault of one ends all
    assert gpu_errors.cause_of(text + ASIDE, shared=True) == ("GPU failure" if of_another else cause)


def test_the_table_has_causes_that_a_task_can_have() -> None:
    assert {cause for cause in TEXTS.values() if cause} <= set(CAUSES)
    assert set(NODE_CAUSES) == AWAY and not AWAY & FINAL


@pytest.mark.parametrize(
    ("neighbours", "text", "cause", "counted"),
    [
        ("1", "CUDA error: uncorrectable ECC error encountered", "GPU failure", False),
        ("1", "CUDA error: an illegal memory access was encountered", "error", True),
        ("2", "CUDA error: an illegal memory access was encountered", "GPU failure", False),
        ("1", "CUDA error: out of memory", "GPU out of memory", False),
    ],
)
def test_a_task_on_a_broken_gpu_is_not_counted_by_the_circuit_breaker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, neighbours: str, text: str, cause: str, counted: bool
) -> None:
    def broken(context: Context) -> Outcome:
        raise torch.AcceleratorError(text + ASIDE)

    monkeypatch.setattr(train, "run", broken)
    for name, value in (
        ("TANDA_SUBMISSION", str(tmp_path / "submission")), ("TANDA_GROUP", "g"), ("TANDA_BRAKE_AFTER", "1"),
        ("TANDA_GPU_TASKS", neighbours),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / "submission").mkdir()
    storage = Storage(tmp_path / "storage")
    folder = Task(stage="train", settings={"seed": 1}).write(storage)
    assert entry.run(folder) == 1
    record = read_record(folder)
    assert record is not None and record.cause == cause and text in str(record.message)
    assert ("\n" in str(record.message)) is (cause == "error")  # further lines are advice to who writes kernels
    other = Task(stage="train", settings={"seed": 2})
    other.write(storage)
    assert (circuit_breaker.hold(other, storage) is not None) is counted


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "GPU failure"),
        (AssertionError("Torch not compiled with CUDA enabled"), "no GPU"),
        (ValueError("title 7: 'CUDA error: unknown error' is in no class"), "error"),
        (BrokenPluginError("its GPU is lost"), "error"),
        (KeyError("context is destroyed"), "error"),
        (FileNotFoundError("words/CUDA out of memory.txt"), "error"),
    ],
)
def test_what_only_mentions_a_gpus_error_is_none(error: Exception, cause: str) -> None:
    assert entry._cause(error)[0] == cause


def test_a_failure_of_a_gpu_that_answers_no_more_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Outcome:
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        raise torch.AcceleratorError("CUDA error: unspecified launch failure" + ASIDE)

    def name() -> str:  # every call of CUDA after it fails as it did
        raise torch.AcceleratorError("CUDA error: unspecified launch failure" + ASIDE)

    monkeypatch.setattr(train, "run", broken)
    monkeypatch.setattr(torch.cuda, "get_device_name", name)
    folder = Task(stage="train", settings={"seed": 1}).write(Storage(tmp_path))
    assert entry.run(folder) == 1
    record = read_record(folder)
    assert record is not None and record.cause == "GPU failure"


@pytest.mark.parametrize(
    ("cause", "held"), [("error", True), ("diverged", True), ("GPU failure", False), ("no GPU", False)]
)
def test_a_canary_on_a_broken_node_holds_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str, held: bool
) -> None:
    storage = Storage(tmp_path)
    canary, other = (Task(stage="train", settings={"architecture": "mlp", "seed": seed}) for seed in (1, 2))
    canary.write(storage), other.write(storage)
    Record(
        id=canary.id, stage="train", state="failed", cause=cause, message="why", started=0.0, ended=1.0, running_s=1.0,
        attempt=1,
    ).write(storage)  # fmt: skip
    monkeypatch.setenv("TANDA_CANARIES", canary.id)
    assert (circuit_breaker.hold(other, storage) is not None) is held
