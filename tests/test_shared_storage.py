"""One storage, two users who both write to it: neither can have the other run, read or write what is not theirs."""

from __future__ import annotations

import json
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_fixture import (
    ALICE,
    BOB,
    CREATE,
    REMOVE,
    RENAME,
    WRITE,
    Lab,
    changeable_by_others,
    lab,
    not_the_groups,
    states,
    submission_of,
)  # fmt: skip
from slurm_fixture import wait_for

from slurm.executors.local import LocalQueue

__all__ = ["lab"]

SIX = ", ".join(f"r{seed}: {{seed: {seed}}}" for seed in range(1, 7))
LINKS = ("log.txt", "metrics.jsonl", "record.json", "progress.json", "attempts", "exits")


def queue_of(lab: Lab, storage: Path, user: str) -> Path:
    return storage / "local" / socket.gethostname() / str(lab.uid(user))


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
