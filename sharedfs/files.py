"""The only ways in which anything is written to a storage that others write to too: whole, durably, never by a link.

Nothing but the standard library is imported here: it is on the way of every task's start.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from sharedfs.errors import DamagedFileError, FileAccessError
from sharedfs.faults import AWAY, patient

BLOCK_BYTES = 65_536
# For what others may read and not change: asked for, and not left to the umask, which an access control list overrides.
OWNER_WRITES = 0o644
UMASK = "TANDA_UMASK"  # in the environment, in octal: of what tasks write
LINK = "is a link: on a storage nothing is opened through one; see who made it, and remove it"
NO_FILE = "is no ordinary file; see who made it, and remove it"


def open_plain(path: Path, mode: str = "rb", *, permissions: int = 0o666) -> IO[Any]:
    """Open a file that is no link and no pipe or the like; raises OSError, saying so, for one that is.

    Whoever shares the storage could put a link there, and so have another file of ours read or written, or a pipe, and
    so have us wait for ever.
    """

    def opener(name: str, flags: int) -> int:
        try:
            descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, permissions)
        except OSError as error:
            if error.errno == errno.ELOOP:
                error.strerror = LINK
            if error.errno == errno.ENXIO:  # to write to a pipe that nobody reads, to open a socket
                raise FileAccessError(f"{path}: {NO_FILE}") from error
            raise
        if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode) and not stat.S_ISDIR(mode):
            os.close(descriptor)
            raise FileAccessError(f"{path}: {NO_FILE}")
        return descriptor

    return open(path, mode, opener=opener)


@patient
def plain_folder(folder: Path) -> Path:
    """The folder, made if missing; raises OSError when a link is in its place."""
    folder.mkdir(parents=True, exist_ok=True)
    check_plain(folder)
    return folder


def check_plain(path: Path) -> None:
    """Raise OSError for a link, whatever it points to."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, LINK, str(path))


def take_umask() -> None:
    """Give this process the umask that its environment names for what tasks write, if any."""
    if os.environ.get(UMASK):
        os.umask(int(os.environ[UMASK], 8))


def touch(path: Path) -> None:
    """Make a file if it is missing, and set its time to now."""
    with open_plain(path, "ab") as file:
        os.utime(file.fileno())


@patient
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


@patient
def read_plain(path: Path | str, *, most_bytes: int | None = None) -> bytes:
    """A file's bytes; raises FileNotFoundError, or ValueError, as for one that is damaged, where it is a link, a pipe
    or the like, or has more than ``most_bytes``."""
    # By the system's own calls: a report reads 20,000 small files, and half the time of each would be pathlib's.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise DamagedFileError(f"{path}: {LINK if error.errno == errno.ELOOP else NO_FILE}") from error
        raise
    try:
        facts = os.fstat(descriptor)
        if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):  # which the first read refuses
            raise DamagedFileError(f"{path}: {NO_FILE}")
        if most_bytes is not None and facts.st_size > most_bytes:
            raise DamagedFileError(
                f"{path}: has {facts.st_size} bytes, more than any of ours: see who wrote it, and remove it"
            )
        blocks = []
        # Until a read gives nothing: one that gives less than it was asked for may do so in the middle of a file.
        while block := os.read(descriptor, BLOCK_BYTES):
            blocks.append(block)
        return b"".join(blocks)
    finally:
        os.close(descriptor)


@patient
def read_tail(path: Path, lines: int) -> str:
    """A log's last lines, bytes that are no UTF-8 replaced; empty where there is none, OSError for a link."""
    try:
        with open_plain(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 200 * lines - 4096))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


@patient
def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@patient
def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@patient
def publish_folder(temporary: Path, final: Path) -> bool:
    """Rename a finished folder into place; False when another writer was first, and its folder stays."""
    if not temporary.exists() and final.is_dir():
        # An earlier try had its rename done, though the file system answered with a fault.
        sync_folder(final.parent)
        return True
    for path in temporary.rglob("*"):
        if path.is_file():
            sync_file(path)
    sync_folder(temporary)
    try:
        temporary.rename(final)
    except OSError as error:
        # rename(2) refuses a target that is a non-empty folder: somebody published the same id before us. The error is
        # asked first, as that folder may be gone by now: a lock's is, once it is left.
        if error.errno in AWAY or (error.errno not in (errno.ENOTEMPTY, errno.EEXIST) and not final.is_dir()):
            raise  # where the file system is away, the folder that is there may be ours
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


def refresh_listing(folder: Path) -> None:
    """Have what is next looked for in a folder answered by the file server, and not from this node's memory.

    An NFS client keeps a folder's listing, and that a name was not there, for up to a minute: what another node has
    written meanwhile is missing. One that has changed the folder itself asks again.
    """
    probe = folder / f".look-{uuid.uuid4().hex[:12]}"
    with suppress(OSError):  # there is no such folder, or this user may not write there: then it is what was kept
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        probe.unlink()
