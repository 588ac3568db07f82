"""One storage, two users who both write to it: neither can have the other run, read or write what is not theirs."""

from __future__ import annotations

import grp
import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_fixture import ONLY
from lab_fixture import GROUP, Lab, lab
from rig import DEBIAN13, Rig
from slurm_fixture import wait_for

from slurm.executors.local import LocalQueue

__all__ = ["lab"]

ALICE, BOB = "alicex", "bobx"
SIX = ", ".join(f"r{seed}: {{seed: {seed}}}" for seed in range(1, 7))
LINKS = ("log.txt", "metrics.jsonl", "record.json", "progress.json", "attempts", "exits")
# Everything below a folder, changed in one way or another.
WRITE = "open(sys.argv[1], 'ab')"
CREATE = "open(sys.argv[1] + '/new', 'x')"
RENAME = "os.rename(sys.argv[1], sys.argv[1] + '-away')"
REMOVE = "os.unlink(sys.argv[1])"


def changeable_by_others(folder: Path) -> list[str]:
    """What in a folder others may write to, sticky folders left out."""
    paths = [folder, *folder.rglob("*")]
    modes = {str(path): path.lstat().st_mode for path in paths}
    return [path for path, mode in modes.items() if mode & 0o022 and not mode & stat.S_ISVTX and not stat.S_ISLNK(mode)]


def submission_of(storage: Path) -> Path:
    (folder,) = (storage / "submissions").iterdir()
    return folder


def queue_of(lab: Lab, storage: Path, user: str) -> Path:
    return storage / "local" / socket.gethostname() / str(lab.uid(user))


def states(lab: Lab, user: str, manifest: Path) -> set[str]:
    return set(lab.status(user, manifest)["summary"])


@pytest.fixture(scope="module")
def at_work(lab: Lab) -> Iterator[tuple[Path, Path]]:
    """A storage of the group's on which alice's local processes train for long, and her manifest."""
    storage = lab.storage("at-work", owner=ALICE, mode=0o2770)
    manifest = lab.manifest(storage, epochs=100_000)
    lab.tanda(ALICE, "submit", manifest, "--executor", "local")
    wait_for(lambda: any((storage / "runs").glob("*/metrics.jsonl")))
    yield storage, manifest
    lab.tanda(ALICE, "cancel", manifest)
    # The closing job, too, is to be over before the folder goes.
    wait_for(lambda: not LocalQueue(queue_of(lab, storage, ALICE)).supervised())


def test_a_colleague_can_change_nothing_of_what_is_queued(lab: Lab, at_work: tuple[Path, Path]) -> None:
    storage, _ = at_work
    submission, queue = submission_of(storage), queue_of(lab, storage, ALICE)
    files = [path for folder in (submission, queue) for path in folder.rglob("*") if path.is_file()]
    assert {"entry.py", "elements.json", "manifest.json", "submission.json", "states.json", "1.json"} <= {
        path.name for path in files
    }
    assert changeable_by_others(submission) == changeable_by_others(queue) == []
    for name in ("code/jobs/entry.py", "manifest.json", "submission.json"):
        assert not lab.may(BOB, WRITE, submission / name) and not lab.may(BOB, REMOVE, submission / name)
    (elements, *_) = submission.glob("*/elements.json")
    assert not lab.may(BOB, WRITE, elements) and not lab.may(BOB, CREATE, elements.parent)
    assert not lab.may(BOB, CREATE, submission) and not lab.may(BOB, CREATE, submission / "code/jobs")
    for name in ("arrays", "orders"):
        assert not lab.may(BOB, CREATE, queue / name)
    for name in ("arrays/1.json", "states.json", "supervisor.lock"):
        assert not lab.may(BOB, WRITE, queue / name)


def test_a_colleague_can_swap_none_of_the_folders(lab: Lab, at_work: tuple[Path, Path]) -> None:
    storage, _ = at_work
    queue = queue_of(lab, storage, ALICE)
    for folder in (submission_of(storage), storage / "submissions", storage / "local", queue.parent, queue):
        assert not lab.may(BOB, RENAME, folder), folder


