"""Where every task stands: the evidence is read here, ``pipeline.decisions.task_state`` decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs import gpu_use
from jobs.attempt import STALE_S, AttemptFacts, history
from jobs.circuit_breaker import held_reason
from jobs.context import read_progress
from jobs.search.study import continuation
from jobs.search.summary import summary
from jobs.storage import Storage
from jobs.task import read_record
from jobs.units import differences
from pipeline.closing_job import failed_notices, find_undone, open_submission
from pipeline.decisions.closing import CLOSE, UndoneClosing
from pipeline.decisions.submission import superseded_shards
from pipeline.decisions.task_state import (
    STATES,
    AttemptEvidence,
    Evidence,
    QueueEvidence,
    TaskState,
    decide,
    with_upstream_cause,
)
from pipeline.element_log import LastWords, read_last_words
from pipeline.memory import collection_paused
from pipeline.packing import pack_lines
from pipeline.plan import Plan, Planned, PlannedSearch
from pipeline.queue import QueuedAs, last_exit_code, query
from pipeline.state_words import describe
from pipeline.vector_coverage import coverage_lines
from sharedfs.clock import SYSTEM, Clock, storage_time
from sharedfs.typed_json import Json
from slurm.job_state import GONE, RUNNING, UNKNOWN, WAITING

SUMMARY_ORDER = ("done", "running", "waiting", "unknown", "failed", "lost")
TRIAL_STATES = ("running", "paused", "lost", "stopped", "failed", "done", "waiting")
MOST_ROWS = 200  # for people: nobody reads ten thousand lines
COLOURS = {"done": "green", "running": "cyan", "failed": "red", "lost": "red", "unknown": "yellow", "waiting": "dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a manifest stands: its tasks, and what its last closing job left undone, None where nothing.

    ``notices`` says which messages to a person were not sent, a line each.
    """

    states: Mapping[str, TaskState]
    undone: UndoneClosing | None
    notices: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        failed = any(state.state in ("failed", "lost") for state in self.states.values())
        return int(failed or self.undone is not None)


@collection_paused()
def task_states(plan: Plan, *, clock: Clock = SYSTEM) -> dict[str, TaskState]:
    """The state of every task of a plan, by id; at most two Slurm commands, none where all is done.

    Heartbeats are judged by the clock of the storage, which is asked at most once, and only where one matters.
    """
    return _decide_all(plan, clock)[0]


@collection_paused()
def standing(plan: Plan, *, clock: Clock = SYSTEM) -> Standing:
    """As ``task_states``, with the closing job of the manifest's newest submission, by the same Slurm commands."""
    storage = Storage(plan.manifest.storage)
    unclosed = open_submission(storage, plan.manifest.name)
    states, closing = _decide_all(plan, clock, unclosed.closing if unclosed else None)
    undone = find_undone(storage, unclosed, closing, states) if unclosed else None
    notices = failed_notices(storage, plan.manifest.name) if plan.manifest.notify is not None else ()
    return Standing(states=states, undone=undone, notices=notices)


def _decide_all(
    plan: Plan, clock: Clock, closing: QueuedAs | None = None
) -> tuple[dict[str, TaskState], QueueEvidence | None]:
    states: dict[str, TaskState] = {}
    collected, shown = _collect(plan, clock, closing)
    for planned, evidence in zip(plan.tasks, collected, strict=True):
        state = decide(evidence, stale_s=STALE_S)
        states[planned.id] = with_upstream_cause(state, planned.task.needs, states)
    return states, shown


