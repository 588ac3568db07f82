"""One storage, two users, and the jobs of both on a cluster."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from cluster_fixture import ONLY
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
from rig import DEBIAN13, Rig
from slurm_fixture import wait_for

__all__ = ["lab"]


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
