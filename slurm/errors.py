"""What can go wrong with a scheduler: one line at the edge."""

from __future__ import annotations

from sharedfs.errors import TandaError


class SchedulerError(TandaError, RuntimeError):
    """The root: the scheduler is not there, did not answer, or refused; the text is its own where there is one."""


class UnknownExecutorError(SchedulerError, ValueError):
    """There is no executor of that name."""


class SubmitError(SchedulerError):
    """Nothing of an array was queued: permanently refused; the text is the scheduler's."""


class SlurmError(SchedulerError):
    """A Slurm program failed; the text is what it printed."""


class UnreachableError(SlurmError):
    """The controller or the accounting did not answer: what was asked about is unknown, not gone."""


class NoAccountingError(SlurmError):
    """This site keeps no accounting."""


class UnknownJobError(SlurmError):
    """The job is over, or the controller has forgotten it or never knew it."""


_UNREACHABLE = (
    "unable to contact slurm controller",
    "unable to connect to",
    "connection refused",
    "socket timed out",
    "problem talking to the database",
    "communication connection failure",
    "connection timed out",
    "zero bytes were transmitted",
    "sending persistconninit",
)


def one_line(output: str) -> str:
    """What a Slurm program printed on an error, its lines joined by ``; ``."""
    return "; ".join(line.strip() for line in output.splitlines() if line.strip())


def classify_error(message: str) -> SlurmError:
    """The error that a message of a Slurm program stands for, in one line."""
    message = one_line(message)
    text = message.lower()
    if "storage is disabled" in text or "accounting_storage/none" in text:
        return NoAccountingError(message)
    if any(part in text for part in ("invalid job id", "already finished", "already completing or completed")):
        return UnknownJobError(message)
    return (UnreachableError if is_unanswered(message) else SlurmError)(message)


def is_unanswered(message: str) -> bool:
    """Whether a program failed because no answer came: what it asked for may have been done."""
    text = message.lower()
    return any(part in text for part in _UNREACHABLE)
