"""Work on files: progress by bytes read, and threads that give their results in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from jobs.context import Context, TaskInterruptedError

T = TypeVar("T")
_AHEAD = 2  # pieces of work under way or waiting, per thread: enough to be busy, little enough for memory


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
        self._tell()

    def add_bytes(self, count: int) -> None:
        """So many more bytes of the files, as they lie on disk, were read."""
        self._bytes += count
        self._tell()

    def _tell(self) -> None:
        stop_if_asked(self._context)
        elapsed_s = max(1e-9, time.monotonic() - self._started)
        share = max(1e-9, min(1.0, self._bytes / self._total))
        rows: dict[str, Any] = {
            "done": self._rows,
            "total": max(self._rows, round(self._rows / share)),
            "unit": "rows",
            "rate": self._rows / elapsed_s,
        }
        data: dict[str, Any] = {
            "done": self._bytes,
            "total": self._total,
            "unit": "bytes",
            "rate": self._bytes / elapsed_s,
        }
        left_s = elapsed_s * (1 - share) / share
        self._context.progress(phase=self._phase, left_s=left_s, **(rows if self._rows else data))


def stop_if_asked(context: Context) -> None:
    """Raise TaskInterruptedError when the task was asked to stop."""
    if context.interrupted():
        raise TaskInterruptedError("asked to stop while preprocessing; it starts over when it is started again")


# Work on threads with the results in order: what is made never depends on how many threads there were.


def in_order(work: Iterable[Callable[[], T]], threads: int) -> Iterator[T]:
    """The results of the pieces of work, in their order; at most a few are held at once."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for piece in work:
                waiting.append(pool.submit(piece))
                if len(waiting) >= _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
