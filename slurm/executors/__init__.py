"""Where arrays run: one file for each executor, found by its name, all under the same contract tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, cast

from slurm.array import Array, Site, Submitted
from slurm.errors import UnknownExecutorError
from slurm.job_state import JobIdentity, JobState


class Executor(Protocol):
    """Runs arrays. Ids are unique within one executor (for ``local``: within its folder)."""

    def submit(self, array: Array) -> Submitted:
        """Queue an array and return at once. Raises SubmitError when nothing of it could be queued."""

    def states(self, ids: Iterable[str], *, sent: Mapping[str, JobIdentity] | None = None) -> Mapping[str, JobState]:
        """Where each of these elements stands; ``sent`` is how each was submitted: another's job is never ours."""

    def cancel(self, ids: Iterable[str]) -> None:
        """Stop these elements for good; one that is over stays as it is."""

    def hold(self, ids: Iterable[str]) -> None:
        """Keep these elements from starting until they are released; one that has started goes on."""

    def release(self, ids: Iterable[str]) -> None:
        """Let held elements start."""

    def scripts(self, array: Array) -> tuple[str, ...]:
        """What would be sent for an array, as text, without sending it."""


def names() -> tuple[str, ...]:
    """The executors there are."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def check_name(name: str) -> None:
    """Raise UnknownExecutorError, with the legal names, for an executor that is not there."""
    if name not in names():
        raise UnknownExecutorError(f"unknown executor {name!r}; legal: {', '.join(names())}")


def make(name: str, *, folder: Path, site: Site | None = None, entry: Callable[[Path], int] | None = None) -> Executor:
    """The executor of that name.

    ``folder`` is where ``local`` keeps its queue (one for all submissions of a machine, on its own disk or on the
    storage); ``site`` is for ``slurm``; ``entry`` runs one path in this process, for ``inline``.
    Raises UnknownExecutorError, with the legal names, for one that is not there.
    """
    check_name(name)
    module = import_module(f"{__name__}.{name}")
    return cast(Executor, module.make(folder=folder, site=site or Site(), entry=entry))
