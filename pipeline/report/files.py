"""The report's files: safe names, written whole."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from pathlib import Path

from jobs.storage import check_plain, digest, open_plain, plain_folder, read_plain

# Names of files made from names that people chose.


def file_name(text: str) -> str:
    """A name that every file system and browser takes, and that no other text has.

    Letters, digits, dots, dashes and underscores stay; a name that held anything else gets a digest at its end.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80]
    return plain if plain == text else f"{plain or 'unnamed'}-{digest(text)[:6]}"


# A report's folder: derived files, each replaced whole and only when its bytes changed.


def publish(folder: Path, files: Mapping[str, bytes], *, own: tuple[str, ...]) -> None:
    """Make ``folder`` hold these files; in the sub-folders ``own``, files of earlier reports are removed.

    Nothing is synced: a report lost with the power is made again from storage.
    """
    plain_folder(folder)
    for name in sorted({str(Path(name).parent) for name in files}):
        plain_folder(folder / name)
    for name, content in files.items():
        replace(folder / name, content)
    for name in own:
        home = folder / name
        check_plain(home)
        for path in sorted(home.iterdir()) if home.is_dir() else ():
            if f"{name}/{path.name}" not in files and path.is_file() and not path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write a file whole; untouched when it holds these bytes already."""
    if _same(path, content):
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open_plain(temporary, "xb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _same(path: Path, content: bytes) -> bool:
    try:
        return path.lstat().st_size == len(content) and read_plain(path) == content
    except (OSError, ValueError):
        return False
