"""What the decisions go by is read as it lies on storage, and what they say is carried out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clock_fixture import OwnClock
from recording_fixture import Recording
from report_fixture import Made, data_files, finish_dataset, finish_train, make, make_run
from small_manifest import write_manifest

from jobs.attempt import STALE_S, begin
from jobs.context import Progress
from jobs.storage import Storage
from jobs.task import Provenance, read_record
from pipeline import close, status, submission, submit
from pipeline.decisions.retry import Retry
from pipeline.decisions.task_state import QueueEvidence, TaskState
from pipeline.manifest import load
from pipeline.manifest.model import Resources
from pipeline.plan import Plan, make_plan
from pipeline.submission import Queued, Submission, write_source
from pipeline.submit_result import SubmitResult
from sharedfs.documents import write_json
from slurm.job_state import JobState


class Stored:
    """A storage with a data set in two shards and a training on it, which the executor was handed as element 7_0."""

    def __init__(self, root: Path) -> None:
        run = make_run(data_files(root / "data"), group="g", name="a")
        resources = {**run.resources, "preprocess": Resources(shards=2), "train": Resources(pack=4)}
        self.made: Made = make(root, runs=(replace(run, resources=resources),))
        (self.train,) = (planned.id for planned in self.made.plan.tasks if planned.stage == "train")
        self.folder = self.made.storage.run(self.train)
        self.job: JobState | None = None
        self.clock = OwnClock()

    def ask(self, _storage: Storage, wanted: frozenset[str], _closing: object = None) -> dict[str, QueueEvidence]:
        return (
            {self.train: QueueEvidence(executor="slurm", job=self.job, packed=4)}
            if self.job and self.train in wanted
            else {}
        )

    def states(self) -> dict[str, TaskState]:
        return status.task_states(self.made.plan, clock=self.clock)

    def state(self, job: str | None = None, cause: str | None = None, **facts: Any) -> TaskState:
        self.job = JobState(id="7_0", state=job, cause=cause, **facts) if job else None
        return self.states()[self.train]

    def begin(self, *, age_s: float = 0.0, ran_s: float = 0.0) -> None:
        """Begin an attempt whose last heartbeat is so old by the storage's clock, so long after its start."""
        heartbeat = time.time() + self.clock.ahead - age_s
        attempt = begin(self.folder, Provenance(gpus=1), clock=OwnClock(began=heartbeat - ran_s))
        (attempt.path / "alive").touch()
        os.utime(attempt.path / "alive", (heartbeat, heartbeat))


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    stored = Stored(tmp_path)
    monkeypatch.setattr(status, "query", stored.ask)
    return stored


@pytest.mark.parametrize("ahead", [0.0, 3600.0, -3600.0])
def test_a_heartbeat_is_as_old_as_the_storages_clock_says(stored: Stored, ahead: float) -> None:
    """A node whose clock is an hour from the file server's shows a live run as running, a stale one as stale."""
    stored.clock = OwnClock(ahead=ahead)
    stored.begin(age_s=STALE_S - 10)
    assert stored.state("unknown").state == "running" and stored.state("gone").state == "running"
    stored.begin(age_s=STALE_S)
    assert stored.state("unknown").state == "unknown"
    assert stored.state("gone").state == "lost"


def test_the_storage_is_asked_for_its_time_once_and_only_where_a_heartbeat_matters(stored: Stored) -> None:
    stored.begin()
    for job in ("waiting", "running"):
        stored.state(job)
    assert stored.clock.asked == []
    stored.state("gone")
    assert stored.clock.asked == [stored.made.storage.runs]


def test_a_person_who_may_only_read_the_storage_judges_by_their_own_clock(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_clock: OwnClock, folder: Path) -> float:
        raise PermissionError(folder)

    monkeypatch.setattr(OwnClock, "on", refuse)
    stored.begin()
    assert stored.state("gone").state == "running"


def test_the_exit_code_is_the_last_that_the_tasks_own_element_wrote(stored: Stored) -> None:
    assert stored.state("failed", "error").cause == "error"
    (stored.folder / "exits").mkdir()
    write_json(stored.folder / "exits" / "7_0-9.json", {"exit_code": 1})
    write_json(stored.folder / "exits" / "7_0-10.json", {"exit_code": -9})
    write_json(stored.folder / "exits" / "8_0-11.json", {"exit_code": 1})
    assert stored.state("failed", "error").cause == "killed"
    (stored.folder / "exits" / "7_0-11.json").write_text("cut sh")
    assert stored.state("failed", "error").cause == "killed"


