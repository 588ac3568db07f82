"""A live display of a manifest's tasks, for a terminal; plain lines where there is none."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live

from pipeline.plan import Plan
from pipeline.states import TaskState
from pipeline.status import over, states_table, summary_line, task_states

POLL_LOCAL_S = 1.0
POLL_CLUSTER_S = 10.0  # etiquette: the controller serves everybody


def watch(plan: Plan, console: Console, *, until_over: bool) -> Mapping[str, TaskState]:
    """Show states until every task is over (or a person presses Ctrl-C, which stops the display alone)."""
    if not console.is_terminal:
        return _lines(plan, console)
    with Live(console=console, refresh_per_second=4, transient=True) as display:
        while True:
            states = task_states(plan)
            display.update(states_table(plan, states, rows=max(5, console.height - 8)))
            if over(states) or not until_over:
                break
            time.sleep(_pause_s(states))
    return states


def _lines(plan: Plan, console: Console) -> Mapping[str, TaskState]:
    said = ""
    while True:
        states = task_states(plan)
        line = summary_line(states)
        if line != said:
            console.print(line)
            said = line
        if over(states):
            return states
        time.sleep(_pause_s(states))


def _pause_s(states: Mapping[str, TaskState]) -> float:
    # Element ids of local processes start with "local": only Slurm has a controller to spare.
    jobs = Counter((state.job or "").startswith("local") for state in states.values() if state.job)
    return POLL_LOCAL_S if jobs[True] or not jobs else POLL_CLUSTER_S
