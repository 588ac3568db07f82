"""A report's folder: derived files, each replaced whole and only when its bytes changed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path


def publish(folder: Path, files: Mapping[str, bytes], *, own: tuple[str, ...]) -> None:
    """Make ``folder`` hold these files; in the sub-folders ``own``, files of earlier reports are removed.

    Nothing is synced: a report lost with the power is made again from storage.
    """
    for name in sorted({str(Path(name).parent) for name in files}):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        replace(folder / name, content)
    for name in own:
        home = folder / name
        for path in sorted(home.iterdir()) if home.is_dir() else ():
            if f"{name}/{path.name}" not in files and path.is_file() and not path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write a file whole; untouched when it holds these bytes already."""
    if _same(path, content):
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _same(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False
