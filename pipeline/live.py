"""Live displays for a terminal: progress bars, and a manifest's tasks; plain lines where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from jobs.storage import Storage
from pipeline.decisions.task_state import TaskState
from pipeline.plan import Plan
from pipeline.queue import is_closing
from pipeline.status import all_finished, search_lines, states_table, summary_line, task_states
from sharedfs.clock import SYSTEM, Clock

SHOWN_AFTER_S = 2.0
TITLES = {
    "collect": "reading runs",
    "plots": "drawing plots",
    "page": "writing pages",
    "mlflow": "MLflow's store",
    "tracking": "tracking server",
}
POLL_LOCAL_S = 1.0
POLL_CLUSTER_S = 10.0  # etiquette: the controller serves everybody


# A progress bar, on a terminal alone, and only for what takes long.


@contextmanager
def progress_bar(console: Console, clock: Clock = SYSTEM) -> Iterator[Callable[[str, int, int], None] | None]:
    """Yields a function to call with what is being done, how many are done and out of how many; None off a terminal.

    The bar comes once two seconds have gone by, and goes without a trace.
    """
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    started, bars = clock.monotonic(), dict[str, TaskID]()

    def update(name: str, done: int, total: int) -> None:
        if clock.monotonic() - started < SHOWN_AFTER_S:
            return
        if name not in bars:
            bars[name] = bar.add_task(TITLES.get(name, name), total=total)
            bar.start()
        bar.update(bars[name], completed=done, total=total)

    try:
        yield update
    finally:
        bar.stop()


# A live display of a manifest's tasks, for a terminal; plain lines where there is none.


def poll(plan: Plan, *, closing_too: bool = False, clock: Clock = SYSTEM) -> Iterator[Mapping[str, TaskState]]:
    """The states again and again, a pause between, until every task has ended; the last ones are how all ended.

    With ``closing_too`` until the closing job has ended too, which may retry some.
    """
    storage = Storage(plan.manifest.storage)
    while True:
        states = task_states(plan, clock=clock)
        yield states
        if all_finished(states) and not (closing_too and is_closing(storage, plan.manifest.name)):
            return
        clock.sleep(_pause_s(states))


def watch(plan: Plan, console: Console, *, closing_too: bool = False, clock: Clock = SYSTEM) -> Mapping[str, TaskState]:
    """Show states until every task has ended, as ``poll`` has them; returns how they ended.

    A person who presses Ctrl-C stops the display alone.
    """
    states: Mapping[str, TaskState] = {}
    if not console.is_terminal:
        shown = ""
        for states in poll(plan, closing_too=closing_too, clock=clock):
            line = summary_line(states)
            if line != shown:
                console.print(line)
                shown = line
        return states
    with Live(console=console, refresh_per_second=4, transient=True) as display:
        for states in poll(plan, closing_too=closing_too, clock=clock):
            lines = [Text(line) for line in search_lines(plan)]
            table = states_table(plan, states, rows=max(5, console.height - 8 - len(lines)))
            display.update(Group(table, *lines))
    return states


def _pause_s(states: Mapping[str, TaskState]) -> float:
    on_cluster = any(state.executor == "slurm" and state.queued for state in states.values())
    return POLL_CLUSTER_S if on_cluster else POLL_LOCAL_S
