"""Step: the run in equal parts, the step size multiplied after each: with as many parts as epochs, after each epoch."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le

from jobs.settings import ORIGINAL, Doc, settings
from jobs.training.schedules import ScheduleSettings

REVISION = 1


@settings
class Settings(ScheduleSettings):
    """How often, and by how much."""

    parts: Annotated[int, Ge(1), Le(100_000), ORIGINAL, Doc("equal parts of all steps")] = 3
    multiplier: Annotated[float, Gt(0), Le(1), ORIGINAL, Doc("what the step size is multiplied by after each")] = 0.1

    def factor(self, step: int, steps: int) -> float:
        return float(self.multiplier ** (step * self.parts // steps))