def test_a_colleague_sees_how_it_stands_and_runs_his_own_beside_it(lab: Lab, at_work: tuple[Path, Path]) -> None:
    storage, manifest = at_work
    assert "running" in states(lab, BOB, manifest)
    # Whose it is, for people and for programs; his login's umask is not what counts.
    assert {task["user"] for task in lab.status(BOB, manifest)["tasks"] if task["job"]} == {ALICE}
    assert {task["user"] for task in lab.status(ALICE, manifest)["tasks"]} == {None}
    assert f"({ALICE})" in lab.tanda(BOB, "status", manifest)
    lab.tanda(BOB, "report", manifest)
    lab.tanda(ALICE, "report", manifest)
    # The same ids in his queue are other elements: to cancel what is hers must not end what is his.
    own = lab.manifest(storage, name="own", runs="b: {seed: 7}")
    lab.tanda(BOB, "run", own, status=None)
    assert states(lab, BOB, own) == {"done"}
    (trained,) = (path for path in (storage / "runs").glob("*/model.pt") if path.stat().st_uid == lab.uid(BOB))
    assert stat.S_IMODE(trained.stat().st_mode) == 0o660
    before = lab.status(ALICE, manifest)["summary"]
    cancelled = lab.call(BOB, "-m", "pipeline", "cancel", manifest)
    assert cancelled.returncode == 2
    assert cancelled.stderr.splitlines()[0] == "0 tasks cancelled"
    assert f" left to {ALICE}, who queued " in cancelled.stderr
    assert lab.status(ALICE, manifest)["summary"] == before
    # What needs her local processes' results has nothing of his to wait for.
    same = lab.manifest(storage, name="same", epochs=100_000)
    same.write_text(same.read_text().replace("evaluate: {cpus: 1", "evaluate: {cpus: 2"))
    assert "nothing to submit" in lab.tanda(BOB, "submit", same, "--executor", "local")


@pytest.mark.parametrize(("owner", "mode"), [(ALICE, 0o770), (ALICE, 0o2770), ("root", 0o2770), ("root", 0o777)])
def test_folders_keep_their_group_and_get_a_sticky_bit(lab: Lab, owner: str, mode: int) -> None:
    storage = lab.storage(f"modes-{owner}-{mode:o}", owner=owner, mode=mode)
    manifest = lab.manifest(storage)
    done = lab.call(ALICE, "-m", "pipeline", "submit", manifest, "--executor", "inline")
    assert done.returncode == 0, done.stderr
    warned = (
        f"tanda: {storage}: others can rename or replace your files in it; ask its owner to run `chmod +t {storage}`"
    )
    assert done.stderr.count(warned) == (owner == "root")
    sticky = [storage / "submissions", storage / "local", *([storage] if owner == ALICE else [])]
    assert all(path.stat().st_mode & stat.S_ISVTX for path in sticky)
    submission = submission_of(storage)
    assert changeable_by_others(submission) == []
    if mode & stat.S_ISGID:
        assert submission.stat().st_gid == storage.stat().st_gid and submission.stat().st_mode & stat.S_ISGID
        assert states(lab, BOB, manifest) == {"done"}


def test_a_queue_that_another_put_in_place_is_refused(lab: Lab) -> None:
    storage = lab.storage("swapped", owner="root", mode=0o2770)
    manifest = lab.manifest(storage)
    queue = queue_of(lab, storage, ALICE)
    mark = lab.home(ALICE) / "queue-mark"
    array = {"name": "x", "elements": [["/tmp"]], "command": ["/bin/touch", str(mark)], "folder": str(storage)}
    program = (
        "os.umask(0); q = pathlib.Path(sys.argv[1]); (q / 'arrays').mkdir(parents=True); (q / 'orders').mkdir()\n"
        "(q / 'arrays/1.json').write_text(sys.argv[2])"
    )
    assert lab.may(BOB, program, queue, json.dumps(array))
    said = lab.tanda(ALICE, "submit", manifest, "--executor", "local", status=2)
    assert f"tanda: {queue}: belongs to user {lab.uid(BOB)}, not to user {lab.uid(ALICE)}" in said
    assert "Traceback" not in said and not mark.exists()