@collection_paused()
def done_on_storage(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The tasks that are done, by storage alone: in what the code that made each was not what it is now, by id.

    No scheduler is asked.
    """
    storage = Storage(plan.manifest.storage)
    runs = storage.runs
    if not runs.is_dir():
        return {}
    read = (_read_record(storage, runs, planned) for planned in plan.tasks)
    done = {evidence.id: evidence.changed for evidence in read if evidence.is_done}
    return done | dict.fromkeys(superseded_shards(plan.tasks, done.keys()) - done.keys(), ())


def _collect(plan: Plan, clock: Clock, closing: QueuedAs | None) -> tuple[Iterator[Evidence], QueueEvidence | None]:
    """The evidence of each task, in the plan's order, and what is shown of a closing job."""
    storage = Storage(plan.manifest.storage)
    runs = storage.runs
    now = cache(lambda: storage_time(runs, clock))
    records = {planned.id: _read_record(storage, runs, planned) for planned in plan.tasks}
    done = {task for task, evidence in records.items() if evidence.is_done}
    superseded = superseded_shards(plan.tasks, done) - done
    queue = query(storage, records.keys() - done - superseded, closing)

    def evidence(task: str) -> Evidence:
        if task in done:
            # Of thousands that are done, nothing but the record has to be opened.
            return records[task]
        if task in superseded:
            return replace(records[task], superseded=True)
        return _read_traces(records[task], queue.get(task), storage, now)

    return (evidence(planned.id) for planned in plan.tasks), queue.get(CLOSE)


def _read_record(storage: Storage, runs: Path, planned: Planned) -> Evidence:
    pack = planned.resources.pack
    try:
        record = read_record(f"{runs}/{planned.id}")
    except ValueError as error:
        return Evidence(id=planned.id, pack=pack, record_error=str(error))
    if record is None:
        return Evidence(id=planned.id, pack=pack)
    intact = record.state == "done" and record.files_intact(storage)
    stopped = record.result.get("stopped") is not None
    return Evidence(
        id=planned.id,
        pack=pack,
        record=record,
        files_intact=intact,
        continued=continuation(runs / planned.id, record) if stopped else None,
        changed=differences(record.made) if intact else (),
        gpu=record.gpu,
    )


def _read_traces(
    evidence: Evidence, queue: QueueEvidence | None, storage: Storage, now: Callable[[], float]
) -> Evidence:
    """What a task that is not done left behind; only what can matter is opened, each file costs on shared storage."""
    folder = storage.runs / evidence.id
    job = queue.job if queue else None
    # A task never queued and never run has no folder to read.
    has_run = job is not None or evidence.record is not None or evidence.record_error is not None
    state = job.state if job else None
    has_progress = evidence.continued or state in (RUNNING, GONE, UNKNOWN)
    attempts = history(folder) if has_run else []
    # Of all others the executor, or the attempt itself, says whether they run: their heartbeats do not matter.
    is_silent = state in (GONE, UNKNOWN) and bool(attempts) and attempts[-1].ended is None
    now_s = now() if is_silent else None
    return replace(
        evidence,
        queue=queue,
        attempts=tuple(_attempt(facts, now_s) for facts in attempts),
        exit_code=last_exit_code(folder, job.id) if job is not None and state not in (WAITING, RUNNING) else None,
        held_note=None if state == RUNNING else held_reason(folder),
        progress=read_progress(folder) if has_progress else None,
        last_words=_last_words(evidence, queue, storage),
        gpu=gpu_use.total(facts.gpu for facts in attempts),
    )


def _last_words(evidence: Evidence, queue: QueueEvidence | None, storage: Storage) -> LastWords | None:
    if queue is None or queue.submission is None or not queue.job.over or evidence.record is not None:
        return None
    folder, job = storage.runs / evidence.id, queue.job
    return read_last_words(storage, folder, queue.submission, job.id, start=job.restarts + 1)


def _attempt(facts: AttemptFacts, now_s: float | None) -> AttemptEvidence:
    last = facts.last_heartbeat
    return AttemptEvidence(
        number=facts.number,
        started=facts.started,
        ended=facts.ended,
        last_heartbeat=last,
        heartbeat_age_s=None if last is None or now_s is None else now_s - last,
        gpus=facts.gpus,
        peak_mb=facts.peak_mb,
    )


def all_finished(states: Mapping[str, TaskState]) -> bool:
    """Whether nothing more will happen by itself: all done, failed, lost, or never submitted."""
    return all(
        state.state in ("done", "failed", "lost") or (state.state == "waiting" and not state.queued)
        for state in states.values()
    )


def states_document(
    plan: Plan, states: Mapping[str, TaskState], undone: UndoneClosing | None = None, notices: Sequence[str] = ()
) -> Mapping[str, Json]:
    """States as one JSON document, for ``status --json``: a task each, counts by state, a search each, what the
    closing job left undone, and which messages were not sent."""
    counts = Counter(state.state for state in states.values())
    tasks = [
        {"stage": planned.stage, "group": planned.group, "run": planned.run, **_state_document(states[planned.id])}
        for planned in plan.tasks
    ]
    summary = {state: counts[state] for state in STATES if counts[state]}
    searches = [asdict(search) for search in search_states(plan)]
    closing = asdict(undone) if undone else None
    return {"tasks": tasks, "summary": summary, "searches": searches, "closing": closing, "notices": list(notices)}


def _state_document(state: TaskState) -> dict[str, Json]:
    progress = None if state.progress is None else state.progress.document
    return {**asdict(state), "progress": progress, "gpu": gpu_use.figures(state.gpu) if state.gpu else None}


def summary_line(states: Mapping[str, TaskState]) -> str:
    """One line: how many tasks are in each state, the GPU-hours so far, and what the GPUs did in them."""
    counts = Counter(state.state for state in states.values())
    parts = [f"{counts[state]} {state}" for state in SUMMARY_ORDER if counts[state]]
    hours = sum(state.gpu_hours or 0.0 for state in states.values())
    did = gpu_use.words(gpu_use.total(state.gpu for state in states.values()))
    return "; ".join(filter(None, (", ".join(parts), f"{hours:.2f} GPU-hours" if hours else "", did)))


def states_table(plan: Plan, states: Mapping[str, TaskState], *, rows: int | None = None) -> Table:
    """A line a task; with ``rows`` those that need eyes first: running, failed, waiting, then done."""
    table = Table(title=f"{plan.manifest.name}: {summary_line(states)}", title_justify="left")
    measured = any(gpu_use.words(state.gpu) for state in states.values())
    of_gpu = ("GPU-hours", "GPU use") if measured else ("GPU-hours",)
    for name in ("task", "stage", "group", "run", "state", "job", *of_gpu, "detail"):
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
            Text(state.state, style=COLOURS[state.state]),
            f"{state.job or '-'} ({state.user})" if state.user else state.job or "-",
            f"{state.gpu_hours:.2f}" if state.gpu_hours else "-",
            *((gpu_use.words(state.gpu).removeprefix("GPU ") or "-",) if measured else ()),
            describe(state),
        )
    return table


