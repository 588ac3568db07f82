"""Work on threads with the results in order: what is made never depends on how many threads there were."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_AHEAD = 2  # pieces of work under way or waiting, per thread: enough to be busy, little enough for memory


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
