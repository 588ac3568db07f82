"""What a run is resumed from: exactly what its checkpoint holds, no more and no less."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from torch import Tensor

from jobs.metrics_log import EpochMetrics
from jobs.training.optimiser import OptimiserState
from sharedfs.typed_json import Json


@dataclass(slots=True, kw_only=True)
class TrainState:
    """A run in progress. The names are the format on disk: one that is renamed makes old checkpoints useless.

    ``epoch`` counts completed epochs, validation included, ``step`` the completed steps of the current one, ``tally``
    are its sums so far, ``spent_s`` its seconds in earlier attempts; ``journal`` are the lines of the metrics log. The
    order of titles is a function of seed, epoch and step. Tensors are up to date where a checkpoint is written.
    """

    identity: str
    epoch: int = 0
    step: int = 0
    journal: list[EpochMetrics] = field(default_factory=list)
    spent_s: float = 0.0
    best_epoch: int = 0
    best: dict[str, Tensor] | None = None
    model: dict[str, Tensor] = field(default_factory=dict)
    optimiser: OptimiserState = field(default_factory=lambda: OptimiserState(parts=[]))
    tally: dict[str, Tensor] = field(default_factory=dict)
    random: dict[str, Tensor] = field(default_factory=dict)
    save_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class EndState:
    """A run that has only its record to write: its figures, and the size of its model.pt."""

    identity: str
    journal: list[EpochMetrics]
    figures: dict[str, Json]
    model_bytes: int
    finished: Literal[True] = True


def document(state: TrainState | EndState) -> dict[str, Any]:
    """A state as a checkpoint has it."""
    return {each.name: getattr(state, each.name) for each in fields(state)}


def read(stored: Mapping[str, Any] | None, log: Callable[[str], None]) -> TrainState | EndState | None:
    """The state of a checkpoint; None, and logged, where it lacks something."""
    if stored is None:
        return None
    kind: type[TrainState | EndState] = EndState if "finished" in stored else TrainState
    names = [each.name for each in fields(kind)]
    missing = [name for name in names if name not in stored]
    if missing:
        log(f"the checkpoint lacks {', '.join(missing)} and is passed over")
        return None
    return kind(**{name: stored[name] for name in names})
