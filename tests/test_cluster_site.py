"""Sites with ways of their own, on real clusters: several behind one login, a partition for jobs with GPUs alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import Rig, Shape
from second_cluster import NAME, second_cluster
from slurm_fixture import make_array, wait_for
from small_manifest import tanda, with_only, write_manifest

from pipeline.manifest import load
from pipeline.plan import make_plan
from pipeline.status import task_states
from pipeline.submit import cancel_plan, submit_plan
from slurm.array import Site
from slurm.executors.slurm import SlurmArrays
from slurm.job_state import JobIdentity
from slurm.limits import local_cluster
from slurm.query import states

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]

LONG = with_only("MLP").replace("epochs: 2,", "epochs: 100000,")


@pytest.fixture(scope="module")
def other(cluster: Rig) -> Iterator[Path]:
    """The slurm.conf of cluster ``other``, whose jobs have the numbers of jobs of ``lab``."""
    with second_cluster(cluster) as conf:
        here, there = _next_job(cluster), _next_job(cluster, "-M", NAME)
        for _ in range(here - there):
            there = _next_job(cluster, "-M", NAME)
        yield conf


@pytest.fixture(scope="module")
def warned(cluster: Rig, other: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An element on cluster ``other`` that was warned, and saved; its site's environment names another cluster.

    Slurm takes some 20 s to start it again: the other tests go on meanwhile.
    """
    array = make_array(tmp_path_factory.mktemp("warned"), "save sleep 60\nexit 0", name="there")
    (id_,) = SlurmArrays(site=Site(clusters=NAME, activate="export SLURM_CLUSTERS=lab")).submit(array).queued
    notes = array.elements[0][0] / "notes"
    wait_for(notes.exists)
    cluster.call("scancel", "-M", NAME, "--signal=USR2", id_)
    wait_for(lambda: "saved" in notes.read_text())
    return id_


def _next_job(cluster: Rig, *where: str) -> int:
    job = cluster.call("sbatch", "--parsable", *where, "--hold", "--output=/dev/null", "--wrap", "true").strip()
    cluster.call("scancel", *where, job.partition(";")[0])
    return int(job.partition(";")[0])


def _mine(cluster: Rig, count: int) -> list[str]:
    """Jobs of ours on ``lab`` that have nothing to do with any submission."""
    wrap = ("--job-name=mywork", "--output=/dev/null", "--mem=10", "--wrap", "sleep 300")
    return [cluster.call("sbatch", "--parsable", *wrap).strip() for _ in range(count)]


def _live(cluster: Rig, *where: str, name: str = "small-") -> dict[str, str]:
    printed = cluster.call("squeue", *where, "-h", "-r", "-o", "%i|%j|%T")
    rows = [line.split("|") for line in printed.splitlines()]
    return {id_: state for id_, job, state in rows if job.startswith(name)}


