"""A job that Slurm shows under a number of ours, and that is not ours: never shown as a task's, never cancelled."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from small_manifest import write_manifest
from typer.testing import CliRunner

from jobs.storage import Storage
from pipeline import submission
from pipeline.cli import app
from pipeline.manifest import load
from pipeline.plan import Plan, make_plan
from pipeline.status import task_states
from pipeline.submission import Queued
from pipeline.submit import cancel_plan
from slurm.errors import DeniedError
from slurm.executors.slurm import SlurmArrays

NAME, COMMENT = "m-data-preprocess", "tanda x preprocess data"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of Slurm's that print a file each, and write down what they were asked."""
    for name in ("squeue", "sacct", "scancel", "scontrol"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\ncat {tmp_path}/{name}.txt 2>/dev/null\n:\n'
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def queue(folder: Path, **facts: str) -> None:
    """squeue shows job 54, waiting."""
    shown = {
        "id": "54", "state": "PENDING", "exit_code": "0:0", "reason": "Priority", "node": "", "restarts": "0",
        "submit": str(int(time.time())), "start": "N/A", "end": "N/A", "tres": "", "cluster": "lab",
        "uid": str(os.getuid()), "name": NAME, "comment": COMMENT, **facts,
    }  # fmt: skip
    (folder / "squeue.txt").write_text("|".join(shown.values()) + "|\n")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Its data set's task was queued as job 54."""
    plan = make_plan(load(write_manifest(tmp_path)))
    storage = Storage(plan.manifest.storage)
    begun = submission.begin(storage, manifest=plan.manifest.name, executor="slurm", git_commit=None)
    array = Queued(
        stage="preprocess", group="data", job_ids=("54",), elements={"54": (plan.tasks[0].id,)}, mem_gb=1.0,
        name=NAME, comment=COMMENT, cluster="lab",
    )  # fmt: skip
    begun.with_array(array).write(storage)
    return plan


def cancelled(plan: Plan) -> tuple[int, int]:
    made = cancel_plan(plan)
    return made.ending, made.unknown


def calls(slurm: Path) -> str:
    return (slurm / "calls").read_text()


def test_our_own_job_is_shown_and_cancelled(slurm: Path, plan: Plan) -> None:
    queue(slurm)
    assert task_states(plan)[plan.tasks[0].id].state == "waiting"
    assert cancelled(plan) == (1, 0)
    assert "scancel 54" in calls(slurm)


@pytest.mark.parametrize(
    "facts",
    [{"cluster": "other"}, {"uid": "4711"}, {"name": "mywork"}, {"comment": "somebody's"}, {"submit": "1700000000"}],
    ids=lambda facts: next(iter(facts)),
)
def test_a_job_that_differs_in_anything_is_neither(facts: Mapping[str, str], slurm: Path, plan: Plan) -> None:
    queue(slurm, **facts)
    state = task_states(plan)[plan.tasks[0].id]
    assert (state.state, state.queued) == ("lost", False)
    assert (state.message or "").startswith("under its number Slurm has a job")
    assert cancelled(plan) == (0, 0)
    assert "scancel" not in calls(slurm)


def test_what_cannot_be_read_is_unknown_left_alone_and_said(slurm: Path, plan: Plan) -> None:
    queue(slurm, exit_code="half")
    state = task_states(plan)[plan.tasks[0].id]
    assert (state.state, state.queued) == ("unknown", True)
    assert "54|PENDING|half|" in (state.reason or "")
    done = CliRunner().invoke(app, ["cancel", str(plan.manifest.path)])
    assert done.exit_code == 1 and "1 not cancelled: their state is unknown" in done.output
    assert "scancel" not in calls(slurm)


def test_a_number_that_slurm_used_again_for_us_belongs_to_the_later_submission(slurm: Path, plan: Plan) -> None:
    storage = Storage(plan.manifest.storage)
    begun = submission.begin(storage, manifest=plan.manifest.name, executor="slurm", git_commit=None)
    array = Queued(
        stage="train", group="g", job_ids=("54",), elements={"54": (plan.tasks[1].id,)}, mem_gb=1.0, name="m-g-train"
    )
    begun.with_array(array).write(storage)
    queue(slurm, name="m-g-train", comment="", state="RUNNING", start=str(int(time.time())))
    states = task_states(plan)
    assert [states[planned.id].state for planned in plan.tasks[:2]] == ["lost", "running"]


def test_a_submission_or_queue_that_cannot_be_used_hides_nothing_else(
    slurm: Path, plan: Plan, capfd: pytest.CaptureFixture[str]
) -> None:
    queue(slurm, state="RUNNING", start=str(int(time.time())))
    storage = Storage(plan.manifest.storage)
    for executor, element in (("nonsense", "1_0"), ("slurm", "abc")):
        begun = submission.begin(storage, manifest="odd", executor=executor, git_commit=None)
        array = Queued(stage="train", group="g", job_ids=("1",), elements={element: (plan.tasks[1].id,)}, mem_gb=1.0)
        begun.with_array(array).write(storage)
    states = task_states(plan)
    assert [states[planned.id].state for planned in plan.tasks[:2]] == ["running", "unknown"]
    assert "nonsense" in (states[plan.tasks[1].id].reason or "")
    assert "the nonsense queue of user" in capfd.readouterr().err


def test_what_another_user_queued_is_shown_and_not_cancelled(
    slurm: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(slurm)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    state = task_states(plan)[plan.tasks[0].id]
    assert (state.state, state.queued, state.mine) == ("waiting", True, False)
    assert cancelled(plan) == (0, 0)
    assert "scancel" not in calls(slurm)


def test_a_job_that_slurm_does_not_let_us_cancel_is_one_line_and_the_others_are_cancelled(
    slurm: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(slurm)
    refusal = "scancel: error: Kill job error on job id 54: Access/permission denied"
    (slurm / "scancel").write_text(f"#!/bin/sh\necho scancel \"$@\" >> {slurm}/calls\necho '{refusal}' >&2; exit 1\n")
    done = CliRunner().invoke(app, ["cancel", str(plan.manifest.path)])
    assert (done.exit_code, done.output) == (2, f"tanda: {refusal}\n")
    monkeypatch.setattr("slurm.executors.slurm.IDS_PER_CALL", 1)
    with pytest.raises(DeniedError):
        SlurmArrays().cancel(["54", "55"])
    assert calls(slurm).endswith("scancel 54\nscancel 55\n")


def test_it_says_what_it_leaves_to_whom(slurm: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(slurm)
    owner, mine = pwd.getpwuid(os.geteuid()).pw_name, os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert cancel_plan(plan).left == {owner: 1}
    done = CliRunner().invoke(app, ["cancel", str(plan.manifest.path)])
    assert f"1 left to {owner}, who queued it" in done.output and done.exit_code == 2
    assert f"54 ({owner})" in CliRunner().invoke(app, ["status", str(plan.manifest.path)]).output


@pytest.mark.parametrize("planted", ["another's file", "a file of mine in another's folder", "mine, open to others"])
def test_a_planted_submission_does_not_have_us_cancel_another_job_of_ours(
    planted: str, slurm: Path, plan: Plan, capfd: pytest.CaptureFixture[str]
) -> None:
    # It says nothing of whose it is, as those of earlier versions, and names a job of ours that is no task of the plan.
    queue(slurm, id="77", name="mine", comment="")
    storage = Storage(plan.manifest.storage)
    begun = submission.begin(storage, manifest=plan.manifest.name, executor="slurm", git_commit=None)
    array = Queued(stage="train", group="g", job_ids=("77",), elements={"77": (plan.tasks[1].id,)}, mem_gb=1.0)
    folder = storage.submissions / begun.name
    replace(begun, uid=None).with_array(array).write(storage)
    if planted != "mine, open to others":
        os.chown(folder, 4711, 4711)
    if planted == "another's file":
        os.chown(folder / "submission.json", 4711, 4711)
    else:
        (folder / "submission.json").chmod(0o660)
    assert task_states(plan)[plan.tasks[1].id].mine is (planted != "another's file")
    assert cancelled(plan)[0] == 0
    assert "scancel" not in calls(slurm)
    assert planted == "another's file" or "what it holds is not used" in capfd.readouterr().err
