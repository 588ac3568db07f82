"""Ctrl-C, SIGTERM and SIGHUP: a command ends by them as by an error, and never between sbatch and its record."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(BaseException):
    """A signal ends this command: locks are released and unfinished work is put back on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def end_by_errors() -> None:
    """From now on SIGTERM and SIGHUP raise, as Ctrl-C does; one that is ignored, as under nohup, stays so."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise StoppedError(number)


@contextmanager
def deferred(*, programs: bool) -> Iterator[None]:
    """Signals wait until the block is over; with ``programs`` so they do in each program that is started in it.

    A terminal sends its Ctrl-C and its hangup to all that run in it: sbatch, killed once its request is sent, would
    leave a job whose number nobody has. Not for programs that outlive the block: they would never hear SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals raise in the main thread alone
        return
    arrived: list[int] = []
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS if programs else ())
    # Not the mask alone: another thread, such as a lock's heartbeat, takes what this one blocks.
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    handlers = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    for number in handlers:
        signal.signal(number, lambda number, _frame: arrived.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
