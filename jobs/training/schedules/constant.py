"""Constant: the same step size from the first step to the last."""

from __future__ import annotations

from jobs.settings import settings
from jobs.training.schedules import ScheduleSettings

REVISION = 1


@settings
class Settings(ScheduleSettings):
    """None."""

    def factor(self, step: int, steps: int) -> float:  # noqa: ARG002 - it is the same at each
        return 1.0
