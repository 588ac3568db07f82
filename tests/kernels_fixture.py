"""The same kernels on every processor and sums in one order, so that figures can be compared between machines.

They hold only where they are in the environment before torch is imported.
"""

from __future__ import annotations

KERNELS = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TANDA_CPUS": "1",
}
