"""Where every task stands: storage first, then the executor, then the exit code; unknown is never failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.attempt import STALE_S, history
from jobs.record import Record, read_record
from jobs.search.trial import continuation
from jobs.storage import Storage, read_json
from pipeline.done import merged
from pipeline.plan import Plan, Planned
from pipeline.queue import Said, ask
from pipeline.searches import search_lines, searches_document
from pipeline.states import STATES, TaskState
from slurm.states import JobState

SUMMARY_ORDER = ("done", "running", "waiting", "unknown", "failed", "lost")
MOST_ROWS = 200  # for people: nobody reads ten thousand lines
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "lost": "red", "unknown": "yellow", "waiting": "dim"}


def task_states(plan: Plan) -> dict[str, TaskState]:
    """The state of every task of a plan, by id; at most two Slurm commands, none where all is done."""
    storage = Storage(plan.manifest.storage)
    records = {planned.id: _record(storage, planned.id) for planned in plan.tasks}
    # Of a search's trials: one that is being continued has the record of before.
    continued = {
        planned.id: how
        for planned in plan.tasks
        if isinstance(record := records[planned.id], Record) and (how := continuation(storage.run(planned.id), record))
    }
    done = {task_id for task_id, record in records.items() if _is_done(storage, record)} - continued.keys()
    shards = merged(plan, done) - done
    said = ask(storage, records.keys() - done - shards)
    states = {}
    for planned in plan.tasks:
        record = records[planned.id]
        if planned.id in done and isinstance(record, Record):
            states[planned.id] = _done(planned, record)
            continue
        if planned.id in shards:
            states[planned.id] = TaskState(id=planned.id, state="done", message="its data set is whole")
            continue
        # A task never queued and never run has no folder worth a look.
        known = record is not None or planned.id in said
        seen = _Seen(
            planned=planned,
            folder=storage.run(planned.id),
            record=record,
            said=said.get(planned.id),
            attempts=history(storage.run(planned.id)) if known else [],
            continued=continued.get(planned.id),
        )
        states[planned.id] = _upstream(planned, seen.state(), states)
    return states


def _upstream(planned: Planned, state: TaskState, states: Mapping[str, TaskState]) -> TaskState:
    """A task that Slurm cancelled because what it waits for failed has that cause, not a person's cancellation."""
    failed = [need for need in planned.task.needs if need in states and states[need].state in ("failed", "lost")]
    if state.cause != "cancelled" or not failed:
        return state
    return replace(state, cause="upstream failed", message=f"needs {', '.join(failed)}, which failed")


def _record(storage: Storage, task_id: str) -> Record | ValueError | None:
    try:
        return read_record(storage.run(task_id))
    except ValueError as error:
        return error


def _is_done(storage: Storage, record: Record | ValueError | None) -> bool:
    return isinstance(record, Record) and record.state == "done" and record.whole(storage)


