"""The edge of the command line: which errors become one line, and what happens when nobody reads the output."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from pipeline.interruption import StoppedError

TRY_AGAIN = 1  # nothing to correct: Slurm does not answer
BAD_USAGE = 2
# What a person can cause, and fix, with the paths that they give: any other OSError is a fault of the program.
_OF_PATHS = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
        errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV, errno.ETXTBSY,
    }
)  # fmt: skip


def one_line(error: Exception) -> str | None:
    """The line for an error that a person can fix; None for one of the program's own."""
    from sharedfs.errors import TandaError  # here: a start without an error needs none
    from sharedfs.faults import fault_of

    if isinstance(error, TandaError):
        return str(error)
    if not isinstance(error, OSError) or not error.strerror:
        return None
    # What a storage does by itself may name no file.
    if fault_of(error) is not None or error.errno == errno.EFBIG or (error.errno in _OF_PATHS and error.filename):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return None


def version() -> str:
    """The version of what is installed, which has it from pyproject.toml."""
    from importlib import metadata  # here: it takes a tenth of what starting takes

    return metadata.version("tanda")


class Terminal(Console):
    """rich's console for text that others wrote: as it is, with no markup, emoji codes or highlighting in it.

    It leaves it to the edge to say how a run ends whose reader has gone.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class Edge(TyperGroup):
    """All commands: status 0 all is well, 1 a task failed or is missing or Slurm does not answer, 2 bad usage or
    manifest, 128 and a signal's number where that ended it.

    An error of the program's own rises and shows its traceback, with status 1.
    """

    # Here and not around the whole: typer ends a broken pipe with status 1, and stays silent on Ctrl-C.
    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            try:
                return super().invoke(ctx)
            except StoppedError:
                _flush_or_drop()
                raise
            finally:
                sys.stdout.flush()
        except (KeyboardInterrupt, StoppedError) as stopped:
            number = stopped.number if isinstance(stopped, StoppedError) else signal.SIGINT
            _complain("stopped" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}")
            ctx.exit(128 + number)
        except BrokenPipeError:
            # `tanda status M | head -1`: the reader has seen enough. The interpreter flushes once more as it ends.
            _to_nowhere(1)
            ctx.exit(128 + signal.SIGPIPE)
        except Exception as error:
            line = one_line(error)
            if line is None or ctx.params["traceback"]:
                raise
            _complain(line)
            ctx.exit(exit_status(error))


def exit_status(error: Exception) -> int:
    """The status of a command that ends by an error which a person can fix, or wait for."""
    from slurm.errors import SubmitError, UnreachableError, is_unanswered  # here: a start without an error needs none

    unanswered = isinstance(error, UnreachableError) or (isinstance(error, SubmitError) and is_unanswered(str(error)))
    return TRY_AGAIN if unanswered else BAD_USAGE


def _complain(line: str) -> None:
    with suppress(OSError):  # the terminal is gone: nobody can be told
        print(f"tanda: {line}", file=sys.stderr)


def _flush_or_drop() -> None:
    """Write out what was printed; after a hangup the terminal is gone, and takes nothing."""
    try:
        sys.stdout.flush()
    except OSError:
        _to_nowhere(1)


def prepare_streams() -> None:
    """Send what was closed (``>&-``, some crons) to nowhere: else the next file opened would take its number.

    Where the locale's encoding lacks a letter, its number is printed, as on standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for good
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
