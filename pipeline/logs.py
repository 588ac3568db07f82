"""A task's own log, from its folder on storage."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from jobs.errors import InputError
from jobs.storage import Storage, open_plain
from pipeline.plan import Plan, find_task
from pipeline.status import all_finished, task_states

POLL_S = 1.0


def log_path(plan: Plan, task_id: str) -> Path:
    return Storage(plan.manifest.storage).run(task_id) / "log.txt"


def tail(path: Path, lines: int) -> str:
    """The last lines of a log; empty where there is none. Bytes that are not UTF-8 are shown replaced."""
    try:
        with open_plain(path) as file:
            file.seek(max(0, path.stat().st_size - 200 * lines - 4096))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def print_log(plan: Plan, words: str, *, follow: bool) -> None:
    """Print a task's log, and with ``follow`` what is added until the task is over; raises ValueError if none."""
    planned = find_task(plan, words)
    path = log_path(plan, planned.id)
    if not path.exists() and not follow:
        state = task_states(plan)[planned.id]
        raise InputError(f"{planned.group}/{planned.run} ({planned.stage}) has no log yet: it is {state.state}")
    position = 0
    while True:
        last = not follow or all_finished({planned.id: task_states(plan)[planned.id]})
        position = _copy(path, position)
        if last:
            return
        time.sleep(POLL_S)


def _copy(path: Path, position: int) -> int:
    try:
        with open_plain(path) as file:
            file.seek(position)
            text = file.read()
    except FileNotFoundError:
        return position
    sys.stdout.write(text.decode("utf-8", "replace"))
    sys.stdout.flush()
    return position + len(text)
