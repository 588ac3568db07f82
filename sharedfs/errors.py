"""The errors that a person can cause and fix: one line at the edge, where any other error shows its traceback.

Each is also the built-in error that fits, so that a caller who knows nothing of this module can catch it.
What a scheduler can do wrong is in ``slurm.errors``.
"""

from __future__ import annotations

from collections.abc import Iterable

KeyPath = tuple[str | int, ...]  # of a value in nested settings: keys and positions, outermost first


class TandaError(Exception):
    """The root: the text says what is wrong, where, and what would be right."""


class InputError(TandaError, ValueError):
    """What a person gave cannot be used: a manifest, a setting, a name, a data file's content."""


class MissingFileError(TandaError, FileNotFoundError):
    """A file that a person named is not there."""


class FileAccessError(TandaError, OSError):
    """A file or folder cannot be read or written as things are: its rights, a full disk, something else by its name."""


class DamagedFileError(TandaError, ValueError):
    """A file on the storage is not what this program wrote there: damaged, edited, or of another version."""


def did_you_mean(key: object, legal: Iterable[str], *, listed_max: int = 100) -> str:
    """The end of a message about an unknown key: the nearest legal one, else all of them, if they are not too many."""
    from difflib import get_close_matches  # here: every start of a command imports this module

    keys = sorted(set(legal))
    near = get_close_matches(str(key), keys, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    more = ", ..." if len(keys) > listed_max else ""
    return f"; must be one of {', '.join(keys[:listed_max])}{more}" if keys else ""
