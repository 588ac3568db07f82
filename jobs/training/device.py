"""What a run computes on and how: device, threads, determinism, precision, random state."""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch

from jobs import gpu_errors
from jobs.context import TaskFailedError, allotted_gpus
from jobs.task import Cause
from sharedfs.errors import InputError

# Parameters of glibc's mallopt (malloc.h). Blocks above the second size, such as a table of word vectors, are still
# mapped and unmapped one by one.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_FREED_BYTES, _MMAP_BYTES = 1 << 30, 1 << 26


class UnusableError(TaskFailedError, InputError):
    """The device or the precision that a run asks for can't be used here; raised before it begins."""


def choose(name: str) -> torch.device:
    """The device of a setting: auto, cpu or cuda.

    A process that was allotted a GPU never computes on the CPU unless that is asked for by name: nobody would notice
    that the GPU is idle for hours. Raises UnusableError: ``no GPU`` where the allotted one can't be used, ``GPU
    failure`` or ``GPU out of memory`` where it is broken, busy or full, an error for cuda where none was allotted.
    """
    allotted = allotted_gpus()
    if name == "cuda" and allotted == 0:
        message = "device: cuda is asked for, but this task was given no GPU; ask for gpus: 1, or device: auto"
        raise UnusableError("error", message)
    if name == "cpu" or allotted == 0 or (name == "auto" and allotted is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    problem = _gpu_problem()
    if problem is not None:
        cause, words = problem
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        asked = "device: cuda is asked for" if allotted is None else f"{allotted} given"
        raise UnusableError(cause, f"{words} ({asked}, CUDA_VISIBLE_DEVICES: {seen}); device: cpu computes without one")
    return torch.device("cuda")


def _gpu_problem() -> tuple[Cause, str] | None:
    """The cause why no GPU can be used, and the driver's own words for it; None where one can."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.zeros(1, device="cuda")  # a GPU that another process has exclusively passes init, and fails only here
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        # AssertionError: of a build without CUDA. Whatever else ends CUDA's start leaves no GPU to use, too.
        words = next(filter(None, str(error).splitlines()), type(error).__name__)
        return gpu_errors.cause_of(str(error)) or gpu_errors.NO_GPU, words
    return None


def prepare(device: torch.device, *, cpus: int, deterministic: bool, precision: str, tf32: bool) -> str:
    """Set this process up for a run; returns one line that describes the set-up.

    The peak of GPU memory counts from here: a process may continue another task after its own.
    """
    # Never more threads than the job has cores: two busy pools on shared cores were measured 20 times slower.
    torch.set_num_threads(cpus)
    if torch.get_num_interop_threads() != 1:
        # A task before this one in the same process may have used the pool: then it stays as it is.
        with suppress(RuntimeError):
            torch.set_num_interop_threads(1)
    if deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Means the same as use_deterministic_algorithms, which loads the whole compiler: 1.6 s.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    # Filling new memory with NaN finds bugs in kernels; it would cost one more write of every result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    description = f"{device.type}, {cpus} threads, {precision}, {'' if deterministic else 'not '}deterministic"
    if device.type != "cuda":
        _keep_freed_memory()
        return description
    # TF32 rounds the factors of matrix products to ten bits of mantissa and sums in float32: as good for these models,
    # and several times faster.
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = False
    torch.cuda.reset_peak_memory_stats(device)
    more = torch.cuda.device_count() - 1
    idle = f"; {more} more given and not used: a task computes on one GPU" if more > 0 else ""
    return f"{description}, TF32 {'on' if tf32 else 'off'} ({torch.cuda.get_device_name(device)}{idle})"


def _keep_freed_memory() -> None:
    """Have the C library keep what a step frees; returned to the kernel, it would cost page faults in every step."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt  # glibc's
        for parameter, size in ((_TRIM_THRESHOLD, _FREED_BYTES), (_MMAP_THRESHOLD, _MMAP_BYTES)):
            mallopt(parameter, size)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16 where the setting says so.

    Weights, their gradients, the optimiser and the loss stay float32; what follows a product computes in its type.
    """
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of every generator that dropout draws from; the order of titles has a generator of its own."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(device: torch.device, state: dict[str, torch.Tensor]) -> None:
    """Restore the generators; a run that moves from CPU to GPU keeps the GPU's present state."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