def _done(planned: Planned, record: Record) -> TaskState:
    """A finished task, from its record alone: of thousands, nothing else has to be opened."""
    peak_mb = record.about.get("peak_mb")
    return TaskState(
        id=planned.id,
        state="done",
        attempts=record.attempt,
        gpu_hours=record.running_s * int(record.about.get("gpus", 0)) / 3600 / planned.resources.pack,
        peak_mem_gb=round(peak_mb / 1024, 3) if peak_mb else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the three sources say of one task: its record, the executor, and how its process ended.

    ``continued`` is how the attempt stands that trains a stopped trial on, mostly in another task's process.
    """

    planned: Planned
    folder: Path
    record: Record | ValueError | None
    said: Said | None
    attempts: list[dict[str, Any]]
    continued: str | None = None

    def state(self) -> TaskState:
        if self.said is not None and self.said.live:
            return self._live(self.said)
        if self.continued == "running":
            return self._is("running", progress=_json(self.folder / "progress.json"))
        if self.continued is not None:
            return self._is("lost", message="stopped by its search, then continued; that was cut short")
        if isinstance(self.record, ValueError):
            return self._is("failed", cause="error", message=str(self.record))
        if self.record is not None and self.record.state == "done":
            return self._is("lost", message="its record says done, but files that it names are gone")
        if self.record is not None and self._last_attempt() <= self.record.attempt:
            return self._is("failed", cause=self.record.cause, message=self.record.message)
        return self._ended_without_record()

    def _is(self, state: str, **facts: Any) -> TaskState:
        job = self.said.job if self.said else None
        return TaskState(
            id=self.planned.id,
            state=state,
            attempts=len(self.attempts),
            gpu_hours=self._gpu_hours(),
            job=job.id if job else None,
            executor=self.said.place.executor if self.said else None,
            owner=self.said.place.sent.uid if self.said else None,
            node=job.node if job else None,
            peak_mem_gb=self._peak_gb(),
            waited_s=job.waited_s if job else None,
            queued=self.said.live or job.state == "unknown" if self.said and job else False,
            **facts,
        )

    def _live(self, said: Said) -> TaskState:
        held = _json(self.folder / "held.json") if said.job.state == "waiting" else None
        if said.job.state == "running":
            return self._is("running", reason=said.job.reason, progress=_json(self.folder / "progress.json"))
        return self._is("waiting", reason=str(held["reason"]) if held else said.job.reason)

    def _last_attempt(self) -> int:
        return int(self.attempts[-1]["number"]) if self.attempts else 0

    def _ended_without_record(self) -> TaskState:
        """The task is not live and its last attempt left no record: the executor's word, then the exit code's."""
        held = _json(self.folder / "held.json")
        if held:
            return self._is("waiting", reason=f"held: {held.get('reason')}")
        if self.said is None:
            return self._is("waiting", reason="not submitted")
        job = self.said.job
        if job.state in ("unknown", "gone") and self._gives_signs():
            return self._is("running", reason=job.reason, progress=_json(self.folder / "progress.json"))
        if job.state == "unknown":
            # Slurm or its accounting is silent, or cannot be understood: nobody has said that the task ended.
            return self._is("unknown", reason=job.reason or "its state is not known at the moment")
        cause = self._cause(job)
        if cause is None:
            return self._is("lost", message=job.reason or "it ended without a record")
        return self._is("failed", cause=cause, message=job.reason)

    def _cause(self, job: JobState) -> str | None:
        said = {"preempted": "preempted too often", "paused": "preempted too often"}.get(job.cause or "", job.cause)
        if said not in (None, "error"):
            return said
        # One of several packed side by side: the element's status is not this task's.
        code = self._exit_code(job.id)
        if code is not None and code < 0:
            return "killed"
        return said if code is None else "error"

    def _exit_code(self, element: str) -> int | None:
        ends = [_json(path) for path in sorted((self.folder / "exits").glob(f"{element}-*.json"))]
        codes = [end["exit_code"] for end in ends if end and isinstance(end.get("exit_code"), int)]
        return codes[-1] if codes else None

    def _gives_signs(self) -> bool:
        last = self.attempts[-1] if self.attempts else {}
        return "ended" not in last and time.time() - float(last.get("last_sign") or 0.0) < STALE_S

    def _gpu_hours(self) -> float:
        """Every attempt counted, each task its share of an allocation: Slurm's sum, or else from the attempts."""
        if self.said is not None and self.said.job.gpu_hours:
            return self.said.job.gpu_hours / self.said.place.packed
        spans = [
            attempt.get("gpus", 0) * max(0.0, float(over) - float(attempt["started"]))
            for attempt in self.attempts
            if "started" in attempt and (over := attempt.get("ended") or attempt.get("last_sign"))
        ]
        return float(sum(spans)) / 3600 / self.planned.resources.pack

    def _peak_gb(self) -> float | None:
        peaks = [attempt["peak_mb"] for attempt in self.attempts if "peak_mb" in attempt]
        if self.said is not None and self.said.job.max_rss_mb is not None:
            peaks.append(self.said.job.max_rss_mb)
        return round(max(peaks) / 1024, 3) if peaks else None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        document = read_json(path)
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def over(states: Mapping[str, TaskState]) -> bool:
    """Whether nothing more will happen by itself: all done, failed, lost, or never submitted."""
    return all(
        state.state in ("done", "failed", "lost") or (state.state == "waiting" and not state.queued)
        for state in states.values()
    )


def states_document(plan: Plan, states: Mapping[str, TaskState]) -> dict[str, Any]:
    """States as one JSON document, for ``status --json``: a task each, counts by state, a search each."""
    counts = Counter(state.state for state in states.values())
    tasks = [
        {"stage": planned.stage, "group": planned.group, "run": planned.run, **asdict(states[planned.id])}
        for planned in plan.tasks
    ]
    summary = {state: counts[state] for state in STATES if counts[state]}
    return {"tasks": tasks, "summary": summary, "searches": searches_document(plan)}


def summary_line(states: Mapping[str, TaskState]) -> str:
    """One line: how many tasks are in each state, and the GPU-hours so far."""
    counts = Counter(state.state for state in states.values())
    parts = [f"{counts[state]} {state}" for state in SUMMARY_ORDER if counts[state]]
    hours = sum(state.gpu_hours or 0.0 for state in states.values())
    return ", ".join(parts) + (f"; {hours:.2f} GPU-hours" if hours else "")


def states_table(plan: Plan, states: Mapping[str, TaskState], *, rows: int | None = None) -> Table:
    """A line a task; with ``rows`` those that need eyes first: running, failed, waiting, then done."""
    table = Table(title=f"{plan.manifest.name}: {summary_line(states)}", title_justify="left")
    for name in ("task", "stage", "group", "run", "state", "job", "GPU-hours", "what"):
        table.add_column(name, justify="right" if name == "GPU-hours" else "left", overflow="fold")
    shown = list(plan.tasks)
    if rows is not None and len(shown) > rows:
        order = ("running", "failed", "lost", "unknown", "waiting", "done")
        shown = sorted(shown, key=lambda planned: order.index(states[planned.id].state))[:rows]
        table.caption = f"and {len(plan.tasks) - rows} more (--json has all)"
    for planned in shown:
        state = states[planned.id]
        name = f"{planned.run} (seed {planned.seed})" if planned.seed else planned.run
        table.add_row(
            planned.id[:8],
            planned.stage,
            planned.group,
            name,
            f"[{COLOURS[state.state]}]{state.state}[/]",
            state.job or "-",
            f"{state.gpu_hours:.2f}" if state.gpu_hours else "-",
            what(state),
        )
    return table


def what(state: TaskState) -> str:
    """In a few words: how far it is, why it failed, or what it waits for."""
    if state.progress:
        return progress_words(state.progress)
    if state.cause:
        message = (state.message or "").splitlines()
        return f"{state.cause}: {message[0]}" if message else state.cause
    return state.message or state.reason or ""


def progress_words(progress: Mapping[str, Any]) -> str:
    """A stage's progress: phase, epoch, share, rate and time left, as far as they are known."""
    parts = [str(progress["phase"])] if "phase" in progress else []
    if progress.get("epoch") and progress.get("epochs"):
        parts.append(f"epoch {progress['epoch']}/{progress['epochs']}")
    if progress.get("total"):
        parts.append(f"{100 * progress.get('done', 0) / progress['total']:.0f} %")
    if progress.get("rate"):
        parts.append(f"{progress['rate']:,.0f} {progress.get('unit', 'items')}/s")
    if progress.get("left_s") is not None:
        minutes, seconds = divmod(int(progress["left_s"]), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return ", ".join(parts)


def print_states(plan: Plan, states: Mapping[str, TaskState], console: Console) -> None:
    """The tasks that need eyes first, a line a search, then advice where what was asked is far from what was used."""
    console.print(states_table(plan, states, rows=MOST_ROWS))
    for line in (*search_lines(plan), *advice(plan, states)):
        console.print(line, markup=False, highlight=False)


def advice(plan: Plan, states: Mapping[str, TaskState]) -> list[str]:
    """Per stage: memory asked against the most that was used, where less than half of it was."""
    lines = []
    for stage in dict.fromkeys(planned.stage for planned in plan.tasks):
        tasks = [planned for planned in plan.tasks if planned.stage == stage and states[planned.id].state == "done"]
        used = [peak for planned in tasks if (peak := states[planned.id].peak_mem_gb)]
        asked = max((planned.resources.mem_gb for planned in tasks), default=0.0)
        if used and max(used) < asked / 2:
            lines.append(f"{stage}: asked {asked:g} GB, used {max(used):.1f}")
    return lines
