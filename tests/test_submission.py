"""Submissions on shared storage: readable by anybody at any moment, one submitter at a time."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_manifest import write_manifest

from jobs.storage import Storage
from pipeline import queue, submission
from pipeline.decisions.closing import CLOSE
from pipeline.decisions.submission import out_of_reach, queued_elements
from pipeline.decisions.task_state import TaskState
from pipeline.manifest import load
from pipeline.plan import make_plan
from pipeline.queue import query
from pipeline.submission import SOURCE, Queued, snapshot, write_source
from slurm.job_state import JobState


def _queued(element: str, *tasks: str) -> Queued:
    return Queued(stage="train", group="baseline", job_ids=("7",), elements={element: tasks}, mem_gb=8.0)


def test_a_submission_reads_back(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    begun = submission.begin(storage, manifest="meli", executor="slurm", git_commit="abc")
    whole = begun.with_array(_queued("7_0", "a", "b"))
    whole.write(storage)
    assert submission.read_all(storage) == [whole]


def test_two_submissions_in_one_second_get_two_folders(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    names = {submission.begin(storage, manifest="m", executor="slurm", git_commit=None).name for _ in range(3)}
    assert len(names) == 3


def test_a_submission_being_written_or_broken_is_passed_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    storage = Storage(tmp_path)
    submission.begin(storage, manifest="m", executor="slurm", git_commit=None)
    broken = submission.begin(storage, manifest="m", executor="slurm", git_commit=None)
    (storage.submissions / broken.name / "submission.json").write_text('{"arrays": [{}]}')
    for _ in range(2):
        assert submission.read_all(storage) == []
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and told.startswith(
        f"tanda: {storage.submissions / broken.name}/submission.json: not a"
    )
    with pytest.raises(ValueError, match="not a submission"):
        submission.read(storage.submissions / broken.name)


def test_one_submitter_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def submit() -> None:
        with submission.exclusively(Storage(tmp_path)):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=submit) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_a_lock_left_by_a_killed_submitter_is_broken(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    lock = storage.locks / "submit"
    lock.mkdir(parents=True)
    os.utime(lock, (1, 1))
    with submission.exclusively(storage):
        assert lock.is_dir()
    assert list(storage.locks.iterdir()) == []


def test_the_snapshot_is_whole_and_has_no_caches(tmp_path: Path) -> None:
    snapshot(tmp_path)
    assert (tmp_path / "jobs" / "entry.py").is_file() and (tmp_path / "pipeline" / "cli.py").is_file()
    assert not list(tmp_path.rglob("*.pyc"))
    assert not [path for path in tmp_path.rglob("*") if path.stat().st_mode & 0o022]


def test_the_manifest_is_kept_in_a_persons_order(tmp_path: Path) -> None:
    plan = make_plan(load(write_manifest(tmp_path)))
    assert [row.run for row in plan.rows] == ["MLP", "CNN", "RNN", "linear"]
    write_source(tmp_path, plan)
    again = make_plan(load(tmp_path / SOURCE))
    assert again.rows == plan.rows and again.tasks == plan.tasks


def test_what_needs_another_users_local_processes_is_held(tmp_path: Path) -> None:
    plan = make_plan(load(write_manifest(tmp_path)))
    (data,) = (planned for planned in plan.tasks if planned.stage == "preprocess")
    rest = tuple(planned for planned in plan.tasks if planned != data)
    theirs = TaskState(id=data.id, state="running", executor="local", job="1_0", mine=False)
    states = {planned.id: TaskState(id=planned.id, state="waiting") for planned in rest}
    assert out_of_reach(plan.tasks, {**states, data.id: theirs}, rest).keys() == states.keys()
    assert queued_elements({data.id: theirs}, "local", frozenset()) == {}
    mine = replace(theirs, mine=True)
    assert out_of_reach(plan.tasks, {**states, data.id: mine}, rest) == {}
    assert queued_elements({data.id: mine}, "local", frozenset()) == {data.id: "1_0"}
    on_slurm = replace(theirs, executor="slurm")
    assert out_of_reach(plan.tasks, {**states, data.id: on_slurm}, rest) == {}
    assert queued_elements({data.id: on_slurm}, "slurm", frozenset()) == {data.id: "1_0"}


def test_a_submission_is_its_files_owners_and_not_who_it_says(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    begun = submission.begin(storage, manifest="m", executor="local", git_commit=None)
    replace(begun, uid=12345).write(storage)
    assert submission.read(storage.submissions / begun.name).uid == os.geteuid()
    # One of a version that had a queue for everybody: its elements' ids mean nothing in anybody's own.
    old = replace(begun.with_array(_queued("1_0", "a")), uid=None)
    old.write(storage)
    assert submission.read(storage.submissions / begun.name).uid is None
    assert query(storage, {"a"})["a"].job.state == "gone"


def test_a_closing_job_that_queues_what_is_tried_again_is_closing_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The submission that it makes has no closing job yet: its tasks must not be taken for over meanwhile."""
    storage = Storage(tmp_path)
    close = Queued(stage=CLOSE, group=CLOSE, job_ids=("8",), elements={"8": ()}, mem_gb=1.0)
    for number, arrays in ((7, (close,)), (9, ())):
        made = submission.begin(storage, manifest="m", executor="slurm", git_commit=None)
        train = Queued(stage="train", group="g", job_ids=(str(number),), elements={str(number): ("t",)}, mem_gb=1.0)
        replace(made, arrays=(train, *arrays)).write(storage)
    monkeypatch.setattr(
        queue, "observe", lambda _storage, _name, sent, *_: {job: JobState(id=job, state="running") for job in sent}
    )
    assert queue.is_closing(storage, "m")
    assert submission.newest(storage, "m", CLOSE) == submission.read_all(storage)[0]
