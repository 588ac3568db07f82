"""What can go wrong with a scheduler: one line at the edge."""

from __future__ import annotations

from sharedfs.errors import TandaError


class SchedulerError(TandaError, RuntimeError):
    """The root: the scheduler is not there, did not answer, or refused; the text is its own where there is one."""


class UnknownExecutorError(SchedulerError, ValueError):
    """There is no executor of that name."""


class SubmitError(SchedulerError):
    """Nothing of an array was queued: permanently refused; the text is the scheduler's."""


class NotNowError(SubmitError):
    """Nothing of an array was queued, and the same may be taken later: a limit is reached, or nobody answered."""


class SlurmError(SchedulerError):
    """A Slurm program failed; the text is what it printed."""


class UnreachableError(SlurmError):
    """The controller or the accounting did not answer: what was asked about is unknown, not gone."""


class DeniedError(SlurmError):
    """This user may not ask or do that."""


class UnusableError(SlurmError):
    """The program cannot work on this machine: it is not installed, or lacks a plugin or a field that it needs."""


class NoAccountingError(SlurmError):
    """This site keeps no accounting."""


class AccountingRefusedError(NoAccountingError):
    """This site keeps accounting, and this user has none of it: asking again changes nothing."""


class UnknownJobError(SlurmError):
    """The job is over, or the controller has forgotten it or never knew it."""


# What the programs of 22.05 and 24.11 say, in lower case: the first kind of which a text is in a message counts.
# What lasts comes before what passes: a program that may not ask says also that it got no answer. Only munge that is
# down comes before a refusal: it is told in the words of one.
_KINDS: tuple[tuple[type[SlurmError], tuple[str, ...]], ...] = (
    (
        NoAccountingError,
        ("storage is disabled", "accounting_storage/none", "not running a supported accounting_storage plugin"),
    ),
    (
        UnusableError,
        (
            "find the specified plugin name",
            "load specified plugin name",
            "cannot find accounting_storage plugin",
            "cannot create accounting_storage context",
            "failed to initialize accounting_storage plugin",
            "plugin_load_from_file",
            "invalid field requested",
            "error while loading shared libraries",
        ),
    ),
    (UnreachableError, ("munge", "protocol authentication error")),
    (
        DeniedError,
        ("permission denied", "access denied", "operation not permitted", "not allowed", "disabled by"),
    ),
    (
        UnreachableError,
        (
            "unable to contact slurm controller",
            "unable to connect to",
            "connection refused",
            "connection reset",
            "socket timed out",
            "connection timed out",
            "operation timed out",
            "resource temporarily unavailable",
            "no route to host",
            "problem talking to the database",
            "communication connection failure",
            "zero bytes were transmitted",
            "sending persist",  # SendingPersistConnInit msg in 22.05, Sending PersistInit msg in 24.11
            "persistent connection",
            "header lengths are longer than data received",
            "standby mode",
        ),
    ),
)  # fmt: skip
_UNKNOWN_JOB = ("invalid job id", "already finished", "already completing or completed")
# What scontrol says of an array's elements that did as it was asked, beside one that did not: "6_1-2: No error".
_DONE = ": no error"


def one_line(output: str) -> str:
    """What a Slurm program printed on an error, its lines joined by ``; ``."""
    return "; ".join(line.strip() for line in output.splitlines() if line.strip())


def classify_error(message: str) -> SlurmError:
    """The error that a message of a Slurm program stands for, in one line.

    Of several lines, one for each job, those about jobs that are over count only where there are no others.
    """
    lines = one_line(message).split("; ")
    others = [line for line in lines if not any(part in line.lower() for part in (*_UNKNOWN_JOB, _DONE))]
    if not others:
        return UnknownJobError("; ".join(lines))
    text = "; ".join(others).lower()
    kind = next((kind for kind, parts in _KINDS if any(part in text for part in parts)), SlurmError)
    return kind("; ".join(lines))


def is_unanswered(message: str) -> bool:
    """Whether a refusal is none: the controller did not answer, and may have done all the same what it was asked."""
    return isinstance(classify_error(message), UnreachableError)
