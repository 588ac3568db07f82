"""What a training run leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Line = dict[str, Any]
Decide = Callable[[Sequence[Mapping[str, Any]]], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run leaves: its files, one journal line an epoch, and its figures for the record."""

    files: tuple[Path, ...]
    lines: tuple[Line, ...]
    figures: Mapping[str, Any]

    @property
    def stopped(self) -> str | None:
        """Why it ended before its last epoch, or None."""
        stopped: str | None = self.figures["stopped"]
        return stopped
