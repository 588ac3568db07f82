"""A live display of a manifest's tasks, for a terminal; plain lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from jobs.storage import Storage
from pipeline.plan import Plan
from pipeline.queue import closing
from pipeline.searches import search_lines
from pipeline.states import TaskState
from pipeline.status import over, states_table, summary_line, task_states

POLL_LOCAL_S = 1.0
POLL_CLUSTER_S = 10.0  # etiquette: the controller serves everybody


def watch(plan: Plan, console: Console, *, closing_too: bool = False) -> Mapping[str, TaskState]:
    """Show states until every task is over, and with ``closing_too`` the closing job, which may try some again.

    A person who presses Ctrl-C stops the display alone.
    """
    storage = Storage(plan.manifest.storage)

    def finished(states: Mapping[str, TaskState]) -> bool:
        return over(states) and not (closing_too and closing(storage, plan.manifest.name))

    if not console.is_terminal:
        return _lines(plan, console, finished)
    with Live(console=console, refresh_per_second=4, transient=True) as display:
        while True:
            states = task_states(plan)
            lines = [Text(line) for line in search_lines(plan)]
            table = states_table(plan, states, rows=max(5, console.height - 8 - len(lines)))
            display.update(Group(table, *lines))
            if finished(states):
                return states
            time.sleep(_pause_s(states))


def _lines(plan: Plan, console: Console, finished: Callable[[Mapping[str, TaskState]], bool]) -> dict[str, TaskState]:
    said = ""
    while True:
        states = task_states(plan)
        line = summary_line(states)
        if line != said:
            console.print(line)
            said = line
        if finished(states):
            return states
        time.sleep(_pause_s(states))


def _pause_s(states: Mapping[str, TaskState]) -> float:
    on_cluster = any(state.executor == "slurm" and state.queued for state in states.values())
    return POLL_CLUSTER_S if on_cluster else POLL_LOCAL_S
