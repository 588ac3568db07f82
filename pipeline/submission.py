"""What was handed to an executor, when and by whom: one folder under ``submissions/`` each, with its code."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import orjson

from jobs import plugins
from jobs.storage import Storage
from pipeline.plan import Plan
from sharedfs.clock import SYSTEM, Clock
from sharedfs.documents import read_json, write_json
from sharedfs.errors import DamagedFileError
from sharedfs.files import OWNER_WRITES, claim, write_whole
from sharedfs.lock import Lock, hold
from sharedfs.typed_json import Undecodable, decode
from slurm.commands import warn_once
from slurm.job_state import JobIdentity
from slurm.owned import make_sticky, own_folder, pass_no_rights_on, seal

_ELEMENT = re.compile(r"\d+(_\d+)?")
UNGUARDED = "others can rename or replace your files in it; ask its owner to run `chmod +t {}` once"
NAME, SOURCE = "submission.json", "manifest.json"  # in a submission's folder
CLOSE = "close"  # stage and group of a closing job
PACKAGES = ("jobs", "pipeline", "sharedfs", "slurm")
HOME = Path(__file__).resolve().parents[1]


# What was handed to an executor, when and by whom: one folder under ``submissions/`` each, never changed by others.


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """One array as queued: ``elements`` maps an executor's element id to the ids of the tasks in it.

    ``name``, ``comment`` and ``cluster`` are what the scheduler shows of its jobs, None where it is not recorded.
    """

    stage: str
    group: str
    job_ids: tuple[str, ...]
    elements: Mapping[str, tuple[str, ...]]
    mem_gb: float
    name: str | None = None
    comment: str | None = None
    cluster: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A submission's own file; ``held`` are tasks that could not be queued, with the reason.

    ``remade`` are tasks that were done and are made again: how often they were queued before counts for nothing.
    """

    name: str
    manifest: str
    executor: str
    user: str
    time: float
    git_commit: str | None
    arrays: tuple[Queued, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)
    remade: tuple[str, ...] = ()
    uid: int | None = None  # whose it is: whose local queue its elements are in; None in those of earlier versions

    def write(self, storage: Storage) -> None:
        path = storage.submissions / self.name / NAME
        write_json(path, asdict(self), permissions=OWNER_WRITES)

    def sent(self, array: Queued) -> JobIdentity:
        """What the scheduler must show of the jobs of an array, if it shows anything."""
        return JobIdentity(
            submitted=self.time, name=array.name, comment=array.comment, uid=self.uid, cluster=array.cluster
        )

    def with_array(self, array: Queued) -> Submission:
        return replace(self, arrays=(*self.arrays, array))


def guard(storage: Storage) -> list[Path]:
    """Make the folders that hold queued code sticky; returns those whose owner has to do it.

    Without the sticky bit another user could swap a folder of ours. The jobs check that too, just before they use it.
    """
    machine = storage.local / socket.gethostname()
    for folder in (storage.submissions, machine):
        folder.mkdir(parents=True, exist_ok=True)
    folders = (storage.root, storage.submissions, storage.local, machine)
    return [folder for folder in folders if not make_sticky(folder)]


def begin(
    storage: Storage, *, manifest: str, executor: str, git_commit: str | None, clock: Clock = SYSTEM
) -> Submission:
    """Make a new submission's folder ``<time>-<name>``, by exclusive creation; others may read it, not change it."""
    storage.submissions.mkdir(parents=True, exist_ok=True)
    now = clock.now()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    name, again = f"{stamp}-{manifest}", 1
    while not claim(storage.submissions / name, permissions=0o755):
        again += 1
        name = f"{stamp}-{manifest}-{again}"
    pass_no_rights_on(storage.submissions / name)
    return Submission(
        name=name,
        manifest=manifest,
        executor=executor,
        user=getpass.getuser(),
        time=now,
        git_commit=git_commit,
        uid=os.geteuid(),
    )


def read(folder: Path) -> Submission:
    """Read a submission; raises FileNotFoundError, or ValueError naming a broken file."""
    path = folder / NAME
    try:
        submission = decode(Submission, read_json(path))
    except Undecodable as error:
        raise DamagedFileError(f"{path}: not a submission: {error}") from error
    for element in (element for array in submission.arrays for element in array.elements):
        if not _ELEMENT.fullmatch(element):
            raise DamagedFileError(f"{path}: not a submission: {element!r}: not an element's id")
    # Not what it says: anybody can write a submission, and only their own.
    return submission if submission.uid is None else replace(submission, uid=path.lstat().st_uid)


def read_all(storage: Storage) -> list[Submission]:
    """Every submission, oldest first; one being written has no file yet, a damaged one is ignored with a warning."""
    found = []
    if storage.submissions.is_dir():
        for folder in sorted(storage.submissions.iterdir()):
            try:
                found.append(read(folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except DamagedFileError as error:
                # Nobody sees its jobs any more: worth a warning, but it must not hide all the others.
                warn_once(f"{error}; ignored")
    return sorted(found, key=lambda submission: submission.time)


def exclusively(storage: Storage, clock: Clock = SYSTEM) -> AbstractContextManager[Lock]:
    """Hold the storage's submission lock; waits for others, and says for whom.

    Two people who submit at once would otherwise both queue what they share.
    """
    return hold(
        storage.locks / "submit", report=lambda message: print(f"tanda: {message}", file=sys.stderr), clock=clock
    )


# The manifest and the code as submitted: editing the checkout cannot change a queued job.


def write_source(folder: Path, plan: Plan) -> None:
    """The manifest as submitted, groups and runs in the order that a person gave them: the report's order."""
    document = orjson.dumps(plan.manifest.document, option=orjson.OPT_INDENT_2)
    write_whole(folder / SOURCE, document, permissions=OWNER_WRITES)


def snapshot(folder: Path) -> None:
    """Copy our packages and the plugins in use into a new folder, caches left out, which this user alone can change."""
    own_folder(folder)
    for package in PACKAGES:
        shutil.copytree(HOME / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))
    plugins.copy_into(folder)
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
    except (OSError, subprocess.SubprocessError):  # there is no git, no repository, or no answer: nothing depends on it
        return None