def test_the_record_of_an_earlier_attempt_hides_no_later_one(stored: Stored) -> None:
    finish_train(stored.made, stored.train, skill=0.5)
    record = read_record(stored.folder)
    assert record is not None
    replace(record, state="failed", cause="diverged").write(stored.made.storage)
    assert stored.state("failed", "time limit").cause == "diverged"
    stored.begin(age_s=1000.0)
    again = stored.state("failed", "time limit")
    assert (again.cause, again.attempts) == ("time limit", 2)


def test_a_result_whose_files_are_gone_is_lost_and_one_that_cannot_be_read_failed(stored: Stored) -> None:
    finish_train(stored.made, stored.train, skill=0.5)
    assert stored.state("gone").state == "done"
    (stored.folder / "model.pt").write_bytes(b"short")
    assert stored.state("gone").state == "lost"
    (stored.folder / "record.json").write_text('{"state": "done"}')
    broken = stored.state("gone")
    assert (broken.state, broken.cause) == ("failed", "error") and "not a record" in (broken.message or "")


def test_notes_and_progress_lie_in_the_tasks_folder(stored: Stored) -> None:
    assert stored.state().reason == "not submitted"
    write_json(stored.folder / "progress.json", {"epoch": 2})
    assert stored.state("running").progress == Progress(epoch=2)
    assert stored.state("waiting").progress is None
    stored.begin()
    assert stored.state("gone").progress == Progress(epoch=2)
    write_json(stored.folder / "held.json", {"reason": "the canary failed"})
    assert stored.state("waiting").reason == "the canary failed"
    assert stored.state("failed", "error").reason == "held: the canary failed"
    assert stored.state("running").reason is None


def test_a_damaged_note_is_told_and_hides_nothing(stored: Stored) -> None:
    write_json(stored.folder / "held.json", {"why": "?"})
    assert stored.state("waiting", reason="Priority").state == "waiting"
    write_json(stored.folder / "held.json", {})
    assert stored.state("waiting", reason="Priority").reason == "Priority"


def test_gpu_hours_are_shared_by_what_was_packed_or_planned(stored: Stored) -> None:
    stored.begin(ran_s=4 * 3600)
    assert stored.state("failed", "error").gpu_hours == 1.0
    assert stored.state("failed", "error", gpu_hours=2.0).gpu_hours == 0.5


