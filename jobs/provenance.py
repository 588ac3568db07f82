"""Where and with what a task runs: node, versions, threads, GPU. It decides nothing; tables say where rows differ."""

from __future__ import annotations

import os
import platform
import resource
import socket
import sys
import time
from contextlib import suppress

from jobs.context import allotted_cpus, visible_gpus
from jobs.task import Provenance

_SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURMD_NODENAME")
COMPARED = {
    "torch": "torch", "cuda": "CUDA", "cudnn": "cuDNN", "numpy": "NumPy", "transformers": "transformers", "gpu": "GPU",
    "cpus": "threads",
}  # fmt: skip
"""What may change the last bits of a result, with its name for people: sums of floats depend on their order."""
NO_GPU = "none"
_BEGAN = time.monotonic()  # a process loads this at its start


def compared(about: Provenance) -> dict[str, str]:
    """What is known of ``COMPARED``, by its name for people; who had torch and no GPU computed without one."""
    facts = {name: getattr(about, name) for name in COMPARED}
    if about.torch is not None and about.gpu is None:
        facts["gpu"] = NO_GPU
    return {COMPARED[name]: str(value) for name, value in facts.items() if value is not None}


def provenance() -> Provenance:
    """Of this process, now; nothing is imported for it. ``peak_mb`` is left out: only a task's end knows it."""
    numpy, torch, transformers = map(sys.modules.get, ("numpy", "torch", "transformers"))
    on_gpu = torch is not None and torch.cuda.is_initialized()
    return Provenance(
        host=socket.gethostname(),
        python=platform.python_version(),
        cpus=allotted_cpus(),
        git_commit=os.environ.get("TANDA_COMMIT"),
        gpus=len(visible_gpus()),
        slurm={name.removeprefix("SLURM_").lower(): os.environ[name] for name in _SLURM if name in os.environ},
        torch=None if torch is None else str(torch.__version__),
        cuda=torch.version.cuda if torch and on_gpu else None,
        cudnn=torch.backends.cudnn.version() if torch and on_gpu else None,
        numpy=None if numpy is None else str(numpy.__version__),
        transformers=None if transformers is None else str(transformers.__version__),
        gpu=_gpu_name() if on_gpu else None,
    )


def _gpu_name() -> str | None:
    import torch

    with suppress(RuntimeError):  # of a GPU that died: why is recorded with this
        return str(torch.cuda.get_device_name())
    return None


def cores_used() -> float:
    """How many cores this process used so far, on average."""
    return round(min(time.process_time() / max(time.monotonic() - _BEGAN, 0.01), allotted_cpus()), 2)


def peak_mb() -> float:
    """The most memory that this process had so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
