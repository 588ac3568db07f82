"""A progress bar, on a terminal alone, and only for what takes long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SHOWN_AFTER_S = 2.0
TITLES = {
    "collect": "reading runs",
    "plots": "drawing plots",
    "page": "writing pages",
    "mlflow": "MLflow's store",
    "tracking": "tracking server",
}


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, int, int], None] | None]:
    """Yields what is to be told (what is done, how many of them, out of how many), or None off a terminal.

    The bar comes once two seconds have gone by, and goes without a trace.
    """
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    began, shown = time.monotonic(), dict[str, TaskID]()

    def tell(name: str, done: int, total: int) -> None:
        if time.monotonic() - began < SHOWN_AFTER_S:
            return
        if name not in shown:
            shown[name] = bar.add_task(TITLES.get(name, name), total=total)
            bar.start()
        bar.update(shown[name], completed=done, total=total)

    try:
        yield tell
    finally:
        bar.stop()
