"""A copy of the code as submitted, so that editing the checkout cannot change a queued job."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from slurm.owned import own_folder, seal

PACKAGES = ("jobs", "pipeline", "slurm")
HOME = Path(__file__).resolve().parents[1]


def snapshot(folder: Path) -> None:
    """Copy the three packages into a new folder, caches left out, which this user alone can change."""
    own_folder(folder)
    for package in PACKAGES:
        shutil.copytree(HOME / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))
    # Jobs would make these under their tasks' umask, and then others could put bytecode of theirs into them.
    for source in {path.parent for path in folder.rglob("*.py")}:
        (source / "__pycache__").mkdir()
    seal(folder)  # the copies have the modes of the originals


def commit() -> str | None:
    """The commit of the checkout that this code stands in, ``-dirty`` added when it was edited; None outside git."""
    command = ["git", "-C", str(HOME), "describe", "--always", "--dirty", "--abbrev=12", "--match", ""]
    try:
        top = subprocess.run(
            ["git", "-C", str(HOME), "rev-parse", "--show-toplevel"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        if Path(top.stdout.strip()).resolve() != HOME:
            return None  # installed inside somebody else's repository
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
