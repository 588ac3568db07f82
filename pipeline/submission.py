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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import orjson

from jobs import plugins
from jobs.storage import Storage
from pipeline.plan import Plan
from sharedfs.clock import SYSTEM, Clock
from sharedfs.documents import read_json, write_json
from sharedfs.errors import DamagedFileError
from sharedfs.files import OWNER_WRITES, claim, refresh_listing, write_whole
from sharedfs.lock import Lock, hold
from sharedfs.typed_json import Undecodable, decode
from slurm.array import array_id
from slurm.by_hand import noted_jobs
from slurm.commands import warn_once
from slurm.errors import SlurmError, SubmitError
from slurm.executors import Executor
from slurm.job_state import JobIdentity
from slurm.owned import check_own, make_sticky, own_folder, pass_no_rights_on, seal
from slurm.query import find_live

_ELEMENT = re.compile(r"\d+(_\d+)?")
UNGUARDED = "others can rename or replace your files in it; ask its owner to run `chmod +t {}` once"
NAME, SOURCE = "submission.json", "manifest.json"  # in a submission's folder
PACKAGES = ("jobs", "pipeline", "sharedfs", "slurm")
HOME = Path(__file__).resolve().parents[1]


# What was handed to an executor, when and by whom: one folder under ``submissions/`` each, never changed by others.


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """One array as queued: ``elements`` maps an executor's element id to the ids of the tasks in it.

    ``name``, ``comment`` and ``cluster`` are what the scheduler shows of its jobs, None where it is not recorded.
    ``named_cluster`` is the cluster that has to be named to reach them, None for that of the machine that submitted.
    """

    stage: str
    group: str
    job_ids: tuple[str, ...]
    elements: Mapping[str, tuple[str, ...]]
    mem_gb: float
    name: str | None = None
    comment: str | None = None
    cluster: str | None = None
    named_cluster: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A submission's own file; ``held`` are tasks that could not be queued, with the reason.

    ``remade`` are tasks that were done and are made again: how often they were queued before counts for nothing.
    ``unconfirmed`` are arrays that Slurm was or is being asked to queue, and whose ids are not here yet: left so by a
    submitter that was killed, or got no answer. The next one cancels what became of them.
    ``by_hand`` are scripts that a person submits, by name, with their elements by index: the jobs that they became are
    among the ``arrays`` when it is read.
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
    unconfirmed: tuple[Queued, ...] = ()
    uid: int | None = None  # whose it is: whose local queue its elements are in; None in those of earlier versions
    by_hand: Mapping[str, Queued] = field(default_factory=dict)
    continues: str | None = None  # the submission of which it tries failures again, or makes up for the closing job
    notes_closing: bool = False  # its closing job notes that it is done; that of an earlier version does not

    def write(self, storage: Storage) -> None:
        path = storage.submissions / self.name / NAME
        write_json(path, asdict(self), permissions=OWNER_WRITES)

    def sent(self, array: Queued) -> JobIdentity:
        """What the scheduler must show of the jobs of an array, if it shows anything."""
        return JobIdentity(
            submitted=self.time, name=array.name, comment=array.comment, uid=self.uid, cluster=array.cluster
        )

    @property
    def tasks(self) -> frozenset[str]:
        return frozenset(task for array in self.arrays for tasks in array.elements.values() for task in tasks)

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
    storage: Storage,
    *,
    manifest: str,
    executor: str,
    git_commit: str | None,
    continues: str | None = None,
    clock: Clock = SYSTEM,
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
        continues=continues,
        notes_closing=True,
    )


def read(folder: Path) -> Submission:
    """Read a submission; raises FileNotFoundError, or ValueError naming a file that is broken, or that somebody may
    have written in its owner's name."""
    path = folder / NAME
    try:
        document = read_json(path)
        uid = _owner(folder, path)
        submission = decode(Submission, document)
    except Undecodable as error:
        raise DamagedFileError(f"{path}: not a submission: {error}") from error
    for element in (element for array in submission.arrays for element in array.elements):
        if not _ELEMENT.fullmatch(element):
            raise DamagedFileError(f"{path}: not a submission: {element!r}: not an element's id")
    # Not what it says: anybody can write a submission, and only their own, under its own name. Those of earlier
    # versions say nothing.
    owner = None if submission.uid is None and uid == os.geteuid() else uid
    noted = (_as_job(array, job) for name, array in submission.by_hand.items() for job in noted_jobs(folder, name))
    return replace(submission, name=folder.name, uid=owner, arrays=(*submission.arrays, *noted))


def _as_job(script: Queued, job: str) -> Queued:
    elements = {f"{job}_{index}": tasks for index, tasks in script.elements.items()}
    return replace(script, job_ids=(job,), elements=elements)


def _owner(folder: Path, path: Path) -> int:
    """Whose a submission is; raises DamagedFileError where another could have put it there, to have them cancel a job
    of theirs: a file of theirs that the group may write, moved from a run's folder and filled again."""
    uid = folder.lstat().st_uid
    for checked in (folder, path):
        try:
            check_own(checked, uid)
        except PermissionError as error:
            raise DamagedFileError(f"{checked}: {error.strerror}") from error
    return uid


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


def cancel_unconfirmed(storage: Storage, executor: Executor, cluster: str | None) -> None:
    """Cancel what earlier submitters of this user's queued without a record of it: nobody would wait for it, or retry
    it. Its tasks go on from their checkpoints in what is queued now.

    What went to another than this named ``cluster`` waits for a submission to that one.

    Raises SubmitError where Slurm does not say what is in its queue.
    """
    mine = [made for made in read_all(storage) if made.uid == os.geteuid()]
    recorded = {job for made in mine for array in made.arrays for job in array.job_ids}
    for made in mine:
        here = [array for array in made.unconfirmed if array.named_cluster == cluster]
        for array in here:
            try:
                jobs = [job for job in find_live(made.sent(array), cluster) if array_id(job) not in recorded]
                executor.cancel(jobs)
            except SlurmError as error:
                raise SubmitError(str(error)) from error
            if jobs:
                listed = ", ".join(sorted({array_id(job) for job in jobs}))
                print(f"tanda: {listed} cancelled: queued by a submission that was interrupted", file=sys.stderr)
        if here:
            elsewhere = tuple(array for array in made.unconfirmed if array.named_cluster != cluster)
            replace(made, unconfirmed=elsewhere).write(storage)


def newest(storage: Storage, manifest: str, stage: str | None = None) -> Submission | None:
    """The newest submission of a manifest that queued anything, or anything of that stage; raises as ``read`` does."""
    # By their names, which begin with the time: of hundreds of submissions only those of this manifest are read.
    folders = sorted(storage.submissions.glob(f"*-{manifest}*"), reverse=True) if storage.submissions.is_dir() else ()
    for folder in folders:
        try:
            submission = read(folder)
        except (FileNotFoundError, NotADirectoryError, DamagedFileError):  # ``read_all`` warns of a damaged one
            continue
        queued = {array.stage for array in submission.arrays if array.elements}
        if submission.manifest == manifest and queued and (stage is None or stage in queued):
            return submission
    return None


@contextmanager
def exclusively(storage: Storage, clock: Clock = SYSTEM) -> Iterator[Lock]:
    """Hold the storage's submission lock; waits for others, and says for whom.

    Two people who submit at once would otherwise both queue what they share.
    """
    with hold(
        storage.locks / "submit", report=lambda message: print(f"tanda: {message}", file=sys.stderr), clock=clock
    ) as lock:
        # What the one before has submitted this moment, on another machine, is to be seen.
        refresh_listing(storage.submissions)
        yield lock


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
