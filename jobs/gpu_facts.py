"""What a process sees of its GPU: ``python -m jobs.gpu_facts`` prints it as one line of JSON, on a node with one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import asdict, dataclass
from typing import Any

import orjson

SMI = ("driver_version", "compute_mode", "mig.mode.current")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """``problem`` is why no GPU can be used, in the driver's own words; None where one can.

    ``cuda`` is the version that this torch is built for (None: without CUDA), ``architectures`` what it has kernels for
    (``sm_90``, or as PTX ``compute_90``), ``capability`` the GPU's own (``9.0``). ``driver``, ``compute_mode`` and
    ``mig`` are nvidia-smi's words, ``mps`` whether a daemon that shares the GPU can be started.
    """

    host: str
    visible: str | None = None
    torch: str = ""
    cuda: str | None = None
    cudnn: int | None = None
    architectures: tuple[str, ...] = ()
    problem: str | None = None
    name: str | None = None
    capability: str | None = None
    driver: str | None = None
    compute_mode: str | None = None
    mig: str | None = None
    mps: bool = False


def collect() -> GpuFacts:
    """The facts of this process; takes a few seconds, in which CUDA is begun."""
    import torch

    from jobs.training.device import UnusableError, choose

    usable: dict[str, Any]
    try:
        choose("cuda")
        major, minor = torch.cuda.get_device_capability()
        usable = {
            "name": torch.cuda.get_device_name(),
            "capability": f"{major}.{minor}",
            "architectures": tuple(torch.cuda.get_arch_list()),
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    except UnusableError as error:
        usable = {"problem": str(error)}
    return GpuFacts(
        host=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        mps=shutil.which("nvidia-cuda-mps-control") is not None,
        **_ask_smi(),
        **usable,
    )


def _ask_smi() -> dict[str, Any]:
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # none here, or no answer: what it would say is shown as unknown
        return {}
    first, *_ = done.stdout.splitlines() or [""]
    values = [value.strip() for value in first.split(",")]
    return dict(zip(("driver", "compute_mode", "mig"), values, strict=False)) if len(values) == len(SMI) else {}


if __name__ == "__main__":
    print(orjson.dumps(asdict(collect())).decode(), flush=True)