def test_a_folder_of_code_that_another_put_in_place_is_not_run_by_the_closing_job(lab: Lab) -> None:
    storage = lab.storage("closing", owner="root", mode=0o2770)
    lab.tanda(ALICE, "submit", lab.manifest(storage), "--executor", "inline")
    submission = submission_of(storage)
    (storage / "submissions").chmod(0o2770)
    assert lab.may(
        BOB, f"{RENAME}\nshutil.copytree(sys.argv[1] + '-away', sys.argv[1], ignore=lambda *_: ['code'])", submission
    )
    said = lab.tanda(ALICE, "close", submission, status=2)
    assert f"{submission}: belongs to user {lab.uid(BOB)}" in said


def test_nothing_is_written_through_links_in_run_folders(lab: Lab) -> None:
    storage = lab.storage("links", owner=ALICE, mode=0o2770)
    manifest = lab.manifest(storage, runs=SIX)
    private = lab.home(ALICE) / "private"
    shutil.rmtree(private, ignore_errors=True)
    tasks = json.loads(lab.tanda(ALICE, "plan", manifest, "--json"))["tasks"]
    trains = [task["id"] for task in tasks if task["stage"] == "train"]
    private.mkdir()
    for name in LINKS:
        (private / name).mkdir() if "." not in name else (private / name).write_text("mine\n")
    for path in (private, *private.iterdir()):
        shutil.chown(path, ALICE, ALICE)
    for task, name in zip(trains, LINKS, strict=True):
        program = "os.umask(0o007); os.makedirs(sys.argv[1]); os.symlink(sys.argv[3], sys.argv[1] + '/' + sys.argv[2])"
        assert lab.may(BOB, program, storage / "runs" / task, name, private / name)
    lab.tanda(ALICE, "run", manifest, status=1)
    assert {path.name: path.read_text() if path.is_file() else list(path.iterdir()) for path in private.iterdir()} == {
        name: [] if "." not in name else "mine\n" for name in LINKS
    }
    found = {task["id"]: task for task in lab.status(ALICE, manifest)["tasks"]}
    ends = {name: found[task]["state"] for task, name in zip(trains, LINKS, strict=True)}
    # The others are only ever replaced, or were not needed.
    assert ends == {**dict.fromkeys(LINKS, "done"), "log.txt": "failed", "attempts": "failed"}
    logs = "".join(path.read_text() for path in submission_of(storage).rglob("*.log"))
    assert f"{trains[0]}: not started: [Errno 40] is a link" in logs
    assert "attempts: is a link" in (storage / "runs" / trains[4] / "log.txt").read_text()


@pytest.mark.parametrize("name", ["runs/{task}", "reports/small", "reports/small/plots", "locks"])
def test_a_folder_that_is_a_link_is_refused(lab: Lab, name: str) -> None:
    storage = lab.storage(f"folder-{name.replace('/', '-')}", owner=ALICE, mode=0o2770)
    manifest = lab.manifest(storage)
    task = json.loads(lab.tanda(ALICE, "plan", manifest, "--json"))["tasks"][0]["id"]
    target = lab.home(ALICE) / "documents"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    (target / "thesis.png").write_text("three years\n")
    for path in (target, target / "thesis.png"):
        shutil.chown(path, ALICE, ALICE)
    link = storage / name.format(task=task)
    program = "os.umask(0o007); os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)\nos.symlink(*sys.argv[2:0:-1])"
    assert lab.may(BOB, program, link, target)
    command = ("report", manifest) if name.startswith("reports") else ("submit", manifest, "--executor", "inline")
    said = lab.tanda(ALICE, *command, status=2)
    assert f"tanda: {link}: is a link" in said and "Traceback" not in said
    assert [path.name for path in target.iterdir()] == ["thesis.png"]


PLUGIN = """
import os, pathlib
from jobs.settings import ModelSettings, settings
from sklearn.dummy import DummyClassifier
import numpy as np

KIND = "estimator"
HERE = pathlib.Path(__file__).parent
if HERE.name == "lab":  # and not in a submission's code
    (HERE / f"ran-{os.getuid()}").touch()

@settings
class Settings(ModelSettings):
    pass

class Shares:
    def __init__(self, shares):
        self.shares, self.parameters = shares, len(shares)
    def scores(self, split):
        return np.tile(self.shares, (len(split), 1)).astype(np.float32)
    def save(self, folder):
        np.save(folder / "shares.npy", self.shares)
        return (folder / "shares.npy",)

def fit(dataset, settings, context):
    return Shares(np.bincount(dataset.splits["train"].labels, minlength=len(dataset.classes)) / 100)

def load(folder):
    return Shares(np.load(folder / "shares.npy"))
"""


