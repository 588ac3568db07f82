"""Work on files: progress by bytes read, and threads that give their results in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from jobs.context import Context, Progress, TaskInterruptedError

T = TypeVar("T")
_QUEUED_PER_THREAD = 2  # running or waiting: enough to keep a thread busy, little enough for memory


# Progress of work on files: rows done, rows a second, and the time left by the share of bytes read.


class Meter:
    """Writes progress, and raises TaskInterruptedError once the task was asked to stop: preprocessing starts over."""

    def __init__(self, context: Context, phase: str, total_bytes: int) -> None:
        self._context = context
        self._phase = phase
        self._total = max(1, total_bytes)
        self._rows = self._bytes = 0
        self._started = time.monotonic()

    def add_rows(self, count: int) -> None:
        self._rows += count
        self._report()

    def add_bytes(self, count: int) -> None:
        """Count bytes read of the files as they are on disk, still compressed."""
        self._bytes += count
        self._report()

    def _report(self) -> None:
        stop_if_asked(self._context)
        elapsed_s = max(1e-9, time.monotonic() - self._started)
        share = max(1e-9, min(1.0, self._bytes / self._total))
        if self._rows:  # their total is an estimate, by the share of bytes read
            done, total, unit = self._rows, max(self._rows, round(self._rows / share)), "rows"
        else:
            done, total, unit = self._bytes, self._total, "bytes"
        left_s = elapsed_s * (1 - share) / share
        rate = done / elapsed_s
        progress = Progress(phase=self._phase, done=done, total=total, unit=unit, rate=rate, left_s=left_s)
        self._context.progress(progress)


def stop_if_asked(context: Context) -> None:
    """Raise TaskInterruptedError when the task was asked to stop."""
    if context.interrupted():
        raise TaskInterruptedError("asked to stop while preprocessing; it starts over when it is started again")


# Work on threads with the results in order: a data set's bytes must not depend on the number of threads.


def in_order(jobs: Iterable[Callable[[], T]], threads: int) -> Iterator[T]:
    """The results of the jobs, in their order; only a few are in memory at once."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) >= _QUEUED_PER_THREAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