@pytest.mark.usefixtures("warned")
def test_jobs_of_another_cluster_are_followed_and_cancelled_there(
    cluster: Rig, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(load(write_manifest(tmp_path, LONG + f"cluster: {{clusters: {NAME}, extra: {{hold: true}}}}\n")))
    made = submit_plan(plan).submission
    assert made is not None and {(array.cluster, array.named_cluster) for array in made.arrays} == {(NAME, NAME)}
    numbers = [int(job) for array in made.arrays for job in array.job_ids]
    mine: list[str] = []
    while not mine or int(mine[-1]) < max(numbers):
        mine += _mine(cluster, 1)
    assert set(map(str, numbers)) & set(mine), "jobs of ours have their numbers"
    assert set(_live(cluster, "-M", NAME)) == set(map(str, numbers)) and not _live(cluster)
    assert {state.state for state in task_states(plan).values()} == {"waiting"}
    assert submit_plan(plan).submission is None, "all of it is queued"
    with monkeypatch.context() as login:
        login.setenv("SLURM_CONF", str(other))
        assert {state.state for state in task_states(plan).values()} == {"waiting"}
    cancelled = cancel_plan(plan)
    assert (cancelled.ending, cancelled.unknown) == (3, 0)
    cluster.call("scancel", "-M", NAME, *made.arrays[-1].job_ids)  # the closing job, held as well
    wait_for(lambda: not _live(cluster, "-M", NAME))
    assert set(_live(cluster, name="mywork")) == set(mine), "what has the same numbers here goes on"
    cluster.call("scancel", *mine)


def test_what_was_submitted_on_one_clusters_login_node_is_not_lost_on_anothers(
    cluster: Rig, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = SlurmArrays().submit(make_array(tmp_path, "sleep 60"))
    (id_,) = submitted.queued
    sent = {id_: JobIdentity(name="tanda-test", cluster=submitted.cluster)}
    monkeypatch.setenv("SLURM_CONF", str(other))
    local_cluster.cache_clear()
    state = states([id_], sent=sent)[id_]
    assert state.state in ("waiting", "running") and (submitted.cluster, state.named_cluster) == ("lab", "lab")
    SlurmArrays(site=Site(clusters=state.named_cluster)).cancel([id_])
    wait_for(lambda: states([id_], sent=sent)[id_].cause == "cancelled")
    local_cluster.cache_clear()


def test_an_element_that_wants_another_start_asks_its_own_cluster(warned: str) -> None:
    executor = SlurmArrays(site=Site(clusters=NAME))
    wait_for(lambda: executor.states([warned])[warned].state == "done", 90)
    assert executor.states([warned])[warned].restarts == 1


def test_logs_of_a_storage_with_a_percent_in_its_path_are_in_its_own_folder(cluster: Rig, tmp_path: Path) -> None:
    array = make_array(tmp_path / "100%done 50%", "exit 0", "exit 0")
    submitted = SlurmArrays().submit(array)
    wait_for(lambda: {state.state for state in SlurmArrays().states(submitted.queued).values()} == {"done"})
    (job,) = submitted.jobs
    logs = [path.name for path in array.folder.glob(f"{array.name}.0/*_log.out")]
    assert sorted(logs) == [f"{job}_0_0_log.out", f"{job}_1_0_log.out"] and [*tmp_path.iterdir()] == [
        array.folder.parent
    ]


# A site whose GPU partition takes no job without GPUs, and whose CPU partition none with.

POLICY = """\
function slurm_job_submit(job_desc, part_list, submit_uid)
  local tres = (job_desc.tres_per_node or "") .. (job_desc.tres_per_job or "") .. (job_desc.gres or "")
  if job_desc.partition == "gpu" and not string.find(tres, "gpu") then
    slurm.log_user("Jobs in partition gpu must ask for at least one GPU")
    return slurm.ERROR
  end
  if job_desc.partition == "cpu" and string.find(tres, "gpu") then
    slurm.log_user("Partition cpu has no GPUs")
    return slurm.ERROR
  end
  return slurm.SUCCESS
end
function slurm_job_modify(job_desc, job_rec, part_list, modify_uid) return slurm.SUCCESS end
return slurm.SUCCESS
"""
PARTITIONS = ("JobSubmitPlugins=lua", "PartitionName=gpu Nodes=n1", "PartitionName=cpu Nodes=n2")
WITH_GPUS = "resources: {preprocess: {mem_gb: 1}, train: {gpus: 1, mem_gb: 1}, evaluate: {gpus: 1, mem_gb: 1}}\n"


@pytest.fixture(scope="module")
def strict(cluster: Rig) -> Iterator[Rig]:
    # Not pytest's folder: that one is closed to the daemons' users.
    folder = Path(tempfile.mkdtemp(prefix="tanda-rig-"))
    folder.chmod(0o755)
    (folder / "conf").mkdir()
    (folder / "conf/job_submit.lua").write_text(POLICY)
    rig = Rig(folder, Shape(nodes=2, accounting=False, extra=PARTITIONS))
    try:
        rig.start()
        yield rig
    finally:
        rig.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _profile(folder: Path, stages: str) -> Path:
    path = folder / "profile.yaml"
    path.write_text(f"partition: gpu\n{WITH_GPUS}stages: {stages}\n")
    return path


def _submit(manifest: Path, profile: Path, rig: Rig) -> tuple[int, str]:
    command = [sys.executable, "-m", "pipeline", "submit", str(manifest), "--cluster", str(profile)]
    environment = {**os.environ, **rig.environment, "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_doctor_says_what_the_site_refuses_stage_by_stage(strict: Rig, tmp_path: Path) -> None:
    profile = _profile(tmp_path, "{close: {partition: cpu}}")
    words = ("doctor", tmp_path / "s", "--cluster", profile, "--json")
    findings = json.loads(tanda(*words, status=1, environment=strict.environment))
    stages = {finding["name"]: finding for finding in findings if finding["name"].startswith("stage ")}
    assert {name: finding["ok"] for name, finding in stages.items()} == {
        "stage preprocess": False, "stage train": True, "stage evaluate": True, "stage close": True,
    }  # fmt: skip
    assert "Jobs in partition gpu must ask for at least one GPU" in stages["stage preprocess"]["reason"]
    assert not strict.call("squeue", "-h")


@pytest.mark.parametrize(
    ("stages", "queued", "words"),
    [
        ("{}", [], "Jobs in partition gpu must ask for at least one GPU"),
        (
            "{preprocess: {partition: cpu}}",
            ["cpu", "gpu", "gpu"],
            "no closing job: sbatch: error: Jobs in partition gpu",
        ),
        (
            "{preprocess: {partition: cpu}, evaluate: {partition: cpu}, close: {partition: cpu}}",
            ["cpu", "cpu", "gpu"],
            "Partition cpu has no GPUs",
        ),
        ("{preprocess: {partition: cpu}, close: {partition: cpu}}", ["cpu", "gpu", "gpu", "cpu"], None),
    ],
    ids=["the first", "the closing job", "one in the middle", "none"],
)
def test_each_stage_goes_where_it_may_and_a_refusal_is_a_line(
    stages: str, queued: list[str], words: str | None, strict: Rig, tmp_path: Path
) -> None:
    manifest, profile = write_manifest(tmp_path, LONG), _profile(tmp_path, stages)
    status, said = _submit(manifest, profile, strict)
    assert status == (2 if words else 0)
    jobs = strict.call("squeue", "-h", "-r", "-o", "%P").split()
    assert sorted(jobs) == sorted(queued)
    assert (words or "") in said and "Traceback" not in said
    tanda("cancel", manifest, environment=strict.environment)
    strict.call("scancel", f"--user={strict.user}")
    wait_for(lambda: not strict.call("squeue", "-h"))