def test_a_colleague_who_looks_runs_no_plugin_of_anothers(lab: Lab) -> None:
    storage = lab.storage("plugged", owner=ALICE, mode=0o2770)
    folder = lab.folder / "lab"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "shares.py").write_text(PLUGIN)
    manifest = lab.manifest(storage, runs="a: {architecture: shares}")
    manifest.write_text(f"plugins: [lab/shares.py]\n{manifest.read_text()}")
    shutil.chown(manifest, ALICE)
    mine, his = folder / f"ran-{lab.uid(ALICE)}", folder / f"ran-{lab.uid(BOB)}"
    assert "of which" in lab.tanda(BOB, "status", manifest, status=2)
    lab.tanda(ALICE, "run", manifest)
    assert mine.exists()
    assert states(lab, BOB, manifest) == {"done"}
    assert json.loads(lab.tanda(BOB, "plan", manifest, "--json"))["tasks"]
    lab.tanda(BOB, "report", manifest, "--no-plots")
    (run,) = (path.parent for path in (storage / "runs").glob("*/shares.npy"))
    assert "--plugin FILE" in lab.tanda(BOB, "predict", run, "/dev/null", status=2)
    assert not his.exists()
    assert "nothing to submit" in lab.tanda(BOB, "submit", manifest, "--executor", "local") and his.exists()


def not_the_groups(lab: Lab, storage: Path) -> list[str]:
    """What on a storage the group may not change, but for what has to be somebody's own."""
    group = grp.getgrnam(GROUP).gr_gid
    owned = [storage / name for name in ("submissions", "local", "plugins")]
    wrong = []
    for path in storage.rglob("*"):
        facts = path.lstat()
        wanted = 0o2070 if stat.S_ISDIR(facts.st_mode) else 0o060
        if path in owned or any(folder in path.parents for folder in owned):
            continue
        if facts.st_mode & wanted != wanted or facts.st_mode & 0o007 or facts.st_gid != group:
            wrong.append(f"{path} {stat.S_IMODE(facts.st_mode):o} of group {facts.st_gid}")
    return wrong


def test_the_umask_and_the_group_hold_for_all_that_any_command_writes(lab: Lab) -> None:
    storage = lab.storage("commands", owner=ALICE, mode=0o2770)
    manifest = lab.manifest(storage)
    other = lab.manifest(storage, name="other", runs="b: {seed: 3}")
    everything = [
        (BOB, 0, "report", manifest), (ALICE, 0, "submit", manifest, "--executor", "inline"),
        (ALICE, 0, "report", manifest), (BOB, 0, "submit", manifest, "--rerun", "a", "--executor", "inline"),
        (ALICE, 0, "report", manifest, "--only", "g"), (BOB, 0, "status", manifest), (BOB, 0, "cancel", manifest),
        (BOB, 0, "run", other), (ALICE, 0, "run", other), (BOB, 0, "doctor", storage), (ALICE, 0, "report", other),
        (ALICE, 0, "submit", other, "--rerun", "b", "--executor", "inline"), (BOB, 0, "gc", other, "--yes"),
    ]  # fmt: skip
    for number, (user, status, *words) in enumerate(everything):
        # Logins differ: one lets everybody read, one nobody.
        done = lab.call(user, "-m", "pipeline", *words, umask=(0o022, 0o077)[number % 2])
        assert done.returncode in ((0, 1) if words[0] == "doctor" else (status,)), (words, done.stdout, done.stderr)
        assert not_the_groups(lab, storage) == [], (user, words)
    assert states(lab, ALICE, other) == {"done"}


def test_a_call_from_python_gives_the_umask_back(lab: Lab) -> None:
    storage = lab.storage("python", owner=ALICE, mode=0o2770)
    manifest = lab.manifest(storage)
    program = (
        "from tanda import Experiment\n"
        "experiment = Experiment(sys.argv[1])\n"
        "experiment.submit(executor='inline'); experiment.report(plots=False); experiment.status(); experiment.plan()\n"
        "assert os.umask(0o022) == 0o022"
    )
    assert lab.may(ALICE, program, manifest)
    assert not_the_groups(lab, storage) == []


