"""What a task's GPU did: a histogram of its utilisation, and sums; ``attempts/<n>/gpu.json``, and in the record.

``jobs.gpu_watch`` measures it. A task that shares a GPU with others has its share of the seconds and of the energy: at
each moment one part of as many as were alive, so that the sum over tasks is what the GPU did.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sharedfs.documents import read_as, write_json
from sharedfs.errors import DamagedFileError

NAME = "gpu.json"
STEP = 5  # percent, the width of a bin
BINS = 1 + 100 // STEP  # the first holds 0 % alone
J_PER_KWH = 3.6e6
Quartiles = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """``histogram`` has the seconds at 0 %, above that up to 5 %, up to 10 %, ..., up to 100 % utilisation.

    ``busy_s`` are GPU-seconds computed (utilisation x time), ``waiting_s`` the seconds in which the GPU had some work
    but waited while all cores of its task were busy, ``unknown_s`` those of which nothing is known. ``peak_mb`` is the
    most memory that the task held on the GPU; ``energy_j`` is None as soon as the board was not this job's alone.
    ``mean`` and ``quartiles`` of the utilisation are in percent, the latter to half a bin; None of nothing measured.
    """

    histogram: tuple[float, ...] = (0.0,) * BINS
    busy_s: float = 0.0
    waiting_s: float = 0.0
    unknown_s: float = 0.0
    peak_mb: float | None = None
    energy_j: float | None = None
    mean: float | None = field(init=False)
    quartiles: Quartiles | None = field(init=False)

    def __post_init__(self) -> None:
        if len(self.histogram) != BINS:
            raise ValueError(f"the histogram must have {BINS} bins")
        measured_s = self.measured_s
        # Derived, and stored for people who look into the file.
        object.__setattr__(self, "mean", 100 * self.busy_s / measured_s if measured_s else None)
        object.__setattr__(self, "quartiles", _quartiles(self.histogram) if measured_s else None)

    @property
    def measured_s(self) -> float:
        """Seconds of which the utilisation is known."""
        return math.fsum(self.histogram)

    @property
    def idle_s(self) -> float:
        """Seconds in which no kernel ran."""
        return self.histogram[0]

    @property
    def energy_kwh(self) -> float | None:
        return None if self.energy_j is None else self.energy_j / J_PER_KWH

    @property
    def peak_gb(self) -> float | None:
        return None if self.peak_mb is None else self.peak_mb / 1024


def bin_of(utilisation: int) -> int:
    """The bin of a utilisation in whole percent."""
    return -(-min(100, max(0, utilisation)) // STEP)


def total(uses: Iterable[GpuUse | None]) -> GpuUse | None:
    """The sum over attempts, tasks or rows; None of none that was looked at. Energy only where all of it is known."""
    known = [use for use in uses if use is not None]
    if not known:
        return None
    measured = [use for use in known if use.measured_s]
    energies = [use.energy_j for use in measured if use.energy_j is not None]
    return GpuUse(
        histogram=tuple(map(math.fsum, zip(*(use.histogram for use in known), strict=True))),
        busy_s=math.fsum(use.busy_s for use in known),
        waiting_s=math.fsum(use.waiting_s for use in known),
        unknown_s=math.fsum(use.unknown_s for use in known),
        peak_mb=max((use.peak_mb for use in known if use.peak_mb is not None), default=None),
        energy_j=math.fsum(energies) if measured and len(energies) == len(measured) else None,
    )


def _quartiles(histogram: tuple[float, ...]) -> Quartiles:
    """The utilisation below which a quarter, half and three quarters of the time lie, even within a bin."""
    found = []
    for share in (0.25, 0.5, 0.75):
        wanted, below = share * math.fsum(histogram), 0.0
        position = 0
        while position < BINS - 1 and below + histogram[position] < wanted:
            below += histogram[position]
            position += 1
        inside = (wanted - below) / histogram[position] if histogram[position] else 0.0
        found.append(STEP * (position - 1 + min(1.0, inside)) if position else 0.0)
    return found[0], found[1], found[2]


def words(use: GpuUse | None) -> str:
    """For people: ``GPU 62 % (45 to 80), 3.1 GB, 0.12 kWh``; empty where nothing was measured."""
    if use is None or use.mean is None or use.quartiles is None:
        return ""
    low, _, high = use.quartiles
    parts = [f"GPU {use.mean:.0f} % ({low:.0f} to {high:.0f})"]
    parts += [] if use.peak_gb is None else [f"{use.peak_gb:.1f} GB"]
    parts += [] if use.energy_kwh is None else [f"{use.energy_kwh:.3g} kWh"]
    return ", ".join(parts)


def figures(use: GpuUse | None) -> dict[str, float | None]:
    """The figures of tables and documents, by name: percent, GiB and kWh; all None where nothing is known."""
    quartiles: tuple[float | None, ...] = (use and use.quartiles) or (None, None, None)
    return {
        "gpu_use": None if use is None else use.mean,
        **dict(zip(("gpu_use_q1", "gpu_use_median", "gpu_use_q3"), quartiles, strict=True)),
        "gpu_peak_gb": None if use is None else use.peak_gb,
        "gpu_energy_kwh": None if use is None else use.energy_kwh,
    }


FIGURES = tuple(figures(None))


def write(attempt: Path, use: GpuUse) -> None:
    """Replace gpu.json in an attempt's folder."""
    write_json(attempt / NAME, asdict(use))


def read(attempt: Path | str) -> GpuUse | None:
    """What was measured of an attempt; None where nothing can be read of it: nothing is decided by it."""
    try:
        return read_as(GpuUse, f"{attempt}/{NAME}", "what a GPU did")
    except (FileNotFoundError, DamagedFileError):
        return None
