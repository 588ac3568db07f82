"""NVML, the library in NVIDIA's driver that measures GPUs: the one module that imports pynvml.

What it is called with and gives back: the NVML API reference, "Device Queries". Names of functions are the library's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

MB = 1 << 20


class UnmeasuredError(Exception):
    """A GPU cannot be measured; the message says why, in NVML's own words where it has some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A GPU at one moment.

    ``utilisation`` is the share of NVML's last sampling period in which a kernel ran, in percent. ``memory_mb`` is what
    each process that computes on it holds, by its pid; None where NVML does not say which these are. ``energy_mj`` is
    what the board has used since its driver was loaded, None where it does not count that.
    """

    utilisation: int
    memory_mb: Mapping[int, float | None] | None
    energy_mj: int | None


class Nvml:
    """The GPUs that this process may measure; ``library`` stands in for pynvml in tests."""

    def __init__(self, library: Any = None) -> None:
        """Raises UnmeasuredError where there is no driver, or it may not be asked."""
        if library is None:
            try:
                import pynvml as library  # type: ignore[import-untyped, no-redef]
            except ImportError as error:
                raise UnmeasuredError(f"{error}: install nvidia-ml-py") from error
        self._library = library
        with self._told():
            library.nvmlInit()
            self.count = int(library.nvmlDeviceGetCount())

    def find(self, name: str) -> Any:
        """The GPU that CUDA_VISIBLE_DEVICES calls so, by number or UUID; raises UnmeasuredError, of a MIG slice too."""
        if name.startswith("MIG-"):
            raise UnmeasuredError(f"{name} is a MIG slice, of which NVML has no utilisation")
        library = self._library
        with self._told():
            if name.startswith("GPU-"):
                handle = library.nvmlDeviceGetHandleByUUID(name)
            else:
                # Where a job sees its own GPUs alone, they are counted from 0, whatever the node calls them.
                handle = library.nvmlDeviceGetHandleByIndex(0 if self.count == 1 else int(name))
        with suppress(library.NVMLError):  # a GPU that knows no MIG says so by an error
            if library.nvmlDeviceGetMigMode(handle)[0]:
                raise UnmeasuredError("the GPU is divided by MIG, and NVML has no utilisation of a slice")
        return handle

    def look(self, handle: Any) -> Look:
        """The GPU now; raises UnmeasuredError."""
        library = self._library
        memory: dict[int, float | None] | None = None
        energy: int | None = None
        with self._told():
            utilisation = int(library.nvmlDeviceGetUtilizationRates(handle).gpu)
        with suppress(library.NVMLError):  # not every board and user may ask: then it is None, which is unknown
            memory = {
                int(process.pid): None if process.usedGpuMemory is None else process.usedGpuMemory / MB
                for process in library.nvmlDeviceGetComputeRunningProcesses(handle)
            }
            with suppress(library.NVMLError):  # a driver that cannot list the clients of MPS apart
                for process in library.nvmlDeviceGetMPSComputeRunningProcesses(handle):
                    held = process.usedGpuMemory
                    memory[int(process.pid)] = None if held is None else held / MB
        with suppress(library.NVMLError):  # as before: boards before Volta do not count it
            energy = int(library.nvmlDeviceGetTotalEnergyConsumption(handle))
        return Look(utilisation=utilisation, memory_mb=memory, energy_mj=energy)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._library.NVMLError as error:
            raise UnmeasuredError(f"NVML: {error}") from error
