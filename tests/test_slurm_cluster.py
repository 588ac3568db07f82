"""What really happens on a Slurm cluster, and that the state shown is the truth.

The slow scenarios are submitted together and then looked at one by one: they wait side by side.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster_fixture import running
from rig import Rig, Shape
from slurm_fixture import CHILD, ROOT, SMALL, make_array, wait_for

from slurm import limits
from slurm.array import Array, Resources, Site, Submitted
from slurm.by_hand import make_notes, noted_jobs
from slurm.errors import SubmitError
from slurm.executors.slurm import SlurmArrays
from slurm.job_state import JobIdentity, JobState
from slurm.query import find_live, states
from slurm.sbatch import shown_comment

pytestmark = [pytest.mark.cluster, pytest.mark.both_slurms]


def state_of(id_: str) -> JobState:
    return states([id_])[id_]


def ended(submitted: Submitted, limit_s: float = 60) -> list[JobState]:
    wait_for(lambda: all(state.over for state in states(submitted.queued).values()), limit_s)
    return list(states(submitted.queued).values())


def notes(path: Path) -> list[str]:
    file = path / "notes"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


@dataclass
class Scenario:
    array: Array
    submitted: Submitted

    @property
    def path(self) -> Path:
        return self.array.elements[0][0]

    @property
    def id(self) -> str:
        return self.submitted.queued[0]


@pytest.fixture(scope="module")
def scenarios(cluster: Rig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """Everything slow, submitted at once; n3 and n4 are kept for what takes a whole node."""
    folder = tmp_path_factory.mktemp("cluster")
    anywhere = SlurmArrays(site=Site(exclude="n[3-4]"))
    whole = Resources(cpus=4, gpus=1, mem_gb=1, time_min=5, warn_s=60)
    started: dict[str, Scenario] = {}

    def start(name: str, *plans: str, executor: SlurmArrays = anywhere, **facts: Any) -> None:
        array = make_array(folder, *plans, name=name, **facts)
        started[name] = Scenario(array, executor.submit(array))

    start("time-limit", "save sleep 120\nexit 0", resources=Resources(mem_gb=0.25, time_min=1, warn_s=20))
    low = SlurmArrays(site=Site(partition="scavenger", extra={"nodelist": "n3"}))
    start("preempted", "save sleep 120\nexit 0", executor=low, resources=whole)
    lost = SlurmArrays(site=Site(extra={"nodelist": "n4"}))
    start("node", "sleep 120\nexit 0", executor=lost, resources=whole)
    start("warned", "save sleep 60\nexit 0", "sleep 2")
    start("requeued", "save sleep 60\nexit 0")
    start("idle", "exit 75")
    start("memory", "eat 600 sleep 20")
    start("gpu", "sleep 2", resources=Resources(gpus=2, mem_gb=0.25, time_min=5))
    by_hand = make_array(folder, "save sleep 60\nexit 0", "exit 0", name="by-hand")
    (script,) = anywhere.write_scripts(by_hand, folder / "scripts")
    make_notes(by_hand.folder, [script])
    job = cluster.call("sbatch", "--parsable", str(script.path)).strip()
    started["by-hand"] = Scenario(by_hand, Submitted(ids=(f"{job}_0", f"{job}_1")))
    for name in ("preempted", "node", "warned", "requeued", "by-hand"):
        wait_for(lambda name=name: "start" in notes(started[name].path))
    time.sleep(0.5)
    high = SlurmArrays(site=Site(extra={"nodelist": "n3"}))
    start("urgent", "sleep 3", executor=high, resources=whole)
    cluster.call("scancel", "--signal=USR2", started["warned"].id, started["by-hand"].id)
    cluster.call("scontrol", "requeue", started["requeued"].id)
    cluster.call("scontrol", "update", "nodename=n4", "state=down", "reason=test")
    return started


def test_memory_over_the_limit(cluster: Rig, scenarios: dict[str, Scenario]) -> None:
    (state,) = ended(scenarios["memory"].submitted)
    assert (state.state, state.cause) == ("failed", "out of memory")
    # A cgroup lets nobody have more; without one slurmd looks from time to time, and has seen it.
    assert cluster.shape.cgroups or (state.max_rss_mb is not None and state.max_rss_mb > 256)


def test_gpu_hours_are_counted(scenarios: dict[str, Scenario]) -> None:
    (state,) = ended(scenarios["gpu"].submitted)
    wait_for(lambda: state_of(state.id).elapsed_s >= 2, 10)
    state = state_of(state.id)
    assert state.gpus == 2
    assert state.gpu_hours == pytest.approx(2 * state.elapsed_s / 3600)


def test_a_warned_element_saves_and_only_it_comes_back(scenarios: dict[str, Scenario]) -> None:
    warned = scenarios["warned"]
    first, second = ended(warned.submitted, 90)
    assert (first.state, first.restarts) == ("done", 1)
    assert notes(warned.path) == ["start", "saved", "start", "end"]
    assert (second.state, second.restarts) == ("done", 0)
    by_hand = scenarios["by-hand"]
    assert noted_jobs(by_hand.array.folder, "by-hand") == list(by_hand.submitted.jobs)
    assert notes(warned.array.elements[1][0]) == ["start", "end"]
    assert "start 2 ==" in (warned.path / "log.txt").read_text()


def test_requeued_by_hand(scenarios: dict[str, Scenario]) -> None:
    (state,) = ended(scenarios["requeued"].submitted, 90)
    assert (state.state, state.restarts) == ("done", 1)
    assert notes(scenarios["requeued"].path)[-2:] == ["start", "end"]


def test_preempted_by_a_higher_partition(scenarios: dict[str, Scenario]) -> None:
    assert ended(scenarios["urgent"].submitted, 60)[0].state == "done"
    (state,) = ended(scenarios["preempted"].submitted, 90)
    first, *rest = notes(scenarios["preempted"].path)[1:]
    # 24.11 does not forget the preemption when an element requeues itself, and starts it again after its good end.
    assert (state.state, state.restarts) == ("done", len(rest) // 2)
    assert first == "saved" and rest in (["start", "end"], ["start", "end"] * 2)


def test_a_node_that_went_down(scenarios: dict[str, Scenario]) -> None:
    (state,) = ended(scenarios["node"].submitted, 90)
    assert (state.state, state.restarts) == ("done", 1)
    assert notes(scenarios["node"].path).count("start") == 2


def test_one_that_gets_no_further_is_not_started_for_ever(scenarios: dict[str, Scenario]) -> None:
    (state,) = ended(scenarios["idle"].submitted, 120)
    assert (state.state, state.cause, state.exit_code) == ("failed", "time limit", 74)
    assert notes(scenarios["idle"].path).count("start") == 3


def test_the_time_limit_is_survived(scenarios: dict[str, Scenario]) -> None:
    (state,) = ended(scenarios["time-limit"].submitted, 150)
    assert (state.state, state.restarts) == ("done", 1)
    assert notes(scenarios["time-limit"].path) == ["start", "saved", "start", "end"]


def test_one_packed_task_dies(cluster: Rig, tmp_path: Path) -> None:
    dies, lives = make_array(tmp_path, "sleep 0.3 kill", "sleep 1.5").elements
    array = Array(
        name="packed", elements=((*dies, *lives),), command=CHILD, folder=tmp_path / "s", code=ROOT, resources=SMALL
    )
    (state,) = ended(SlurmArrays().submit(array))
    assert (state.state, state.cause) == ("failed", "error")
    assert notes(lives[0]) == ["start", "end"]
    (exit_file,) = (dies[0] / "exits").iterdir()
    assert exit_file.name == f"{state.id}-0.json"
    assert json.loads(exit_file.read_text())["exit_code"] == -9


def test_over_the_largest_array(cluster: Rig, tmp_path: Path) -> None:
    array = make_array(tmp_path, *["exit 0"] * 1102, throttle=10, held=True)
    executor = SlurmArrays()
    submitted = executor.submit(array)
    try:
        assert submitted.calls == 2 and len(submitted.jobs) == 2 and len(submitted.queued) == 1102
        shown = [cluster.call("scontrol", "show", "job", job, "-o") for job in submitted.jobs]
        assert ["ArrayTaskThrottle=9" in shown[0], "ArrayTaskThrottle=1" in shown[1]] == [True, True]
        began = time.monotonic()
        found = states(submitted.queued)
        assert {state.state for state in found.values()} == {"waiting"}
        assert time.monotonic() - began < 2
    finally:
        executor.cancel(submitted.queued)
    wait_for(lambda: {state.cause for state in states(submitted.queued).values()} == {"cancelled"}, 20)


def test_over_the_submit_limit(little_account: str, tmp_path: Path) -> None:
    executor = SlurmArrays(site=Site(account=little_account))
    array = make_array(tmp_path, *["exit 0"] * 20, held=True)
    assert limits.read().max_submit_jobs == 5
    submitted = executor.submit(array)
    try:
        assert len(submitted.queued) == 5
        assert submitted.ids[:5] == submitted.queued and set(submitted.ids[5:]) == {None}
        assert submitted.refused and "AssocMaxSubmitJobLimit" in submitted.refused
        left = [path for path in array.folder.rglob("*") if path.is_file()]
        assert len([path for path in left if path.suffix == ".pkl"]) == 5
        assert len(left) == 5 + len(submitted.jobs)
        nothing = executor.submit(make_array(tmp_path, "exit 0", name="more"))
        assert nothing.queued == () and nothing.refused
    finally:
        executor.cancel(submitted.queued)
        wait_for(lambda: all(state.over for state in states(submitted.queued).values()))


def test_what_slurm_does_not_know_is_an_error_that_says_so(cluster: Rig, tmp_path: Path) -> None:
    array = make_array(tmp_path, "exit 0", "exit 0")
    with pytest.raises(SubmitError, match="invalid partition specified: nowhere"):
        SlurmArrays(site=Site(partition="nowhere")).submit(array)
    assert not list(array.folder.rglob("*"))


def test_a_log_folder_that_can_not_be_written(cluster: Rig, tmp_path: Path) -> None:
    executor = SlurmArrays()
    array = make_array(tmp_path, "exit 0", held=True)
    submitted = executor.submit(array)
    # A folder that is missing 24.11 makes again.
    array.folder.rename(tmp_path / "away")
    array.folder.write_text("")
    executor.release(submitted.queued)
    (state,) = ended(submitted)
    assert (state.state, state.cause, state.reason) == ("failed", "error", "its log file could not be written")


def test_submitting_from_inside_a_job(cluster: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "64", "SBATCH_PARTITION": "nowhere"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1")
    array = make_array(tmp_path, "exit 0", resources=Resources(cpus=2, mem_gb=0.25, time_min=5))
    (state,) = ended(SlurmArrays().submit(array))
    assert state.state == "done"
    assert (array.elements[0][0] / "notes").read_text().split()[2] == "2"


def test_scripts_written_to_be_submitted_by_hand(scenarios: dict[str, Scenario]) -> None:
    first, second = ended(scenarios["by-hand"].submitted, 90)
    assert (first.state, first.restarts) == ("done", 1)
    assert (second.state, second.restarts) == ("done", 0)


def test_limits_are_read_and_not_guessed(cluster: Rig) -> None:
    found = limits.read()
    assert (found.max_array_size, found.cluster) == (1001, "lab")
    assert found.accounting and found.version.startswith("2") and found.max_submit_jobs is None
    normal, scavenger = found.partitions
    assert (normal.name, normal.gpus) == ("normal", {"gpu": 8})
    assert (scavenger.name, scavenger.time_limit_min) == ("scavenger", None)


def test_slurmdbd_stopped(cluster: Rig, tmp_path: Path) -> None:
    cluster.stop_daemon("slurmdbd")
    try:
        submitted = SlurmArrays().submit(make_array(tmp_path, "exit 0", "exit 1", "kill-element"))
        found = ended(submitted)
        assert [(state.state, state.cause) for state in found] == [
            ("done", None), ("failed", "error"), ("failed", "killed"),
        ]  # fmt: skip
        # Nobody can know of a job that the controller has forgotten.
        assert state_of("999999_0").state == "unknown"
    finally:
        cluster.start_slurmdbd()


def test_slurmctld_restarted_in_the_middle(cluster: Rig, tmp_path: Path) -> None:
    # Long enough to end after the restart: the message of an end that meets no controller is sent again much later.
    array = make_array(tmp_path, "sleep 25", "exit 0")
    submitted = SlurmArrays().submit(array)
    wait_for(lambda: state_of(submitted.queued[1]).state == "done")
    cluster.stop_daemon("slurmctld")
    try:
        away = states(submitted.queued)
        assert {state.state for state in away.values()} == {"unknown"}
        assert "controller" in (away[submitted.queued[0]].reason or "")
    finally:
        cluster.start_slurmctld()
    assert [state.state for state in ended(submitted, 90)] == ["done", "done"]
    assert notes(array.elements[0][0]) == ["start", "end"]


def test_without_accounting(cluster: Rig, tmp_path: Path) -> None:
    with running(Shape(nodes=1, accounting=False, prefix="m"), cluster.slurm):
        assert not limits.read().accounting
        submitted = SlurmArrays().submit(make_array(tmp_path, "exit 0", "exit 1", "kill-element", "sleep 30"))
        wait_for(lambda: sum(state.over for state in states(submitted.queued).values()) == 3)
        found = list(states(submitted.queued).values())
        assert [(state.state, state.cause) for state in found] == [
            ("done", None), ("failed", "error"), ("failed", "killed"), ("running", None),
        ]  # fmt: skip
        assert found[3].elapsed_s > 0 and state_of("4242").state == "gone"
        SlurmArrays().cancel(submitted.queued)
        assert ended(submitted)[3].cause == "cancelled"


def test_jobs_that_nobody_has_the_number_of_are_found_by_what_they_were_sent_with(cluster: Rig, tmp_path: Path) -> None:
    """In a script of letters that take three bytes each, longer than the queue shows."""
    name = "語" * 66 + "-" + "हिन्दी"
    comment = f"tanda 20261126-120000-{name} train {name}"
    array = make_array(tmp_path, "exit 0", "exit 0", name=name, comment=comment, held=True)
    sent = JobIdentity(
        submitted=time.time(), name=name, comment=shown_comment(comment), uid=os.geteuid(), cluster="lab"
    )
    submitted = SlurmArrays().submit(array)
    other = SlurmArrays().submit(make_array(tmp_path, "exit 0", name="other", comment="tanda another", held=True))
    try:
        assert sorted(find_live(sent)) == sorted(submitted.queued)
        shown = states(submitted.queued, sent=dict.fromkeys(submitted.queued, sent))
        assert {state.state for state in shown.values()} == {"waiting"}
    finally:
        SlurmArrays().cancel([*submitted.queued, *other.queued])
    wait_for(lambda: not find_live(sent), 30)
    shown = states(submitted.queued, sent=dict.fromkeys(submitted.queued, sent))
    assert {(state.state, state.cause) for state in shown.values()} == {("failed", "cancelled")}
