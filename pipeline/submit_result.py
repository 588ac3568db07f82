"""What came of a submission: as a value, one document, and lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console

from pipeline.decisions.closing import CLOSE
from pipeline.rerun import Rerun
from pipeline.submission import Submission
from sharedfs.typed_json import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitResult:
    """What was submitted: the arrays queued, how many tasks needed nothing, what could not be queued and why.

    ``held`` may be queued later, ``refused`` is refused for good until something is changed. ``unknown`` are tasks that
    were left alone, as the executor does not say where they stand, and what it does say. ``rerun`` says which tasks are
    made again although they were done, and which were left out of that.
    """

    submission: Submission | None
    already_done: int
    already_queued: int
    held: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    rerun: Rerun = field(default_factory=Rerun)
    released: int = 0  # elements that the scheduler held after a start that failed, now released

    @property
    def exit_status(self) -> int:
        return 2 if self.refused else int(bool(self.held or self.unknown))

    def document(self) -> Mapping[str, Json]:
        """As one JSON document, for ``submit --json``."""
        arrays = self.submission.arrays if self.submission else ()
        return {
            "submission": self.submission.name if self.submission else None,
            "arrays": [
                {
                    "stage": array.stage,
                    "group": array.group,
                    "job_id": ",".join(array.job_ids),
                    "tasks": sum(map(len, array.elements.values())),
                }
                for array in arrays
            ],
            "already_done": self.already_done,
            "already_queued": self.already_queued,
            "not_queued": {**self.held, **self.refused},
            "unknown": dict(self.unknown),
            "remade": sorted(self.rerun.remade),
            "left_out": sorted(self.rerun.left_out),
        }


def print_submitted(result: SubmitResult, console: Console) -> None:
    """For people: what is made again and what is left out of it, job ids, what could not be queued and why."""
    if result.released:
        console.print(f"{result.released} held since a start failed on their node: released")
    if result.rerun.remade:
        console.print(f"{len(result.rerun.remade)} made again, the former results are kept")
    if result.rerun.left_out:
        console.print(f"{len(result.rerun.left_out)} trials stay as they are: they were compared with each other")
    if result.submission is None:
        console.print(f"nothing to submit: {result.already_done} done, {result.already_queued} queued or running")
    else:
        for array in result.submission.arrays:
            tasks = sum(map(len, array.elements.values()))
            content = "retries and report" if array.stage == CLOSE else f"{tasks} task{'s' * (tasks != 1)}"
            job_ids = ",".join(array.job_ids) or "not queued"
            console.print(f"{job_ids:<12} {array.stage:<10} {array.group:<16} {content}")
        if result.already_done or result.already_queued:
            console.print(f"{result.already_done} done already, {result.already_queued} queued already")
    for reason, count in Counter(result.held.values()).items():
        line = f"{count} not queued: {reason}; submit again later to queue the rest"
        console.print(line, style="yellow", soft_wrap=True)
    for reason, count in Counter(result.unknown.values()).items():
        line = f"{count} left alone, as their state is unknown: {reason}; submit again once it is known"
        console.print(line, style="yellow", soft_wrap=True)
    _print_refused(result, console)


def _print_refused(result: SubmitResult, console: Console) -> None:
    arrays = result.submission.arrays if result.submission else ()
    stay = f"; {', '.join(job for array in arrays for job in array.job_ids)} stay queued"
    tasks = {task: reason for task, reason in result.refused.items() if task != CLOSE}
    for reason, count in Counter(tasks.values()).items():
        line = f"{count} refused: {reason}{stay}; once that is mended, submit again to queue the rest"
        console.print(line, style="red", soft_wrap=True)
    if CLOSE in result.refused:
        line = (
            f"no closing job: {result.refused[CLOSE]}{stay}, but nothing is retried, and `tanda report` is yours to run"
        )
        console.print(line, style="red", soft_wrap=True)
