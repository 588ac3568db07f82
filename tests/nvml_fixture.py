"""A stand-in for pynvml: the calls that ``jobs.nvml`` makes, answered for GPUs that are not there.

``pynvml_folder`` makes a folder whose pynvml has one such GPU, for processes that a test starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace


class NVMLError(Exception):
    """NVML's error, with its words."""


@dataclass(slots=True)
class Board:
    """A GPU: its utilisation at each look in turn, what processes hold on it by pid, what it uses in a look."""

    utilisation: Iterator[int] = field(default_factory=lambda: cycle([50]))
    memory: dict[int, int | None] = field(default_factory=dict)
    energy_mj: int = 1000
    mj_a_look: int = 2000
    uuid: str = "GPU-1"
    mig: bool | None = None  # None: it knows no MIG
    clients: dict[int, int | None] = field(default_factory=dict)  # of MPS, and what they hold


class FakeNvml:
    """``errors`` are the words with which a call fails, by its name."""

    NVMLError = NVMLError

    def __init__(self, *boards: Board, errors: dict[str, str] | None = None) -> None:
        self.boards, self.errors = boards, errors or {}

    def _fail(self, name: str) -> None:
        if name in self.errors:
            raise NVMLError(self.errors[name])

    def nvmlInit(self) -> None:  # noqa: N802
        self._fail("nvmlInit")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Board:  # noqa: N802
        if index >= len(self.boards):
            raise NVMLError("Invalid Argument")
        return self.boards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Board:  # noqa: N802
        for board in self.boards:
            if board.uuid == uuid:
                return board
        raise NVMLError("Not Found")

    def nvmlDeviceGetMigMode(self, board: Board) -> list[int]:  # noqa: N802
        if board.mig is None:
            raise NVMLError("Not Supported")
        return [int(board.mig), int(board.mig)]

    def nvmlDeviceGetUtilizationRates(self, board: Board) -> SimpleNamespace:  # noqa: N802
        self._fail("nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=next(board.utilisation), memory=0)

    def nvmlDeviceGetComputeRunningProcesses(self, board: Board) -> list[SimpleNamespace]:  # noqa: N802
        self._fail("nvmlDeviceGetComputeRunningProcesses")
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in board.memory.items()]

    def nvmlDeviceGetMPSComputeRunningProcesses(self, board: Board) -> list[SimpleNamespace]:  # noqa: N802
        self._fail("nvmlDeviceGetMPSComputeRunningProcesses")
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in board.clients.items()]

    def nvmlDeviceGetTotalEnergyConsumption(self, board: Board) -> int:  # noqa: N802
        self._fail("nvmlDeviceGetTotalEnergyConsumption")
        board.energy_mj += board.mj_a_look
        return board.energy_mj


def pynvml_folder(folder: Path, setup: str) -> Path:
    """A folder for PYTHONPATH with a pynvml of its own: ``setup`` is the expression of a ``FakeNvml``."""
    home = folder / "nvml"
    home.mkdir()
    lines = [
        "import sys",
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
        "from itertools import cycle",
        "from nvml_fixture import Board, FakeNvml, NVMLError",
        f"fake = {setup}",
        "globals().update({name: getattr(fake, name) for name in dir(fake) if name.startswith('nvml')})",
    ]
    with suppress(FileExistsError):
        (home / "pynvml.py").write_text("\n".join(lines) + "\n")
    return home
