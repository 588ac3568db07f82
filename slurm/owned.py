"""Files and folders that are this user's alone, on a storage to which others write too.

What is run (code, pickles, lists of commands) is taken only from what this user owns and nobody else can change; what
is opened by a fixed name is never opened through a link, which somebody else may have put there to have another file
read or written. Nothing but the standard library is imported here: it is on the way of every task's start.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sharedfs.faults import patient
from sharedfs.files import LINK, open_plain

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_own(path: Path, uid: int | None = None) -> None:
    """Raise PermissionError, saying why, unless a path is a user's own (this one's) and only they can change it."""
    _check(path, path.lstat(), uid)


def _check(path: Path, facts: os.stat_result, uid: int | None) -> None:
    owner = os.geteuid() if uid is None else uid
    if stat.S_ISLNK(facts.st_mode):
        wrong = LINK
    elif facts.st_uid != owner:
        wrong = f"belongs to user {facts.st_uid}, not to user {owner}: what it holds is not used"
    elif facts.st_mode & OTHERS_WRITE:
        wrong = "can be changed by others: what it holds is not used; look at it, then `chmod go-w`"
    else:
        return
    raise PermissionError(errno.EPERM, wrong, str(path))


@patient
def read_own(path: Path, uid: int | None = None) -> str:
    """The text of a user's own file (this one's); raises OSError for one that another made or can change."""
    with open_plain(path, "r") as file:
        # Asked of the open file: what lies under its name may be another by now.
        _check(path, os.fstat(file.fileno()), uid)
        return str(file.read())


def own_folder(folder: Path) -> Path:
    """The folder, made if missing, which only this user can change; raises PermissionError for any other."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o755, exist_ok=True)
    check_own(folder)
    pass_no_rights_on(folder)
    return folder


def pass_no_rights_on(folder: Path) -> None:
    """Let what is made in a folder have the rights that the umask leaves, not those of an inherited access list."""
    with suppress(OSError):  # there is none, or the file system has no such lists
        os.removexattr(folder, "system.posix_acl_default")


@contextmanager
def owner_writes() -> Iterator[None]:
    """For the length of the block, let what others' code creates be writable by this user alone."""
    before = os.umask(0o077)
    os.umask(before | OTHERS_WRITE)
    try:
        yield
    finally:
        os.umask(before)


def seal(folder: Path) -> None:
    """Take from everybody else the right to change anything in a folder: copied modes, access control lists."""
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if mode & OTHERS_WRITE and not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode) & ~OTHERS_WRITE)


def make_sticky(folder: Path) -> bool:
    """Let nobody rename or remove what others have in a folder; False where others still can: only its owner may."""
    facts = folder.stat()
    if facts.st_mode & stat.S_ISVTX:
        return True
    if facts.st_uid == os.geteuid():
        folder.chmod(stat.S_IMODE(facts.st_mode) | stat.S_ISVTX)
        return True
    return not facts.st_mode & OTHERS_WRITE


def shell_checks(folders: Iterable[Path]) -> list[str]:
    """``check_own`` in a batch script, which Slurm keeps where no other user can change it."""
    names = " ".join(shlex.quote(str(folder)) for folder in dict.fromkeys(folders))
    return [
        "# Others write to this storage too: nothing is run from a folder that is not this user's own.",
        f"for folder in {names}; do",
        '    if [ ! -O "$folder" ] || [ -L "$folder" ] || [ -n "$(find "$folder" -maxdepth 0 -perm /022)" ]; then',
        '        echo "tanda: $folder: not a folder that only $(id -un) can change: nothing was run" >&2',
        "        exit 1",
        "    fi",
        "done",
    ]
