"""What a shared file system answers while it is full or away, and how long each kind of it is waited for.

There are two waits. Where a fault happens, the same operation is tried again for ``PATIENCE_S`` (``patient``): a file
handle gone stale, a server that starts again, a client that was evicted. That is well below the age at which a
heartbeat is stale, so nobody can have taken a task over meanwhile. What lasts longer, and a storage that is full, is
the task's to wait for, between two attempts of its own (``jobs.entry``).

A file mapped into memory is read without a call that could fail: there a fault is the signal SIGBUS, which ends the
process, and nothing in it can wait. Nor can a hard mount be asked: its calls return once its server is back.

Nothing but the standard library is imported here: it is on the way of every task's start.
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

FULL = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
}
AWAY = {
    errno.ESTALE: "the file handle is stale",
    errno.EIO: "input/output error",
    errno.ETIMEDOUT: "the file server does not answer",
    errno.EAGAIN: "the file system is busy",
    errno.EBUSY: "the file or folder is busy",
    errno.ENOTCONN: "the file system is not connected",
    errno.ESHUTDOWN: "the file server has dropped this node",  # Lustre's word for a client that it evicted
    errno.EREMOTEIO: "the file server has a fault",
    errno.ECOMM: "the file server cannot be reached",
    errno.EHOSTDOWN: "the file server is down",
}
# What other calls than those of files end with too, as a fork does: the storage's where a file is named.
_OF_OTHERS = {errno.EAGAIN, errno.EBUSY, errno.ENOTCONN, errno.EHOSTDOWN, errno.ESHUTDOWN}

PATIENCE_S = 20.0
SHORTEST_S, LONGEST_S = 0.1, 5.0


class _Patience:
    """This process's: spent once one operation has waited in vain, and whole again when one goes well.

    So what follows a wait in vain (the record of the failure, say) is tried once each and does not add up.
    """

    spent = False
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


def fault_of(error: BaseException) -> int | None:
    """The number of the error where the storage is full or away, also as the cause of another error; else None."""
    for fault in (error, error.__cause__):
        if not isinstance(fault, OSError):
            continue
        # numpy reports a full disk by its message alone, without a number.
        if fault.errno is None and " requested and " in str(fault) and str(fault).endswith("written"):
            return errno.ENOSPC
        if fault.errno in FULL or (fault.errno in AWAY and (fault.filename or fault.errno not in _OF_OTHERS)):
            return fault.errno
    return None


def patient(operation: Callable[P, T]) -> Callable[P, T]:
    """The operation, tried again while the file system is away, for at most ``PATIENCE_S``; a line says so, once.

    It must do no harm when done twice. Its first argument is the path that an error names which names none.
    """

    @wraps(operation)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        pause_s, until = SHORTEST_S, None
        while True:
            try:
                result = operation(*args, **kwargs)
            except OSError as error:
                if error.errno not in AWAY:
                    raise
                if error.filename is None and args and isinstance(args[0], str | Path):
                    error.filename = str(args[0])
                now = _Patience.monotonic()
                if until is None:
                    until = now + PATIENCE_S
                    if not _Patience.spent:
                        _report(error)
                if _Patience.spent or now + pause_s > until:
                    _Patience.spent = True
                    raise
                _Patience.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_S)
            else:
                _Patience.spent = False
                return result

    return call


def _report(error: OSError) -> None:
    with suppress(OSError):  # what this is printed to may lie on the same file system
        words = AWAY.get(error.errno or 0)
        print(f"tanda: {error.filename}: {words}: tried again for {PATIENCE_S:g} s", file=sys.stderr, flush=True)
