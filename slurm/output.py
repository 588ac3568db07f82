"""What Slurm's programs print, read by name: rows with their fields, and rows that cannot be read, never dropped."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from slurm.job_ids import base, expand

T = TypeVar("T")
SEPARATOR = "|"
# How a row begins: a job's id. What does not is no row of a job (a banner, the second line of a comment).
_ID = re.compile(r"\d+(_\d+|_\[[^\]|]*\]?)?([.+][^|]*)? *\|")
# Every state that a job can be shown in; a word that is none of these says nothing that we understand.
WAITING_STATES = frozenset(
    {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD"}
)
RUNNING_STATES = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
ENDED_STATES = frozenset(
    {"COMPLETED", "FAILED", "TIMEOUT", "DEADLINE", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "CANCELLED", "REVOKED",
     "PREEMPTED", "LAUNCH_FAILED", "RECONFIG_FAIL"}
)  # fmt: skip
STATES = WAITING_STATES | RUNNING_STATES | ENDED_STATES
_NO_TIME = ("", "0", "N/A", "NONE", "None", "Unknown")
_NOTHING = ("", "(null)", "N/A", "None")
CLOCK_GRACE_S = 60.0  # the clocks of two machines need not agree
NAMED_GRACE_S = 1800.0  # nor by how much, where the job's own comment says that it is ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What we know of a job that we submitted; None where it is not known, which proves nothing.

    ``time`` is when it was submitted, in seconds since the epoch by the submitter's clock, at the latest that which
    Slurm noted; ``uid`` the number of the user who did.
    """

    time: float | None = None
    name: str | None = None
    comment: str | None = None
    uid: int | None = None
    cluster: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What Slurm shows of whose a job is: empty, or None, where it shows nothing."""

    name: str = ""
    comment: str = ""
    uid: int | None = None
    cluster: str = ""
    submitted: float | None = None

    def difference(self, sent: Sent) -> str | None:
        """In what this is not the job that we sent, in words; None if nothing that is shown differs.

        A number of Slurm's is used again once its controller has lost its state, and by each cluster anew. The
        submit time only ever moves forward (a requeue does so), as far as two clocks agree: further where a comment
        names our submission. A site may add to a comment.
        """
        if sent.cluster and self.cluster and self.cluster.casefold() != sent.cluster.casefold():
            return f"a job of cluster {self.cluster}"
        if sent.uid is not None and self.uid is not None and self.uid != sent.uid:
            return f"a job of user {self.uid}"
        if sent.name and self.name and self.name != sent.name:
            return f"a job named {self.name!r}"
        named = sent.comment is not None and sent.comment in self.comment
        if sent.comment and self.comment and not named:
            return f"a job with the comment {self.comment!r}"
        grace_s = NAMED_GRACE_S if named else CLOCK_GRACE_S
        if sent.time is not None and self.submitted is not None and self.submitted < sent.time - grace_s:
            return "a job submitted before ours"
        return None


UNSHOWN = Shown()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A row that cannot be read: what is known of its job is that something was said of it."""

    program: str
    text: str

    @property
    def reason(self) -> str:
        return f"{self.program} printed what cannot be read: {self.text!r}"


def read_rows(
    program: str, text: str, fields: Sequence[str], parse: Callable[[dict[str, str]], T]
) -> Iterator[tuple[list[str], str, T | Unreadable]]:
    """Each row that a program printed: the jobs that it is about, the step (empty for a job's own), and what it says.

    ``parse`` makes something of its fields by name, and raises ValueError for what it cannot read; such a row is
    given as it was printed, as is one of another number of fields. Of a list of elements that was cut short the array
    alone is known. The last field may hold separators and line breaks. What is no row of a job is told once.
    """
    rows: list[str] = []
    for line in text.split("\n"):
        if _ID.match(line):
            rows.append(line)
        elif rows:
            rows[-1] += f"\n{line}"
        elif line.strip():
            warn_once(f"{program} printed a line that is no job's: {line!r}")
    for row in rows:
        *values, last = row.split(SEPARATOR, len(fields) - 1)
        values = [*(value.strip() for value in values), _last_field(last)]
        job, _, step = values[0].partition(".")
        try:
            yield expand(job), step, parse(dict(zip(fields, values, strict=True)))
        except ValueError:
            yield _known_jobs(job), step, Unreadable(program=program, text=SEPARATOR.join(values))


def _last_field(text: str) -> str:
    first, *more = text.split("\n")
    first = shown_text(first.strip().removesuffix(SEPARATOR))
    # A line after a row that ends without a comment is a notice of the site's, and proves nothing.
    return "\n".join([first, *more]).rstrip().removesuffix(SEPARATOR).rstrip() if first else ""


def _known_jobs(job: str) -> list[str]:
    try:
        return expand(job)
    except ValueError:
        return [base(job)]


def shown_text(text: str) -> str:
    """A text that Slurm shows, empty where it prints one of its words for none."""
    return "" if text.strip() in _NOTHING else text.strip()


def when(text: str) -> float | None:
    """Seconds since the epoch from a time that Slurm printed with SLURM_TIME_FORMAT=%s; None where there is none yet.

    Raises ValueError for anything else.
    """
    return None if text in _NO_TIME else float(text)


def exit_status(text: str) -> tuple[int, int]:
    """Exit code and signal from ``3:0``, as the accounting and the queue of 24.11 print them. Raises ValueError."""
    code, _, signal = text.partition(":")
    return int(code or 0), int(signal or 0)


@cache
def warn_once(message: str) -> None:
    """Say something loudly, once in the life of this process."""
    print(f"tanda: {message}", file=sys.stderr, flush=True)
