"""Schedules of the step size, each one file here, found by its name; read without torch.

A file holds ``REVISION`` and ``Settings``, a class of the schedule's settings that inherits ``ScheduleSettings``.
"""

from __future__ import annotations

from jobs.settings import settings
from sharedfs.errors import InputError


@settings
class ScheduleSettings:
    """What every schedule is: a function of the step, so that a resumed run goes on with the same step sizes."""

    def factor(self, step: int, steps: int) -> float:
        """The share of the run's learning_rate, 0 to 1, at a step from 0 of a run of so many (all epochs together)."""
        raise NotImplementedError


def rates(schedule: ScheduleSettings, learning_rate: float, steps: int) -> float | list[float]:
    """The step size of every step of a run, or one float where it stays the same; raises InputError."""
    factors = [schedule.factor(step, steps) for step in range(steps)]
    for step, factor in enumerate(factors):
        if not 0 <= factor <= 1:
            raise InputError(f"{type(schedule).__module__}: a factor of {factor!r} at step {step} of {steps}: 0 to 1")
    return learning_rate if all(factor == 1 for factor in factors) else [learning_rate * each for each in factors]


__all__ = ["ScheduleSettings", "rates"]
