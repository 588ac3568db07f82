"""One cycle: up and down once, each half a cosine: Smith and Topin, *Super-Convergence*, 2018; torch's OneCycleLR."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Gt, Le

from jobs.settings import ORIGINAL, Doc, settings
from jobs.training.schedules import ScheduleSettings

REVISION = 1


@settings
class Settings(ScheduleSettings):
    """Where the cycle begins, turns and ends."""

    rise: Annotated[float, Gt(0), Le(0.9), ORIGINAL, Doc("share of all steps that the step size rises")] = 0.3
    start: Annotated[float, Gt(0), Le(1), ORIGINAL, Doc("share of learning_rate at the first step")] = 0.04
    final: Annotated[float, Ge(0), Le(1), ORIGINAL, Doc("share of learning_rate at the last step")] = 4e-6

    def factor(self, step: int, steps: int) -> float:
        top = max(0.0, self.rise * steps - 1)
        if step <= top:
            return _between(self.start, 1.0, step / top if top else 1.0)
        return _between(1.0, self.final, (step - top) / max(1.0, steps - 1 - top))


def _between(begin: float, end: float, share: float) -> float:
    """Half a cosine from one value to another."""
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