# Attempts of a colleague on her account and on her patience, and what she then does. None succeeds.


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """``plant`` is a program of his, given her storage, a folder of her home, and the ids of the tasks by stage.

    ``command`` is hers afterwards; it ends with one of ``status``, and says ``words`` somewhere. ``missing`` is what is
    not there yet: what she has put into the storage's own folder, its sticky bit keeps.
    """

    plant: str
    command: tuple[str, ...]
    status: tuple[int, ...]
    words: str = ""
    missing: tuple[str, ...] = ()


PRELUDE = """
os.umask(0o007)
storage, private = map(pathlib.Path, sys.argv[1:3])
ids = json.loads(sys.argv[3])
runs = {stage: storage / 'runs' / task for stage, task in ids.items()}
def pipe(path):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
def link(path, target):
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.is_dir() and not path.is_symlink(): path.rename(path.with_name('moved'))
    path.unlink(missing_ok=True)
    os.symlink(target, path)
def code(path):
    import pickle
    class Evil:
        def __reduce__(self): return os.system, (f'touch {private}/ran',)
    path.unlink(missing_ok=True)
    path.write_bytes(pickle.dumps(Evil()))
"""
DERIVED = ("mlflow.db", "mlartifacts")
ATTEMPTS = {
    "a pipe for a record": Attempt(
        plant="pipe(runs['evaluate'] / 'record.json')", command=("status", "MANIFEST"), status=(1,),
        words="is no ordinary file",
    ),
    "a pipe for a submission": Attempt(
        plant="pipe(storage / 'submissions/99991231-000000-small/submission.json')\n"
        "(runs['evaluate'] / 'record.json').unlink()",
        command=("status", "MANIFEST"), status=(0, 1), words="ignored",
    ),
    "a pipe for a log": Attempt(
        plant="pipe(runs['train'] / 'log.txt')", command=("logs", "MANIFEST", "a"), status=(2,),
        words="is no ordinary file",
    ),
    "a pipe for a metrics log": Attempt(
        plant="pipe(runs['train'] / 'metrics.jsonl')", command=("report", "MANIFEST", "--no-plots"), status=(0, 1, 2),
        words="is no ordinary file",
    ),
    "pipes for a task's own files": Attempt(
        plant="for name in ('record.json', 'held.json', 'progress.json', 'checkpoint.pt', 'log.txt'): "
        "pipe(runs['train'] / name)",
        command=("run", "MANIFEST"), status=(1,), words="error",
    ),
    "a record without an end": Attempt(
        plant="(runs['evaluate'] / 'record.json').open('wb').truncate(1 << 40)", command=("status", "MANIFEST"),
        status=(1,), words="has 1099511627776 bytes",
    ),
    "a link for a page": Attempt(
        plant="link(storage / 'reports/small/index.html', private / 'thesis')", command=("report", "MANIFEST"),
        status=(0,),
    ),
    "a link for the database": Attempt(
        missing=DERIVED, plant="link(storage / 'mlflow.db', private / 'thesis')",
        command=("report", "MANIFEST", "--no-plots"), status=(2,), words="mlflow.db: is a link",
    ),
    "a link for the database's journal": Attempt(
        missing=DERIVED, plant="link(storage / 'mlflow.db-journal', private / 'thesis')",
        command=("report", "MANIFEST", "--no-plots"), status=(2,), words="mlflow.db-journal: is a link",
    ),
    "a link for the artifacts": Attempt(
        missing=DERIVED, plant="link(storage / 'mlartifacts', private)",
        command=("report", "MANIFEST", "--no-plots"), status=(2,), words="mlartifacts: is a link",
    ),
    "a pipe for a lock": Attempt(
        plant="pipe(storage / 'locks/submit')", command=("submit", "MANIFEST", "--executor", "inline"), status=(2,),
        words="locks/submit",
    ),
    "a link among the runs, for gc": Attempt(
        plant="link(storage / 'runs/old', private)", command=("gc", "MANIFEST", "--yes"), status=(0,), words="runs/old",
    ),
    "a link in a run, for gc": Attempt(
        plant="(storage / 'runs/old').mkdir()\nlink(storage / 'runs/old/x', private)",
        command=("gc", "MANIFEST", "--yes"), status=(0,), words="runs/old",
    ),
    "code for a checkpoint": Attempt(
        plant="(runs['train'] / 'record.json').unlink()\ncode(runs['train'] / 'checkpoint.pt')",
        command=("run", "MANIFEST"), status=(0,),
    ),
    "code for a model": Attempt(
        plant="code(runs['train'] / 'model.pt')", command=("predict", "TRAIN", "/dev/null"), status=(2,),
        words="damaged",
    ),
    "code for predictions": Attempt(
        plant="code(runs['evaluate'] / 'predictions.npz')", command=("report", "MANIFEST"), status=(0, 1, 2),
    ),
    "a run's folder swapped": Attempt(
        plant="old = runs['train']\nold.rename(old.with_name('moved'))\nlink(old, private)",
        command=("run", "MANIFEST"), status=(2,), words="is a link",
    ),
    "a report's folder swapped": Attempt(
        plant="(storage / 'reports/small').rename(storage / 'reports/moved')\n"
        "link(storage / 'reports/small', private)", command=("report", "MANIFEST"), status=(2,), words="is a link",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(lab: Lab) -> tuple[Path, Path, dict[str, str]]:
    """Her storage with all done and reported, her manifest, and the tasks' ids by stage."""
    storage = lab.storage("finished", owner=ALICE, mode=0o2770)
    manifest = lab.manifest(storage)
    lab.tanda(ALICE, "submit", manifest, "--executor", "inline")
    lab.tanda(ALICE, "report", manifest)
    tasks = json.loads(lab.tanda(ALICE, "plan", manifest, "--json"))["tasks"]
    subprocess.run(["cp", "-a", storage, f"{storage}-kept"], check=True)
    return storage, manifest, {task["stage"]: task["id"] for task in tasks}


@pytest.fixture
def victim(lab: Lab, finished: tuple[Path, Path, dict[str, str]]) -> tuple[Path, Path, dict[str, str]]:
    """The same, as it was."""
    storage = finished[0]
    shutil.rmtree(storage)
    subprocess.run(["cp", "-a", f"{storage}-kept", storage], check=True)
    return finished


def private_folder(lab: Lab) -> Path:
    private = lab.home(ALICE) / "private"
    shutil.rmtree(private, ignore_errors=True)
    private.mkdir()
    (private / "thesis").write_text("three years\n")
    for path in (private, private / "thesis"):
        shutil.chown(path, ALICE, ALICE)
    (private / "thesis").chmod(0o600)
    return private


@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_attempt_of_a_colleague_fails(lab: Lab, victim: tuple[Path, Path, dict[str, str]], name: str) -> None:
    (storage, manifest, ids), attempt, private = victim, ATTEMPTS[name], private_folder(lab)
    for gone in attempt.missing:
        subprocess.run(["rm", "-r", storage / gone], check=True)
    assert lab.may(BOB, PRELUDE + attempt.plant, storage, private, json.dumps(ids))
    places = {"MANIFEST": str(manifest), "TRAIN": str(storage / "runs" / ids["train"])}
    # A command that waits for ever runs into the time limit of ``call``.
    done = lab.call(ALICE, "-m", "pipeline", *(places.get(word, word) for word in attempt.command))
    text = done.stdout + done.stderr
    assert done.returncode in attempt.status and attempt.words in text and "Traceback" not in text, text
    assert {path.name: path.read_text() for path in private.iterdir()} == {"thesis": "three years\n"}
    assert (private / "thesis").stat().st_mode & 0o777 == 0o600


FORBIDDEN = {
    "rename her submission": "os.rename(submission, str(submission) + '-away')",
    "write her submission": "open(submission / 'submission.json', 'ab')",
    "change her code": "open(submission / 'code/jobs/entry.py', 'ab')",
    "add to her code": "open(submission / 'code/jobs/numpy.py', 'x')",
    "add bytecode to her code": "open(submission / 'code/jobs/__pycache__/x.pyc', 'x')",
    "link hard to her code": "os.link(submission / 'code/jobs/entry.py', storage / 'runs' / 'entry.py')",
    "link hard to her file": "os.link(private / 'thesis', storage / 'runs' / 'thesis')",
    "rename the folder of submissions": "os.rename(storage / 'submissions', storage / 'moved')",
    "read her file": "open(private / 'thesis')",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_the_system_forbids_it(lab: Lab, victim: tuple[Path, Path, dict[str, str]], name: str) -> None:
    storage, _, ids = victim
    submission = submission_of(storage)
    program = f"{PRELUDE}\nsubmission = pathlib.Path({str(submission)!r})\n{FORBIDDEN[name]}"
    assert not lab.may(BOB, program, storage, private_folder(lab), json.dumps(ids))


def test_a_task_that_was_pointed_at_a_private_file_publishes_nothing_of_it(
    lab: Lab, victim: tuple[Path, Path, dict[str, str]]
) -> None:
    storage, _, ids = victim
    private = private_folder(lab)
    (private / "thesis").write_text("title,category,language,label_quality\nsecret word,A,spanish,reliable\n" * 50)
    program = """
shutil.rmtree(storage / 'datasets' / ids['preprocess'])
(runs['preprocess'] / 'record.json').unlink()
path = runs['preprocess'] / 'task.json'
task = json.loads(path.read_text())
def point(value):
    if isinstance(value, dict): return {key: point(item) for key, item in value.items()}
    if isinstance(value, list): return [point(item) for item in value]
    return str(private / 'thesis') if isinstance(value, str) and value.endswith('titles.csv') else value
pointed = json.dumps({**task, 'plumbing': point(task['plumbing'])})
assert str(private) in pointed
path.write_text(pointed)
"""
    assert lab.may(BOB, PRELUDE + program, storage, private, json.dumps(ids))
    done = lab.call(ALICE, "-m", "jobs", storage / "runs" / ids["preprocess"])
    assert done.returncode == 1, done.stderr
    assert "secret" not in done.stderr and not list((storage / "datasets").glob(f"{ids['preprocess']}"))
    assert "secret" not in (storage / "runs" / ids["preprocess"] / "record.json").read_text()


@pytest.fixture(scope="module")
def members(lab: Lab, cluster: Rig) -> Rig:
    """The cluster, on which both users may submit."""
    if os.environ.get(ONLY) == DEBIAN13:
        pytest.skip("only root can enter the Debian 13 that Slurm 24.11 is in")
    for user in (ALICE, BOB):
        cluster.call("sacctmgr", "-i", "add", "user", user, "account=lab", "cluster=lab", "defaultaccount=lab")
    return cluster


def on_hold(lab: Lab, storage: Path) -> tuple[Path, list[str]]:
    """A manifest of alice's whose jobs are queued and held, and the ids of its arrays."""
    manifest = lab.manifest(storage)
    manifest.write_text(manifest.read_text() + "cluster: {extra: {hold: true}}\n")
    document = json.loads(lab.tanda(ALICE, "submit", manifest, "--executor", "slurm", "--json"))
    closing = json.loads((submission_of(storage) / "submission.json").read_text())["arrays"][-1]["job_ids"]
    return manifest, [*(array["job_id"] for array in document["arrays"]), *closing]


@pytest.mark.cluster
def test_a_queued_job_runs_what_was_queued(lab: Lab, members: Rig) -> None:
    storage = lab.storage("slurm", owner=ALICE, mode=0o2770)
    manifest, jobs = on_hold(lab, storage)
    submission = submission_of(storage)
    pickles = list(submission.glob("*/*_submitted.pkl"))
    assert pickles and changeable_by_others(submission) == []
    for pickle in pickles:
        assert not lab.may(BOB, WRITE, pickle) and not lab.may(BOB, REMOVE, pickle)
    assert not lab.may(BOB, RENAME, submission) and not lab.may(BOB, CREATE, pickles[0].parent)
    assert states(lab, BOB, manifest) == {"waiting"}
    members.call("scontrol", "release", ",".join(dict.fromkeys(jobs)))
    wait_for(lambda: states(lab, BOB, manifest) == {"done"}, 200)
    close_ended_well(members, submission)
    assert changeable_by_others(submission) == []
    # What the tasks write is the group's, as the manifest's umask says.
    (log,) = {path.stat().st_mode & 0o777 for path in (storage / "runs").glob("*/log.txt")}
    assert log == 0o660
    lab.tanda(BOB, "report", manifest)
    own = lab.manifest(storage, name="own", runs="b: {seed: 7}")
    lab.tanda(BOB, "submit", own, "--executor", "slurm")
    wait_for(lambda: states(lab, ALICE, own) == {"done"}, 200)


@pytest.mark.cluster
def test_a_job_whose_folder_was_swapped_refuses_to_run(lab: Lab, members: Rig) -> None:
    # The storage is root's, and nobody made it sticky; so is the folder of submissions.
    storage = lab.storage("slurm-swapped", owner="root", mode=0o2770)
    (storage / "submissions").mkdir()
    shutil.chown(storage / "submissions", "root", storage.group())
    (storage / "submissions").chmod(0o2770)
    _, jobs = on_hold(lab, storage)
    submission = submission_of(storage)
    mark = lab.home(ALICE) / "swapped-mark"
    mark.unlink(missing_ok=True)
    # His copy of it, open to everybody so that the job can write its log there, with his pickles in place of hers.
    program = f"""{RENAME}
import pickle
class Evil:
    def __reduce__(self): return os.system, ("touch " + sys.argv[2],)
os.umask(0)
old, new = pathlib.Path(sys.argv[1] + '-away'), pathlib.Path(sys.argv[1])
for path in sorted(old.rglob('*')):
    target = new / path.relative_to(old)
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.pkl':
        target.write_bytes(pickle.dumps(Evil()))
    elif path.is_file():
        shutil.copyfile(path, target)
"""
    assert lab.may(BOB, program, submission, mark)
    assert submission.stat().st_uid == lab.uid(BOB)
    first = jobs[0]
    members.call("scontrol", "release", first)
    wait_for(lambda: "FAILED" in members.call("sacct", "-X", "-n", "-P", "-j", first, "-o", "State"))
    (log,) = submission.glob(f"*/{first}_0_log.out")
    assert f"tanda: {submission}: not a folder that only {ALICE} can change: nothing was run" in log.read_text()
    assert not mark.exists()
    members.call("scancel", *dict.fromkeys(jobs))


@pytest.mark.cluster
def test_two_people_share_a_storage_on_the_cluster(lab: Lab, members: Rig) -> None:
    storage = lab.storage("slurm-two", owner=ALICE, mode=0o2770)
    # He is the first to write: reports/ and mlflow.db are his, and his login has another umask.
    lab.tanda(BOB, "report", lab.manifest(storage))
    manifest, jobs = on_hold(lab, storage)
    queued = [task for task in lab.status(BOB, manifest)["tasks"] if task["queued"]]
    assert {task["user"] for task in queued} == {ALICE}
    cancelled = lab.call(BOB, "-m", "pipeline", "cancel", manifest)
    assert cancelled.stderr.startswith("0 tasks cancelled\n") and cancelled.returncode == 2
    assert f"left to {ALICE}, who queued" in cancelled.stderr
    members.call("scontrol", "release", ",".join(dict.fromkeys(jobs)))
    wait_for(lambda: states(lab, BOB, manifest) == {"done"}, 200)
    close_ended_well(members, submission_of(storage))
    manifest = lab.manifest(storage)  # nothing of it is held
    lab.tanda(ALICE, "report", manifest)
    before = set((storage / "submissions").iterdir())
    lab.tanda(BOB, "submit", manifest, "--rerun", "a", "--executor", "slurm")
    (his,) = set((storage / "submissions").iterdir()) - before
    wait_for(lambda: states(lab, ALICE, manifest) == {"done"}, 200)
    close_ended_well(members, his)
    lab.tanda(ALICE, "report", manifest)
    assert not_the_groups(lab, storage) == []


def close_ended_well(members: Rig, submission: Path) -> None:
    """Wait for the closing job of a submission, which retries and reports."""
    (job,) = json.loads((submission / "submission.json").read_text())["arrays"][-1]["job_ids"]
    ended = ("COMPLETED", "FAILED", "CANCELLED")
    wait_for(lambda: members.call("sacct", "-X", "-n", "-P", "-j", job, "-o", "State").startswith(ended), 200)
    assert "COMPLETED" in members.call("sacct", "-X", "-n", "-P", "-j", job, "-o", "State")
