"""The errors that a person can cause and mend: one line at the edge, where any other error shows its traceback.

Each is also the built-in error that fits, so that a caller who knows nothing of this module can catch it.
``slurm.errors.SchedulerError`` is their like in the package that may not import this one.
"""

from __future__ import annotations


class TandaError(Exception):
    """The root: the text says what is wrong, where, and what would be right."""


class InputError(TandaError, ValueError):
    """What a person gave cannot be used: a manifest, a setting, a name, a data file's content."""


class MissingFileError(TandaError, FileNotFoundError):
    """A file that a person named is not there."""


class DamagedFileError(TandaError, ValueError):
    """A file on the storage is not what this program wrote there: damaged, edited, or of another version."""
