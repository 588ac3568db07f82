"""The shared storage: its layout, and the only ways in which anything is written to it."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from jobs.errors import DamagedFileError

ID_LENGTH = 16
OWNER_WRITES = 0o644  # for what others may read and not change, whatever the umask
LINK = "is a link: on a storage nothing is opened through one; see who made it, and remove it"


def digest(value: object) -> str:
    """The id of a JSON value: the first 16 hexadecimal digits of the SHA-256 of its canonical form."""
    canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.sha256(canonical).hexdigest()[:ID_LENGTH]


def open_plain(path: Path, mode: str = "rb", *, permissions: int = 0o666) -> IO[Any]:
    """Open a file that is no link; raises OSError, saying so, for one that is.

    Whoever shares the storage could put a link there, and so have another file of ours read or written. (Its twin
    is in ``slurm.owned``: these two packages know nothing of each other.)
    """

    def opener(name: str, flags: int) -> int:
        try:
            return os.open(name, flags | os.O_NOFOLLOW, permissions)
        except OSError as error:
            if error.errno == errno.ELOOP:
                error.strerror = LINK
            raise

    return open(path, mode, opener=opener)


def plain_folder(folder: Path) -> Path:
    """The folder, made if missing; raises OSError when a link is in its place."""
    folder.mkdir(parents=True, exist_ok=True)
    check_plain(folder)
    return folder


def check_plain(path: Path) -> None:
    """Raise OSError for a link, whatever it points to."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, LINK, str(path))


def touch(path: Path) -> None:
    """Make a file if it is missing, and say that it was written now."""
    with open_plain(path, "ab") as file:
        os.utime(file.fileno())


def write_whole(path: Path, *parts: bytes, permissions: int = 0o666) -> None:
    """Write a file whole or not at all; raises OSError and leaves the old file when it can't."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open_plain(temporary, "xb", permissions=permissions) as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        # Of a write that failed, the system says what but not where, or names the temporary file.
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: object, *, permissions: int = 0o666) -> None:
    """Write a JSON document whole, indented for people who look."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    write_whole(path, orjson.dumps(value, option=options), permissions=permissions)


def read_plain(path: Path) -> bytes:
    """A file's bytes; raises FileNotFoundError, or ValueError, as for one that is damaged, if it is a link."""
    try:
        with open_plain(path) as file:
            return bytes(file.read())
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamagedFileError(f"{path}: {error.strerror}") from error
        raise


def read_json(path: Path) -> Any:
    """Read a JSON document; raises FileNotFoundError, or ValueError naming the file if it is not JSON."""
    try:
        return orjson.loads(read_plain(path))
    except orjson.JSONDecodeError as error:
        raise DamagedFileError(f"{path}: not a JSON document: {error}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_folder(temporary: Path, final: Path) -> bool:
    """Rename a finished folder into place; False when another writer was first, and its folder stands."""
    for path in temporary.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(temporary)
    try:
        temporary.rename(final)
    except OSError:
        # rename(2) refuses a target that is a non-empty folder: somebody published the same id before us.
        if not final.is_dir():
            raise
        return False
    sync_folder(final.parent)
    return True


def claim(folder: Path, *, permissions: int = 0o777) -> bool:
    """Create a folder exclusively: exactly one of any number of claimants, on any node, gets True."""
    try:
        folder.mkdir(permissions)
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Storage:
    """The folders of one shared storage; nothing is made until it is written to."""

    root: Path

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def vectors(self) -> Path:
        return self.root / "vectors"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def searches(self) -> Path:
        return self.root / "searches"

    @property
    def submissions(self) -> Path:
        return self.root / "submissions"

    @property
    def local(self) -> Path:
        return self.root / "local"

    @property
    def locks(self) -> Path:
        """Where locks are: anybody may break one that is stale, so not where nobody can remove what others made."""
        return self.root / "locks"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def run(self, task_id: str) -> Path:
        """The folder of one task, whatever its stage."""
        return self.runs / task_id

    def dataset(self, task_id: str) -> Path:
        """The published data set of a preprocess task."""
        return self.datasets / task_id

    def search(self, search_id: str) -> Path:
        return self.searches / search_id

    def sizes(self, files: Iterable[Path]) -> dict[str, int]:
        """What a record says of its files: path relative to the storage -> size in bytes."""
        return {str(path.relative_to(self.root)): path.stat().st_size for path in files}
