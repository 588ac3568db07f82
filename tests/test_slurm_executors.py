"""The contract of every executor, and what only those that run anything promise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from recording_fixture import Recording
from rig import DEBIAN13
from slurm_fixture import CHILD, make_array, wait_for

from sharedfs.errors import DamagedFileError
from slurm.array import Array, Dependency, Resources, Submitted
from slurm.errors import SubmitError
from slurm.executors import Executor, make, names
from slurm.executors.local import LocalQueue, write_json
from slurm.job_state import CAUSES, STATES, JobState
from slurm.local_supervisor import Supervisor

RUNNING_ONES = ["local", pytest.param("slurm", marks=pytest.mark.cluster)]
EACH_SLURM = [*RUNNING_ONES, pytest.param(DEBIAN13, marks=pytest.mark.cluster)]


def one_path(path: Path) -> int:
    return subprocess.run([*CHILD, str(path)], check=False).returncode


def executor_of(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Executor:
    if name == DEBIAN13:
        request.getfixturevalue("clusters").get(DEBIAN13)
        name = "slurm"
    elif name == "slurm":
        request.getfixturevalue("cluster")
    if name == "recording":
        return Recording()
    return make(name, folder=tmp_path / "queue", entry=one_path)


@pytest.fixture(params=["inline", "local", "recording", pytest.param("slurm", marks=pytest.mark.cluster)])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Executor:
    return executor_of(request.param, tmp_path, request)


@pytest.fixture(params=RUNNING_ONES)
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Executor:
    return executor_of(request.param, tmp_path, request)


@pytest.fixture
def local(tmp_path: Path, request: pytest.FixtureRequest) -> Executor:
    return executor_of("local", tmp_path, request)


def ended(executor: Executor, submitted: Submitted, limit_s: float = 60) -> list[JobState]:
    wait_for(lambda: all(state.over for state in executor.states(submitted.queued).values()), limit_s)
    return list(executor.states(submitted.queued).values())


def runs_at_once(array: Array) -> int:
    """The most children that ran at the same moment, from their notes."""
    moments = []
    for (path,) in array.elements:
        for line in (path / "notes").read_text().splitlines():
            word, moment, _ = line.split()
            moments.append((float(moment), 1 if word == "start" else -1))
    now = most = 0
    for _, step in sorted(moments):
        now += step
        most = max(most, now)
    return most


def test_every_executor_is_found_by_its_name() -> None:
    assert names() == ("inline", "local", "slurm")
    with pytest.raises(ValueError, match="unknown executor 'pbs'; legal: inline, local, slurm"):
        make("pbs", folder=Path("/nowhere"))


def test_an_array_gives_an_id_for_each_element(executor: Executor, tmp_path: Path) -> None:
    array = make_array(tmp_path, "exit 0", "exit 0", held=True)
    submitted = executor.submit(array)
    assert submitted.refused is None
    assert len(set(submitted.queued)) == 2 and submitted.ids == submitted.queued
    assert len(submitted.jobs) == 1
    states = executor.states(submitted.queued)
    assert list(states) == list(submitted.queued)
    assert all(state.state in STATES and state.id == id_ for id_, state in states.items())
    executor.cancel(submitted.queued)
    wait_for(lambda: all(state.over for state in executor.states(submitted.queued).values()))
    assert {state.cause for state in executor.states(submitted.queued).values()} == {"cancelled"}


def test_an_element_nobody_submitted_is_gone_and_cancelling_it_is_no_error(executor: Executor) -> None:
    assert executor.states(["4242_0"])["4242_0"].state == "gone"
    executor.cancel(["4242_0"])
    assert executor.states([]) == {}


def test_a_dry_run_shows_every_command_and_starts_nothing(executor: Executor, tmp_path: Path) -> None:
    array = make_array(tmp_path, "exit 0", "exit 0")
    assert all(isinstance(text, str) and text.endswith("\n") for text in executor.scripts(array))
    assert not any((path / "notes").exists() for (path,) in array.elements)


@pytest.mark.parametrize("running", EACH_SLURM, indirect=True)
def test_done_and_failed_are_told_apart(running: Executor, tmp_path: Path) -> None:
    array = make_array(tmp_path, "exit 0", "exit 1", "kill", "kill-element")
    states = ended(running, running.submit(array))
    assert [(state.state, state.cause) for state in states] == [
        ("done", None), ("failed", "error"), ("failed", "error"), ("failed", "killed"),
    ]  # fmt: skip
    assert (array.elements[2][0] / "exits").exists() and states[3].signal == signal.SIGKILL
    assert all(state.cause in CAUSES for state in states if state.cause)


def test_packed_elements_are_one_job(running: Executor, tmp_path: Path) -> None:
    first, second = make_array(tmp_path, "sleep 1", "sleep 1").elements
    given = Resources(cpus=2, mem_gb=0.25, time_min=5)
    array = Array(
        name="packed", elements=((*first, *second),), command=CHILD, folder=tmp_path / "s", resources=given,
        code=Path(__file__).parents[1],
    )  # fmt: skip
    submitted = running.submit(array)
    assert len(submitted.queued) == 1
    assert ended(running, submitted)[0].state == "done"
    alone = Array(name="x", elements=(first, second), command=CHILD, folder=tmp_path)
    assert runs_at_once(alone) == 2


def test_a_throttle_is_kept(running: Executor, tmp_path: Path) -> None:
    array = make_array(tmp_path, *["sleep 0.5"] * 4, throttle=2)
    assert {state.state for state in ended(running, running.submit(array))} == {"done"}
    assert runs_at_once(array) <= 2


@pytest.mark.parametrize("running", EACH_SLURM, indirect=True)
def test_what_waits_for_another_starts_after_it_whatever_its_fate(running: Executor, tmp_path: Path) -> None:
    first = make_array(tmp_path, "sleep 0.5 exit 1", "sleep 0.5 exit 0", name="first")
    before = running.submit(first)
    arrays = {
        way: make_array(tmp_path, "exit 0", "exit 0", name=way, after=(Dependency(way=way, jobs=before.queued),))
        for way in ("afterany", "afterok", "aftercorr")
    }
    after = {way: running.submit(array) for way, array in arrays.items()}
    states = {way: [state.state for state in ended(running, submitted)] for way, submitted in after.items()}
    assert states == {"afterany": ["done", "done"], "afterok": ["failed", "failed"], "aftercorr": ["failed", "done"]}
    assert {state.cause for state in running.states(after["afterok"].queued).values()} == {"cancelled"}
    ends = [float((path / "notes").read_text().split()[4]) for (path,) in first.elements]
    starts = [float((path / "notes").read_text().split()[1]) for (path,) in arrays["afterany"].elements]
    assert min(starts) >= max(ends)


@pytest.mark.parametrize("running", EACH_SLURM, indirect=True)
def test_held_elements_start_when_released(running: Executor, tmp_path: Path) -> None:
    array = make_array(tmp_path, "exit 0", "exit 0", "exit 0", held=True)
    submitted = running.submit(array)
    running.release(submitted.queued[:1])
    wait_for(lambda: running.states(submitted.queued)[submitted.queued[0]].state == "done")
    rest = [running.states(submitted.queued)[id_] for id_ in submitted.queued[1:]]
    assert [(state.state, state.reason) for state in rest] == [("waiting", "JobHeldUser")] * 2
    running.release(submitted.queued)
    assert {state.state for state in ended(running, submitted)} == {"done"}


def test_what_has_not_started_can_be_held(running: Executor, tmp_path: Path) -> None:
    array = make_array(tmp_path, "sleep 2", "exit 0", "exit 0", throttle=1)
    submitted = running.submit(array)
    wait_for(lambda: running.states(submitted.queued)[submitted.queued[0]].state == "running")
    running.hold(submitted.queued)
    wait_for(lambda: running.states(submitted.queued)[submitted.queued[0]].state == "done")
    time.sleep(1)
    assert [state.state for state in running.states(submitted.queued).values()] == ["done", "waiting", "waiting"]
    running.cancel(submitted.queued)
    assert [state.cause for state in ended(running, submitted)] == [None, "cancelled", "cancelled"]


def test_a_running_element_can_be_cancelled(running: Executor, tmp_path: Path) -> None:
    array = make_array(tmp_path, "save sleep 60", "sleep 1")
    submitted = running.submit(array)
    wait_for(lambda: (array.elements[0][0] / "notes").exists())
    time.sleep(0.3)
    running.cancel(submitted.queued[:1])
    states = ended(running, submitted)
    assert [(state.state, state.cause) for state in states] == [("failed", "cancelled"), ("done", None)]


def test_inline_runs_everything_before_it_returns(tmp_path: Path) -> None:
    executor = make("inline", folder=tmp_path, entry=one_path)
    before = executor.submit(make_array(tmp_path, "exit 0", "exit 3", name="a"))
    after = (Dependency(way="aftercorr", jobs=before.queued),)
    then = executor.submit(make_array(tmp_path, "exit 0", "exit 0", name="b", after=after))
    states = executor.states((*before.queued, *then.queued)).values()
    assert [state.state for state in states] == ["done", "failed", "done", "failed"]
    assert next(iter(executor.states(before.queued[1:]).values())).exit_code == 3


def test_inline_stops_when_a_person_asks_to(tmp_path: Path) -> None:
    executor = make("inline", folder=tmp_path, entry=one_path)
    submitted = executor.submit(make_array(tmp_path, "exit 75", "exit 0"))
    assert {state.state for state in executor.states(submitted.queued).values()} == {"waiting"}
    with pytest.raises(ValueError, match="needs an entry"):
        make("inline", folder=tmp_path)


def test_recording_says_what_it_was_asked(tmp_path: Path) -> None:
    executor = Recording()
    executor.room = 1
    submitted = executor.submit(make_array(tmp_path, "exit 0", "exit 0"))
    assert submitted.ids == ("1_0", None) and submitted.refused
    executor.pretend("1_0", state="running")
    executor.cancel(["1_0"])
    assert executor.orders == [("cancel", ("1_0",))]
    assert executor.states(["1_0"])["1_0"].cause == "cancelled"


def test_a_job_that_lost_what_it_starts_from_is_not_left_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {
        "sbatch": 'rm "$(dirname "${@: -1}")/1.pkl"; echo Submitted batch job 7',
        "scancel": f'echo "$@" > {tmp_path}/cancelled',
        "scontrol": "echo MaxArraySize = 1001",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    array = make_array(tmp_path / "paths", "exit 0", "exit 0")
    with pytest.raises(SubmitError, match=r"No such file or directory: .*1.pkl"):
        make("slurm", folder=tmp_path).submit(array)
    assert (tmp_path / "cancelled").read_text() == "7\n"
    assert not list(array.folder.glob(f"{array.name}.*"))


def test_local_starts_again_what_saved_and_ends_on_its_own(local: Executor, tmp_path: Path) -> None:
    array = make_array(tmp_path, "touch checkpoint.pt exit 75\nexit 0")
    (state,) = ended(local, local.submit(array))
    assert (state.state, state.restarts) == ("done", 1)
    wait_for(lambda: not LocalQueue(tmp_path / "queue").supervised())


def test_local_tells_of_a_time_limit(local: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = make_array(tmp_path, "exit 75")
    (state,) = ended(local, local.submit(array))
    assert (state.state, state.cause, state.exit_code) == ("failed", "time limit", 74)


def test_local_work_outlives_whoever_submitted_it(tmp_path: Path) -> None:
    array = make_array(tmp_path, "sleep 1 exit 0")
    (path,) = array.elements[0]
    program = (
        "import sys; from pathlib import Path; from slurm.executors import make; from slurm.array import Array\n"
        f"paths, folder = (Path({str(path)!r}),), Path({str(tmp_path)!r})\n"
        f"array = Array(name='a', elements=(paths,), command={CHILD!r}, folder=folder)\n"
        f"print(make('local', folder=Path({str(tmp_path / 'queue')!r})).submit(array).queued[0])"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
        start_new_session=True,
    )  # fmt: skip
    assert time.monotonic() - began < 1 or not (path / "notes").exists()
    executor = make("local", folder=tmp_path / "queue")
    assert ended(executor, Submitted(ids=(done.stdout.strip(),)))[0].state == "done"


def test_local_says_so_when_its_supervisor_was_killed_and_goes_on_with_the_next(
    local: Executor, tmp_path: Path
) -> None:
    array = make_array(tmp_path, "sleep 1.5 exit 0", "exit 0", throttle=1)
    submitted = local.submit(array)
    wait_for(lambda: (array.elements[0][0] / "notes").exists())
    wait_for(lambda: local.states(submitted.queued)[submitted.queued[0]].state == "running")
    os.kill(supervisor_of(tmp_path / "queue"), signal.SIGKILL)
    wait_for(lambda: not LocalQueue(tmp_path / "queue").supervised())
    assert [state.state for state in local.states(submitted.queued).values()] == ["running", "gone"]
    more = local.submit(make_array(tmp_path, "exit 0", name="more"))
    assert ended(local, more)[0].state == "done"
    # How the first ended nobody saw; the second was still in the queue.
    assert [state.state for state in ended(local, submitted)] == ["gone", "done"]


def test_local_forgets_what_ended_long_ago_and_never_gives_a_number_twice(local: Executor, tmp_path: Path) -> None:
    first = local.submit(make_array(tmp_path, "exit 0", name="a"))
    second = local.submit(make_array(tmp_path, "exit 0", name="b"))
    ended(local, first)
    ended(local, second)
    queue = LocalQueue(tmp_path / "queue")
    wait_for(lambda: not queue.supervised())
    states = json.loads((tmp_path / "queue/states.json").read_text())
    # As an earlier version wrote it, which kept Slurm's word for the state, too.
    old = {id_: {**facts, "ended": 1.0, "said": "COMPLETED"} for id_, facts in states.items()}
    write_json(tmp_path / "queue/states.json", old)
    local.cancel(first.queued)
    wait_for(lambda: queue.numbers() == [2] and not queue.supervised())
    assert local.states(second.queued)["2_0"].state == "done"
    third = local.submit(make_array(tmp_path, "exit 0", name="c"))
    assert third.queued == ("3_0",) and ended(local, third)[0].state == "done"
    assert local.states(first.queued)["1_0"].state == "gone"


def test_local_takes_no_other_process_for_an_element_whose_number_it_has(local: Executor, tmp_path: Path) -> None:
    array = make_array(tmp_path, "sleep 1.5 exit 0", resources=Resources(cpus=1, mem_gb=0.1))
    submitted = local.submit(array)
    wait_for(lambda: local.states(submitted.queued)[submitted.queued[0]].state == "running")
    os.kill(supervisor_of(tmp_path / "queue"), signal.SIGKILL)
    queue = LocalQueue(tmp_path / "queue")
    wait_for(lambda: not queue.supervised())
    supervisor = Supervisor(queue)
    supervisor.recover()
    (running,) = supervisor.running.values()
    assert (running.cpus, running.mem_gb) == (1, 0.1) and running.started.is_alive()
    # As if the number were another's by now: this one of ours, which nothing may be sent to.
    bystander = subprocess.Popen(["sleep", "30"], start_new_session=True)
    states, (process,) = queue.states()[0], queue.states()[1].values()
    queue.write_states(states, {submitted.queued[0]: replace(process, pid=bystander.pid)})
    assert local.states(submitted.queued)[submitted.queued[0]].state == "gone"
    assert ended(local, local.submit(make_array(tmp_path, "exit 0", name="more")))[0].state == "done"
    assert local.states(submitted.queued)[submitted.queued[0]].state == "gone"
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    wait_for(lambda: not process.is_alive())


@pytest.mark.parametrize("text", ["[]", '{"1_0": 5}', '{"1_0": {"state": "running"}}', "{", "\udce9"])
def test_states_of_a_local_queue_that_are_damaged_are_named_in_one_line(tmp_path: Path, text: str) -> None:
    queue = LocalQueue(tmp_path / "queue")
    with queue.locked():
        (queue.folder / "states.json").write_text(text, "utf-8", "surrogateescape")
    (queue.folder / "states.json").chmod(0o644)
    with pytest.raises(DamagedFileError, match=r"states.json: not the states of a local queue: ") as one:
        queue.states()
    assert "\n" not in str(one.value)


def supervisor_of(folder: Path) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"slurm.local_supervisor" in words and str(folder).encode() in words:
                return int(entry.name)
    raise AssertionError("no supervisor")


def test_local_fits_elements_to_the_machine(local: Executor, tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    given = Resources(cpus=cores, mem_gb=0.1, gpus=64)
    array = make_array(tmp_path, "sleep 0.3", "sleep 0.3", resources=given)
    too_much = make_array(tmp_path, "exit 0", name="more", resources=Resources(cpus=4096, mem_gb=1e6))
    submitted, more = local.submit(array), local.submit(too_much)
    assert {state.state for state in (*ended(local, submitted), *ended(local, more))} == {"done"}
    assert runs_at_once(array) == 1
    # What is visible here (tests see no GPU), and not what was asked: where it is none, networks train on its cores.
    assert {(path / "gpus").read_text() for paths in array.elements for path in paths} == {"0"}


@pytest.mark.parametrize(("visible", "given"), [("5", ["5", "5"]), ("5,GPU-1", ["5", "GPU-1"]), ("", ["", ""])])
def test_local_tasks_get_the_gpus_that_their_submitter_sees(
    local: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, given: list[str]
) -> None:
    """Through the queue, the detached supervisor and the element."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    asked = Resources(gpus=1, mem_gb=0.1)
    array = make_array(tmp_path, "sleep 0.5", "sleep 0.5", resources=asked)
    assert {state.state for state in ended(local, local.submit(array))} == {"done"}
    assert sorted((path / "devices").read_text() for (path,) in array.elements) == given


@pytest.fixture(autouse=True)
def no_process_left(tmp_path: Path) -> Iterator[None]:
    yield
    if (tmp_path / "queue" / "arrays").exists():
        wait_for(lambda: not LocalQueue(tmp_path / "queue").supervised(), 30)
