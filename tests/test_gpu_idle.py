"""A task whose GPU does nothing is ended with what it was doing, and nothing else ever is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import chain, cycle, repeat
from pathlib import Path

import pytest
from nvml_fixture import Board, FakeNvml, pynvml_folder
from test_gpu_use import DENIED, Rig

from jobs.attempt import history
from jobs.gpu_idle import IdleRule, IdleTask, end_idle
from jobs.storage import Storage
from jobs.task import Record, Task, read_record
from pipeline.decisions.task_state import AttemptEvidence, Evidence, decide

ROOT = Path(__file__).parents[1]
# ``python -m jobs`` with a stage that stands in one call for ever, after it has said how far it is.
STUCK = """
import runpy, time
import jobs.stages.train as train
from jobs.context import Progress

def stand_still(context):
    context.progress(Progress(phase="train", epoch=2, epochs=5), force=True)
    time.sleep(600)

train.run = stand_still
runpy.run_module("jobs", run_name="__main__")
"""


class Stops(Rig):
    """A rig that notes which tasks would be ended, after how many seconds, and goes on."""

    def __init__(self, root: Path, nvml: FakeNvml, *gpus: str | None, minutes: float = 1, below: float = 1.0) -> None:
        super().__init__(root, nvml, *gpus)
        self.ended: list[tuple[int, float]] = []
        self.watch.rule = IdleRule(minutes=minutes, below=below)
        self.watch.stop = lambda task, _rule, _say: self.ended.append((task.pid, task.idle_s)) is None


def test_a_minute_without_a_break_ends_a_task(tmp_path: Path) -> None:
    rig = Stops(tmp_path, FakeNvml(Board(utilisation=repeat(0))), "0")
    rig.run(59)
    assert rig.ended == []
    rig.run(1)
    assert rig.ended == [(100, 60.0)]


@pytest.mark.parametrize(
    ("utilisation", "below", "ends"),
    [
        (cycle([*[0] * 59, 1]), 1.0, False),
        (repeat(1), 1.0, False),
        (repeat(4), 5.0, True),
        (chain([90] * 30, repeat(0)), 1.0, True),
    ],
)
def test_what_counts_as_idle(tmp_path: Path, utilisation: cycle[int], below: float, ends: bool) -> None:
    rig = Stops(tmp_path, FakeNvml(Board(utilisation=utilisation)), "0", below=below)
    rig.run(100)
    assert bool(rig.ended) == ends


@pytest.mark.parametrize(
    "nvml",
    [
        FakeNvml(Board(utilisation=repeat(0), mig=True)),
        FakeNvml(Board(utilisation=repeat(0)), errors=DENIED),
        FakeNvml(Board(utilisation=repeat(0)), Board()),  # the task's process was never seen on it
    ],
    ids=["mig", "denied", "perhaps another's"],
)
def test_unknown_is_never_idle(tmp_path: Path, nvml: FakeNvml) -> None:
    rig = Stops(tmp_path, nvml, "0")
    rig.run(200)
    assert rig.ended == []


def test_a_look_that_failed_begins_the_time_anew(tmp_path: Path) -> None:
    nvml = FakeNvml(Board(utilisation=repeat(0)))
    rig = Stops(tmp_path, nvml, "0")
    rig.run(50)
    nvml.errors = DENIED
    rig.run(1)
    nvml.errors = {}
    rig.run(50)
    assert rig.ended == []


def test_without_the_rule_nothing_is_ended(tmp_path: Path) -> None:
    rig = Stops(tmp_path, FakeNvml(Board(utilisation=repeat(0))), "0", minutes=0)
    rig.run(500)
    assert rig.ended == []


@pytest.fixture
def stuck(tmp_path: Path) -> Task:
    """The task of a training that will stand still."""
    task = Task(stage="train", settings={"architecture": "mlp"})
    task.write(Storage(tmp_path))
    return task


def _run(root: Path, task: Task, setup: str, *, limit_s: float) -> tuple[int | None, str]:
    """The element of a stuck task, whose watcher ends it after 0.05 minutes; None where it has not ended in time."""
    document = {"paths": [str(Storage(root).run(task.id))], "command": [sys.executable, "-c", STUCK], "gpus": 1}
    (root / "elements.json").write_text(json.dumps({"elements": [document]}))
    environment = {
        **os.environ, "PYTHONPATH": f"{pynvml_folder(root, setup)}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1",
        "CUDA_VISIBLE_DEVICES": "0",
        "TANDA_BESIDE": json.dumps([[sys.executable, "-m", "jobs.gpu_watch", "0.05", "1"]]),
    }  # fmt: skip
    command = [sys.executable, "-m", "slurm.element", str(root / "elements.json"), "0"]
    with (root / "element.log").open("wb") as log:
        element = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        code: int | None = element.wait(limit_s)
    except subprocess.TimeoutExpired:
        code = None
        attempts = history(Storage(root).run(task.id))
        os.kill(attempts[-1].pid or 0, signal.SIGKILL)  # it stands still, and so hears nothing
        element.wait(30)
    return code, (root / "element.log").read_text()


def test_a_task_that_stands_still_is_recorded_and_ended(tmp_path: Path, stuck: Task) -> None:
    code, words = _run(tmp_path, stuck, "FakeNvml(Board(utilisation=cycle([0])))", limit_s=60)
    assert code == 1
    folder = Storage(tmp_path).run(stuck.id)
    record, (attempt,) = read_record(folder), history(folder)
    assert record is not None
    assert (record.state, record.cause, record.stage) == ("failed", "GPU idle", "train")
    assert record.message is not None
    assert "under 1 % for 0 minutes (train, epoch 2 of 5)" in record.message and "or hung" in record.message
    assert (attempt.state, attempt.cause, record.about.gpus) == ("failed", "GPU idle", 1)
    assert record.gpu is not None and record.gpu.mean == 0.0 and record.gpu.idle_s > 2
    assert "stand_still" in (folder / "log.txt").read_text()  # where it stood
    assert f"gpu: {stuck.id} ended: its GPU was" in words
    evidence = Evidence(id=stuck.id, record=record, attempts=(AttemptEvidence(number=1, ended=1.0),), exit_code=-9)
    decided = decide(evidence, stale_s=60.0)
    assert (decided.state, decided.cause) == ("failed", "GPU idle")


def test_without_a_driver_it_goes_on(tmp_path: Path, stuck: Task) -> None:
    code, words = _run(tmp_path, stuck, "FakeNvml(errors={'nvmlInit': 'Driver Not Loaded'})", limit_s=9)
    assert code is None
    assert words.splitlines().count("gpu: not measured: NVML: Driver Not Loaded") == 1
    record = read_record(Storage(tmp_path).run(stuck.id))
    assert record is None or record.cause != "GPU idle"


def test_a_task_that_ended_meanwhile_keeps_its_end(tmp_path: Path, stuck: Task) -> None:
    storage = Storage(tmp_path)
    lines: list[str] = []
    script = "import signal, sys, time; from pathlib import Path; from jobs.attempt import begin;"
    script += "signal.signal(signal.SIGUSR1, signal.SIG_IGN);"
    script += "begin(Path(sys.argv[1])).end(state='done', ended=time.time()); print('ready', flush=True);time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder = storage.run(stuck.id)
    child = subprocess.Popen([sys.executable, "-c", script, str(folder)], env=environment, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        now = time.time()
        done = Record(id=stuck.id, stage="train", state="done", started=now, ended=now, running_s=1.0, attempt=1)
        done.write(storage)
        task = IdleTask(folder=folder, pid=child.pid, cpus=1, idle_s=600.0, cpu_s=590.0)
        assert not end_idle(task, IdleRule(minutes=10), lines.append)
        assert child.poll() is None and read_record(folder) == done and lines == []
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