def print_states(
    plan: Plan,
    states: Mapping[str, TaskState],
    console: Console,
    undone: UndoneClosing | None = None,
    notices: Sequence[str] = (),
) -> None:
    """The tasks that need eyes first, a line a search and a file of word vectors, advice on what was asked, what the
    closing job left undone, and which messages were not sent."""
    console.print(states_table(plan, states, rows=MOST_ROWS))
    for line in (*search_lines(plan), *coverage_lines(plan), *advice(plan, states), *pack_lines(plan, states)):
        console.print(line)
    for line in (*([] if undone is None else [undone.line]), *notices):
        console.print(line, style="yellow", soft_wrap=True, markup=False)


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


# How each search of a plan stands: the best so far, its trials by state, what stopping has saved.


@dataclass(frozen=True, slots=True, kw_only=True)
class Leading:
    """The best trial of a search so far, which may still be running."""

    trial: int
    task: str
    state: str
    value: float
    point: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchState:
    """A search: ``best`` is None as long as no trial has a value, ``message`` is why it cannot be read."""

    name: str
    id: str
    metric: str
    trials: int
    best: Leading | None
    states: Mapping[str, int]
    epochs_spent: int = 0
    epochs_saved: int = 0
    message: str | None = None


def search_states(plan: Plan) -> list[SearchState]:
    """How each search of a plan stands."""
    return [_search_state(Storage(plan.manifest.storage), planned) for planned in plan.searches]


def search_lines(plan: Plan) -> list[str]:
    """A line a search for people."""
    return [_search_line(state) for state in search_states(plan)]


def _search_state(storage: Storage, planned: PlannedSearch) -> SearchState:
    found, error = None, None
    try:
        found = summary(storage, planned.id)
    except ValueError as damaged:
        # One damaged file must not hide the state of everything else.
        error = str(damaged)
    states = dict(found.states) if found else {}
    # A search whose number of trials was lowered has more than are asked for.
    states["waiting"] = max(0, len(planned.trials) - sum(states.values()))
    best = found.best if found else None
    return SearchState(
        name=planned.search.name,
        id=planned.id,
        metric=planned.search.metric,
        trials=len(planned.trials),
        best=None
        if best is None or best.value is None
        else Leading(trial=best.number, task=best.task, state=best.state, value=best.value, point=best.point),
        states={state: states[state] for state in TRIAL_STATES if states.get(state)},
        epochs_spent=found.epochs_spent if found else 0,
        epochs_saved=found.epochs_saved if found else 0,
        message=error,
    )


def _search_line(search: SearchState) -> str:
    if search.message:
        return f"search {search.name}: {search.message}"
    best = search.best
    leading = f"best {search.metric} {best.value:.4f} (trial {best.trial})" if best else "no result yet"
    states = ", ".join(f"{count} {state}" for state, count in search.states.items())
    epochs = f"{search.epochs_spent} epochs spent"
    if search.epochs_saved:
        epochs += f", {search.epochs_saved} saved by stopping"
    return f"search {search.name}: {leading}; trials: {states}; {epochs}"
