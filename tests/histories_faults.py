"""Faults planted in the product by name: what the histories must find, each a change of one thing that it relies on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from history_world import World

from jobs import circuit_breaker, entry
from jobs.attempt import Attempt
from jobs.storage import Storage
from pipeline import close, status, submission, submit
from sharedfs.files import write_whole
from sharedfs.lock import Lock
from slurm import query
from slurm.commands import call
from slurm.executors import slurm
from slurm.executors.slurm import SlurmArrays
from slurm.job_state import FAILED, UNKNOWN, JobIdentity, JobState
from slurm.query import Answer

Change = tuple[Any, str, Any]


def _unknown_is_failed() -> list[Change]:
    ask = query.states

    def states(ids: Any, **more: Any) -> Mapping[str, JobState]:
        found = ask(ids, **more)
        return {
            id_: replace(state, state=FAILED, cause="node failure") if state.state == UNKNOWN else state
            for id_, state in found.items()
        }

    return [(slurm, "states", states)]


def _no_lock() -> list[Change]:
    @contextmanager
    def hold(folder: Path, **_: Any) -> Iterator[Lock]:
        yield Lock(folder.parent.parent)  # there, so that it is never lost

    return [(submission, "hold", hold)]


def _record_first() -> list[Change]:
    end = entry._end

    def finish(self: World, context: Any) -> tuple[Path, ...]:
        context.attempt.check()
        return (context.folder / "model.pt",)

    def written_at_last(context: Any, **facts: Any) -> None:
        if facts["state"] == "done" and context.task.stage in ("train", "trial"):
            write_whole(context.folder / "model.pt", context.task.id.encode())
        end(context, **facts)

    def sizes(self: Storage, files: Any) -> dict[str, int]:
        return {str(path.relative_to(self.root)): path.stat().st_size if path.exists() else 16 for path in files}

    return [(World, "_finish", finish), (entry, "_end", written_at_last), (Storage, "sizes", sizes)]


def _counted_twice() -> list[Change]:
    count = close.queue_history
    return [(close, "queue_history", lambda *given: {task: [*every, *every] for task, every in count(*given).items()})]


def _unreadable_rows_dropped() -> list[Change]:
    parse = query.parse_queue
    return [(query, "parse_queue", lambda text: Answer(rows=parse(text).rows))]


def _outage_is_gone() -> list[Change]:
    merge = query.merge_sources
    return [(query, "merge_sources", lambda id_, queue, history, outage=None: merge(id_, queue, history))]


def _closing_not_requeued() -> list[Change]:
    build = slurm.build_script

    def script(array: Any, *given: Any, **more: Any) -> str:
        text = build(array, *given, **more)
        return re.sub(r"#SBATCH --requeue\n", "", text) if array.name.endswith("-close") else text

    return [(slurm, "build_script", script)]


def _released_by_name() -> list[Change]:
    def release(self: SlurmArrays, ids: Any) -> None:
        columns = ",".join(f"{name}:{width}|" for name, width in query.SQUEUE_FIELDS.values())
        shown = query.parse_queue(call(["squeue", "-h", "-r", "-t", "all", "-O", columns]))
        held = [id_ for id_, rows in shown.rows.items() if "eld" in (rows[-1].reason or "")]
        self._each(["scontrol", "release"], [*ids, *held], comma_separated=True)

    return [(SlurmArrays, "release", release)]


def _compared_without(*names: str) -> list[Change]:
    compare = JobIdentity.difference

    def difference(self: JobIdentity, sent: JobIdentity) -> str | None:
        return compare(self, replace(sent, **dict.fromkeys(names)))  # type: ignore[arg-type]

    return [(JobIdentity, "difference", difference)]


def _retried_as_named() -> list[Change]:
    decide = submit.to_submit

    def to_submit(tasks: Any, states: Any, only: Any = None) -> Any:
        return decide(tasks, states) if only is None else tuple(task for task in tasks if task.id in only)

    return [(submit, "to_submit", to_submit)]


FAULTS: dict[str, Callable[[], list[Change]]] = {
    "unknown read as failed": _unknown_is_failed,
    "lock dropped": _no_lock,
    "number reused, nothing compared": lambda: [(JobIdentity, "difference", lambda self, sent: None)],
    "record written before its files": _record_first,
    "retry counted twice": _counted_twice,
    "queue row dropped when unreadable": _unreadable_rows_dropped,
    "accounting's outage read as gone": _outage_is_gone,
    "fence dropped": lambda: [(Attempt, "check", lambda self: None)],
    "closing job not requeued": _closing_not_requeued,
    "held note ignored": lambda: [(status, "held_reason", lambda folder: None)],
    "circuit breaker off": lambda: [(circuit_breaker, "hold", lambda task, storage: None)],
    "others' jobs released": _released_by_name,
    "comment not compared": lambda: _compared_without("comment"),
    "live attempt not waited for": lambda: [(entry, "live", lambda folder, clock: False)],
    "lost answer of sbatch believed": lambda: [
        (slurm, "_find_job", lambda script, cluster, wrong: None),
        (submit, "is_unanswered", lambda failure: False),
    ],
    "retried although queued meanwhile": _retried_as_named,
    "lock not looked at again": lambda: [(Lock, "check", lambda self: None)],
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """For the block, the product has that fault; None: none."""
    with ExitStack() as stack:
        for owner, attribute, value in FAULTS[name]() if name else ():
            stack.enter_context(patch.object(owner, attribute, value))
        yield
