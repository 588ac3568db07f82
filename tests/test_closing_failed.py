"""A closing job that failed is shown with its log, and the next submission does what it left undone."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from decisions_fixture import runs, stands
from recording_fixture import Recording
from report_fixture import Made, build_tables, two_runs
from rich.console import Console

from pipeline import queue, submit
from pipeline.closing_job import write_closed
from pipeline.decisions.closing import undone_closing
from pipeline.decisions.task_state import QueueEvidence
from pipeline.manifest.model import Resources
from pipeline.status import standing, states_document
from pipeline.submission import Queued, Submission
from pipeline.submit import submit_plan
from pipeline.submit_result import print_submitted
from slurm.job_state import JobState

NAME = "20260101-000000-demo"


def submission(*, closing: bool = True, **facts: Any) -> Submission:
    train = Queued(stage="train", group="g", job_ids=("7",), elements={"7_0": ("t",)}, mem_gb=1.0)
    close = Queued(stage="close", group="close", job_ids=("8",), elements={"8": ()}, mem_gb=1.0)
    plain = {"executor": "slurm", "user": "me", "time": 0.0, "git_commit": None, "notes_closing": True}
    arrays = (train, close) if closing else (train,)
    return Submission(name=NAME, manifest="demo", arrays=arrays, **{**plain, **facts})


def shown(state: str, cause: str | None = None, **facts: Any) -> QueueEvidence:
    return QueueEvidence(executor="slurm", job=JobState(id="8", state=state, cause=cause, **facts))


@pytest.mark.parametrize(
    ("evidence", "undone"),
    [
        (shown("waiting"), None),
        (shown("running"), None),
        (shown("unknown"), None),
        (shown("done"), None),  # its note may be seen later
        (shown("failed", "error"), "error"),
        (shown("failed", "out of memory"), "out of memory"),
        (shown("failed", "cancelled"), "cancelled"),
        (shown("gone", reason="nobody knows it"), "nobody knows it"),
    ],
)
def test_a_job_that_ended_otherwise_than_well_left_its_work_undone(evidence: QueueEvidence, undone: str | None) -> None:
    found = undone_closing(submission(), evidence, {})
    assert (found.reason if found else None) == undone


def test_a_closing_job_that_was_never_queued_is_missed_once_nothing_else_is_queued() -> None:
    tasks = runs()
    held = submission(closing=False, held={"close": "no more jobs"})
    assert undone_closing(held, None, tasks.states({"train a": stands("running", queued=True)})) is None
    found = undone_closing(held, None, tasks.states({}))
    assert found is not None and found.line.startswith("no closing job was queued (no more jobs): the report was not")


def test_what_it_did_not_try_again_is_what_its_own_submission_queued_last() -> None:
    tasks = runs()
    states = tasks.states(
        {"train a": stands("failed", submission=NAME), "train b": stands("lost", submission="20260102-000000-demo")}
    )
    found = undone_closing(submission(), shown("failed", "error"), states)
    assert found is not None and found.failed == tasks.ids("train a")
    assert "1 failed and not tried again" in found.line


class Closing:
    """A manifest whose tasks are all done, and whose closing job, 8, stands in Slurm as ``job`` says."""

    def __init__(self, made: Made) -> None:
        self.made, self.storage = made, made.storage
        resources = {**made.plan.manifest.resources, "close": Resources()}
        self.plan = replace(made.plan, manifest=replace(made.plan.manifest, resources=resources))
        self.job = JobState(id="8", state="failed", cause="error")
        self.folder = self.storage.submissions / NAME
        self.folder.mkdir(parents=True)
        submission().write(self.storage)
        self.asked = 0

    def observe(self, _storage: object, _name: str, sent: Mapping[str, object], *_: object) -> Any:
        self.asked += 1
        return {job: self.job if job == "8" else JobState(id=job, state="unknown", reason="silent") for job in sent}

    @property
    def line(self) -> str | None:
        undone = standing(self.plan).undone
        return undone.line if undone else None

    def report_now(self, later_s: float) -> None:
        """Build the report so many seconds after the newest record."""
        build_tables(self.made)
        newest = max(path.stat().st_mtime for path in self.storage.runs.glob("*/record.json"))
        os.utime(self.storage.reports / "demo" / "results.csv", (newest + later_s,) * 2)


@pytest.fixture
def closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Closing:
    closing = Closing(two_runs(tmp_path))
    monkeypatch.setattr(queue, "observe", closing.observe)
    return closing


def test_status_says_that_it_failed_why_and_where_its_log_is(closing: Closing) -> None:
    log = closing.folder / "log.txt"
    log.write_text("== 2026-01-01T00:00:00+0000 n1 job 8 start 1 ==\nPermissionError: reports: Permission denied\n")
    assert closing.line == (
        "the closing job 8 failed (PermissionError: reports: Permission denied): the report was not rebuilt; "
        f"its log: {log}; `tanda submit` makes up for it"
    )
    undone = standing(closing.plan).undone
    document = states_document(closing.plan, standing(closing.plan).states, undone)["closing"]
    assert document == {
        "submission": NAME, "job": "8", "reason": "PermissionError: reports: Permission denied", "log": str(log),
        "failed": (),
    }  # fmt: skip


def test_one_that_ended_before_its_first_line_is_explained_by_its_elements_log(closing: Closing) -> None:
    log = closing.folder / "demo-close.0" / "8_0_log.out"
    log.parent.mkdir()
    log.write_text("tanda: `module load gone/2` failed: nothing was run\nsrun: error: n1: task 0: Exited with exit 1\n")
    assert f"(tanda: `module load gone/2` failed: nothing was run): the report was not rebuilt; its log: {log};" in str(
        closing.line
    )


def test_nothing_is_said_once_the_report_is_newer_than_every_record(closing: Closing) -> None:
    closing.report_now(-10.0)
    assert closing.line is not None
    closing.report_now(10.0)
    assert closing.line is None
    # The same bytes: what counts is when it was built.
    os.utime(closing.storage.reports / "demo" / "results.csv", (0.0, 0.0))
    assert closing.line is not None
    build_tables(closing.made)
    assert closing.line is None


def test_one_that_did_its_work_is_not_asked_about(closing: Closing) -> None:
    write_closed(closing.folder, 1)
    assert (closing.line, closing.asked) == (None, 0)


def test_one_of_an_earlier_version_left_no_note_and_is_not_asked_about(closing: Closing) -> None:
    submission(notes_closing=False).write(closing.storage)
    assert (closing.line, closing.asked) == (None, 0)


def test_the_next_submission_queues_a_closing_job_alone(closing: Closing, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recording()
    monkeypatch.setattr(submit, "make_executor", lambda _name, _manifest: recorder)
    result = submit_plan(closing.plan, executor="slurm")
    assert [(array.name, array.after) for array in recorder.arrays] == [("demo-close", ())]
    assert result.submission is not None and [array.stage for array in result.submission.arrays] == ["close"]
    assert result.exit_status == 0
    monkeypatch.setattr(queue, "observe", lambda *_: {"1_0": JobState(id="1_0", state="waiting")})
    assert closing.line is None
    assert submit_plan(closing.plan, executor="slurm").submission is None


def test_submitting_while_slurm_is_silent_says_so(closing: Closing, monkeypatch: pytest.MonkeyPatch) -> None:
    write_closed(closing.folder, 0)
    evaluate = next(planned.id for planned in closing.plan.tasks if planned.stage == "evaluate")
    (closing.storage.run(evaluate) / "record.json").unlink()
    train = Queued(stage="evaluate", group="g", job_ids=("7",), elements={"7_0": (evaluate,)}, mem_gb=1.0)
    Submission(
        name="20260102-000000-demo", manifest="demo", executor="slurm", user="me", time=1.0, git_commit=None,
        arrays=(train,),
    ).write(_with_folder(closing, "20260102-000000-demo"))  # fmt: skip
    monkeypatch.setattr(submit, "make_executor", lambda _name, _manifest: Recording())
    result = submit_plan(closing.plan, executor="slurm")
    assert (result.submission, result.already_queued, result.unknown) == (None, 0, {evaluate: "silent"})
    assert result.exit_status == 1 and result.document()["unknown"] == {evaluate: "silent"}
    out = io.StringIO()
    print_submitted(result, Console(file=out, width=200))
    assert "1 left alone, as their state is unknown: silent; submit again once it is known" in out.getvalue()


def _with_folder(closing: Closing, name: str) -> Any:
    (closing.storage.submissions / name).mkdir()
    return closing.storage
