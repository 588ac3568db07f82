"""tanda from Python: ``from tanda import Experiment``. The command ``tanda`` and ``python -m tanda`` start here too.

Importing this imports neither pandas nor torch: the methods that need them do.
"""

from __future__ import annotations

from tanda.own_packages import find_own_packages_first

find_own_packages_first()

from pipeline.experiment import Experiment  # noqa: E402 - found by the line above
from sharedfs.errors import DamagedFileError, FileAccessError, InputError, MissingFileError, TandaError  # noqa: E402

__all__ = ["DamagedFileError", "Experiment", "FileAccessError", "InputError", "MissingFileError", "TandaError", "main"]


def main() -> None:
    """Run the command line; ``pipeline.edge`` says what becomes of errors."""
    from pipeline.__main__ import main as start

    start()
