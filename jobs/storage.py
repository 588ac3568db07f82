"""The shared storage: its layout, the only ways in which anything is written to it, and what to do when it is full."""

from __future__ import annotations

import errno
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from jobs.errors import DamagedFileError

ID_LENGTH = 16
BLOCK_BYTES = 65_536
OWNER_WRITES = 0o644  # for what others may read and not change, whatever the umask
LINK = "is a link: on a storage nothing is opened through one; see who made it, and remove it"

# A disk that fills up is often emptied again soon; a node is not held for longer than this, all waits of a task added.
MAX_WAIT_S = 300.0
POLL_S = 5.0
PROBE_BYTES = bytes(1 << 20)

_TRANSIENT = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
}
_REFUSED = {errno.EACCES, errno.EPERM}


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
    """Make a file if it is missing, and set its time to now."""
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
        # The system's error for a write that failed names no file, or the temporary one.
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: object, *, permissions: int = 0o666) -> None:
    """Write a JSON document whole, indented for people who look."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    write_whole(path, orjson.dumps(value, option=options), permissions=permissions)


def read_plain(path: Path | str) -> bytes:
    """A file's bytes; raises FileNotFoundError, or ValueError, as for one that is damaged, if it is a link."""
    # By the system's own calls: a report reads 20,000 small files, and half the time of each would be pathlib's.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamagedFileError(f"{path}: {LINK}") from error
        raise
    try:
        blocks = []
        # A whole file in one read is the rule: then there is no second one, which would only say that it is over.
        while block := os.read(descriptor, BLOCK_BYTES):
            blocks.append(block)
            if len(block) < BLOCK_BYTES:
                break
        return b"".join(blocks)
    finally:
        os.close(descriptor)


def read_json(path: Path | str) -> Any:
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
    """Rename a finished folder into place; False when another writer was first, and its folder stays."""
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
        """Files as a record lists them: path relative to the storage -> size in bytes."""
        return {str(path.relative_to(self.root)): path.stat().st_size for path in files}


# When the storage is full or read-only: which errors those are, their message, and waiting for room.


def is_transient(error: BaseException) -> bool:
    """Whether the storage is full or read-only for now: the same may go well once there is room."""
    return _errno(error) in _TRANSIENT


def describe_error(error: BaseException, root: Path) -> str | None:
    """One line for an error of the storage (or of a file that may not be read): what, where, and what to do.

    None for every other error.
    """
    number = _errno(error)
    where = getattr(error, "filename", None) or root
    if number in _TRANSIENT:
        advice = "`tanda gc` lists what can go" if number != errno.EROFS else "mount it for writing"
        return (
            f"{where}: {_TRANSIENT[number]}; "
            f"what was saved is kept: {advice}, then `tanda submit` again goes on from it"
        )
    if number == errno.ELOOP and isinstance(error, OSError):
        return f"{where}: {error.strerror}"
    if number in _REFUSED:
        return f"{where}: user {os.getuid()} may not do that here; grant it, then `tanda submit` again goes on"
    return None


class WaitBudget:
    """How much waiting for room is left to this process."""

    def __init__(self, interrupted: Callable[[], bool], total_s: float | None = None) -> None:
        self._interrupted = interrupted
        self._left_s = MAX_WAIT_S if total_s is None else total_s

    def wait(self, folder: Path) -> bool:
        """Wait until something can be written to the folder again; False when asked to stop, or out of time."""
        while self._left_s > 0 and not self._interrupted():
            began = time.monotonic()
            time.sleep(min(POLL_S, self._left_s))
            writable = _writable(folder)
            self._left_s -= time.monotonic() - began
            if writable:
                return True
        return False


def _errno(error: BaseException) -> int | None:
    for fault in (error, error.__cause__):
        if isinstance(fault, OSError):
            # numpy reports a full disk by its message alone, without an errno.
            short = fault.errno is None and " requested and " in str(fault) and str(fault).endswith("written")
            return errno.ENOSPC if short else fault.errno
    return None


def _writable(folder: Path) -> bool:
    probe = folder / f".room-{uuid.uuid4().hex[:12]}.tmp"
    try:
        with probe.open("xb") as file:
            file.write(PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return True