def test_nothing_is_asked_about_what_is_done_nor_about_shards_of_a_finished_data_set(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = stored.made.plan.tasks
    *shards, data = (planned for planned in tasks if planned.stage == "preprocess")
    assert len(shards) == 2
    finish_dataset(stored.made, data)
    asked: list[set[str]] = []
    monkeypatch.setattr(status, "query", lambda _storage, wanted, _closing=None: asked.append(set(wanted)) or {})
    states = stored.states()
    assert [states[planned.id].state for planned in (*shards, data)] == ["done"] * 3
    assert asked == [{planned.id for planned in tasks if planned.stage != "preprocess"}]


def test_a_task_that_slurm_cancelled_for_want_of_its_data_failed_for_that(stored: Stored) -> None:
    (data,) = (planned for planned in stored.made.plan.tasks if planned.stage == "preprocess" and planned.after)
    finish_dataset(stored.made, data)
    assert stored.state("failed", "cancelled").cause == "cancelled"
    record = read_record(stored.made.storage.run(data.id))
    assert record is not None
    replace(record, state="failed", cause="error").write(stored.made.storage)
    assert stored.state("failed", "cancelled").cause == "upstream failed"


def test_what_slurm_holds_since_a_start_failed_is_released(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recording()
    waiting = TaskState(id="", state="waiting", queued=True, executor="slurm", job="7_0")
    monkeypatch.setattr(submit, "make_executor", lambda _name, _manifest: recorder)
    for released, reason in enumerate(("Priority", "launch failed requeued held")):
        states = {planned.id: replace(waiting, id=planned.id, reason=reason) for planned in stored.made.plan.tasks}
        stood = status.Standing(states=states, undone=None)
        monkeypatch.setattr(submit, "standing", lambda _plan, stood=stood, **_clock: stood)
        assert submit.submit_plan(stored.made.plan, executor="slurm").released == released
    assert recorder.orders == [("release", ("7_0",))]


# The closing job.


class Closed:
    """A plan whose tasks all stand as done, but for some; what the closing job of a submission of it did."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan = make_plan(load(write_manifest(root)))
        self.storage = Storage(self.plan.manifest.storage)
        self.states = {planned.id: TaskState(id=planned.id, state="done") for planned in self.plan.tasks}
        self.submitted: list[Mapping[str, Retry]] = []
        self.reports = 0
        monkeypatch.setattr(close, "task_states", lambda _plan: self.states)
        monkeypatch.setattr(close, "submit_plan", self._submit)
        monkeypatch.setattr(close, "build", self._build)

    def _submit(self, _plan: Plan, *, executor: str, changes: Mapping[str, Retry], continues: str) -> SubmitResult:
        assert executor == "slurm" and "-small" in continues
        self.submitted.append(dict(changes))
        return SubmitResult(submission=None, already_done=0, already_queued=0)

    def _build(self, _plan: Plan, _states: Mapping[str, TaskState]) -> None:
        self.reports += 1

    def submission(self, *tasks: str) -> Submission:
        """A submission of these tasks, with submitit's own files of it and of its closing job."""
        begun = submission.begin(self.storage, manifest=self.plan.manifest.name, executor="slurm", git_commit=None)
        elements = {f"7_{place}": (task,) for place, task in enumerate(tasks)}
        array = Queued(stage="train", group="g", job_ids=("7",), elements=elements, mem_gb=0.5)
        whole = begun.with_array(array)
        whole.write(self.storage)
        folder = self.storage.submissions / whole.name
        write_source(folder, self.plan)
        for name in ("g-train.0", "close.0"):
            (folder / f"{self.plan.manifest.name}-{name}").mkdir()
        return whole

    def close(self, mine: Submission) -> int:
        return close.close_submission(self.storage.submissions / mine.name)

    def left(self, sent: Submission) -> list[str]:
        """Folders of submitit's that are still there."""
        folder = self.storage.submissions / sent.name
        return sorted(
            path.name.removeprefix(f"{self.plan.manifest.name}-") for path in folder.iterdir() if path.is_dir()
        )


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Closed:
    return Closed(tmp_path, monkeypatch)


def _trains(closed: Closed) -> list[str]:
    return [planned.id for planned in closed.plan.tasks if planned.stage == "train"]


def test_a_submission_that_is_done_is_reported_and_cleared_away(closed: Closed) -> None:
    mine = closed.submission(*_trains(closed))
    assert closed.close(mine) == 0
    assert (closed.submitted, closed.reports, closed.left(mine)) == ([], 1, ["close.0"])


def test_what_deserves_it_is_submitted_again_and_nothing_is_cleared_away(closed: Closed) -> None:
    killed, diverged, *_ = _trains(closed)
    mine = closed.submission(killed, diverged)
    closed.states[killed] = TaskState(id=killed, state="failed", cause="killed")
    assert closed.close(mine) == 0
    closed.states[diverged] = TaskState(id=diverged, state="failed", cause="diverged")
    assert closed.close(mine) == 1
    assert closed.submitted == [{killed: Retry(reason="killed")}] * 2
    assert (closed.reports, closed.left(mine)) == (2, ["close.0", "g-train.0"])


def test_jobs_of_an_edited_manifest_keep_what_they_start_from(closed: Closed) -> None:
    mine = closed.submission(*_trains(closed))
    edited = closed.submission("0123456789abcdef")
    assert closed.close(mine) == 0
    assert (closed.left(mine), closed.left(edited)) == (["close.0"], ["close.0", "g-train.0"])


@pytest.mark.parametrize(
    ("checkpoint_s", "progressed"),
    [
        pytest.param(5.0, True, id="a checkpoint since the newest start"),
        pytest.param(-5.0, False, id="an earlier attempt's checkpoint"),
        pytest.param(None, False, id="no checkpoint"),
    ],
)
def test_past_the_budget_a_time_limit_is_tried_again_by_its_checkpoint(
    closed: Closed, checkpoint_s: float | None, progressed: bool
) -> None:
    task, *_ = _trains(closed)
    for _ in range(closed.plan.manifest.retries + 1):
        mine = closed.submission(task)
    folder = closed.storage.run(task)
    started = 1_700_000_000.0
    folder.mkdir(parents=True)
    newest = begin(folder)
    os.utime(newest.path / "start.json", (started, started))  # by the storage's clock: this node's is far from it
    if checkpoint_s is not None:
        (folder / "checkpoint.pt").touch()
        os.utime(folder / "checkpoint.pt", (started + checkpoint_s, started + checkpoint_s))
    closed.states[task] = TaskState(id=task, state="failed", cause="time limit")
    assert closed.close(mine) == int(not progressed)
    assert closed.submitted == [{task: Retry(reason="time limit, and it made progress")}] * progressed
