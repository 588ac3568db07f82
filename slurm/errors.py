"""What a scheduler refuses: one line at the edge, as ``jobs.errors.TandaError`` is."""

from __future__ import annotations


class SchedulerError(RuntimeError):
    """The root: the scheduler is not there, did not answer, or refused; the text is its own where there is one."""


class UnknownExecutorError(SchedulerError, ValueError):
    """There is no executor of that name."""
