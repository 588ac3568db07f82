"""Warm-up and cosine: a straight rise, then half a cosine down (Loshchilov and Hutter, *SGDR*, 2017, no restarts)."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Le

from jobs.settings import ORIGINAL, Doc, settings
from jobs.training.schedules import ScheduleSettings

REVISION = 1


@settings
class Settings(ScheduleSettings):
    """Where the rise ends, and the fall."""

    warmup: Annotated[float, Ge(0), Le(0.9), ORIGINAL, Doc("share of all steps that the step size rises")] = 0.1
    final: Annotated[float, Ge(0), Le(1), ORIGINAL, Doc("share of learning_rate at the last step")] = 0.0

    def factor(self, step: int, steps: int) -> float:
        rising = round(self.warmup * steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        fallen = (step - rising) / max(1, steps - 1 - rising)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * fallen)) / 2
