"""A submission that Slurm refuses in its middle: what can run is queued, what can never run is not, people are told."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from recording_fixture import Recording
from rich.console import Console
from small_manifest import write_manifest

from jobs.storage import Storage
from pipeline import submission, submit
from pipeline.decisions.closing import CLOSE
from pipeline.manifest import load
from pipeline.plan import Plan, make_plan
from pipeline.submit import submit_plan
from pipeline.submit_result import SubmitResult, print_submitted
from sharedfs.errors import InputError
from slurm.array import Array, Submitted
from slurm.commands import warn_once
from slurm.errors import NotNowError, SubmitError

REASON = "sbatch: error: invalid partition specified: gone"


@dataclass(slots=True)
class Refusing(Recording):
    """Refuses the arrays of a stage, as ``error`` does; a closing job by ``close``."""

    stage: str = ""
    error: type[SubmitError] = SubmitError
    asked: list[str] = field(default_factory=list)

    def submit(self, array: Array) -> Submitted:
        self.asked.append(array.name)
        if array.name.endswith(f"-{self.stage}"):
            raise self.error(REASON)
        return Recording.submit(self, array)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(load(write_manifest(tmp_path)))


@pytest.fixture
def submitted_to(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Callable[[Recording], SubmitResult]:
    def submitted_to(executor: Recording) -> SubmitResult:
        monkeypatch.setattr(submit, "make_executor", lambda _name, _manifest: executor)
        return submit_plan(plan, executor="slurm")

    return submitted_to


def printed(result: SubmitResult) -> str:
    out = io.StringIO()
    print_submitted(result, Console(file=out, width=60))
    return out.getvalue()


def ids(plan: Plan, *stages: str) -> set[str]:
    return {planned.id for planned in plan.tasks if planned.stage in stages}


def test_what_is_refused_for_good_and_all_that_needs_it_is_not_queued(
    plan: Plan, submitted_to: Callable[[Recording], SubmitResult]
) -> None:
    executor = Refusing(stage="train")
    result = submitted_to(executor)
    assert result.refused == dict.fromkeys(ids(plan, "train", "evaluate"), REASON) and result.held == {}
    assert [name.rpartition("-")[2] for name in executor.asked] == ["preprocess", "train", "close"]
    (kept,) = submission.read_all(Storage(plan.manifest.storage))
    assert {task for array in kept.arrays for tasks in array.elements.values() for task in tasks} == ids(
        plan, "preprocess"
    )
    assert kept.held == {}, "the closing job does not try again what is refused for good"
    assert result.exit_status == 2 and result.document()["not_queued"] == result.refused
    (line,) = [line for line in printed(result).splitlines() if REASON in line]
    assert line == f"8 refused: {REASON}; 1, 2 stay queued; once that is mended, submit again to queue the rest"


def test_what_is_not_taken_now_is_left_to_the_closing_job_with_all_that_needs_it(
    plan: Plan, submitted_to: Callable[[Recording], SubmitResult]
) -> None:
    executor = Refusing(stage="train", error=NotNowError)
    result = submitted_to(executor)
    assert result.held == dict.fromkeys(ids(plan, "train", "evaluate"), REASON) and result.refused == {}
    assert [name.rpartition("-")[2] for name in executor.asked] == ["preprocess", "train", "close"]
    (kept,) = submission.read_all(Storage(plan.manifest.storage))
    assert kept.held == result.held and result.exit_status == 1


@pytest.mark.parametrize("error", [SubmitError, NotNowError])
def test_a_first_array_that_is_refused_leaves_nothing(
    error: type[SubmitError], plan: Plan, submitted_to: Callable[[Recording], SubmitResult]
) -> None:
    with pytest.raises(error, match="invalid partition"):
        submitted_to(Refusing(stage="preprocess", error=error))
    assert submission.read_all(Storage(plan.manifest.storage)) == []
    assert not list(Storage(plan.manifest.storage).submissions.iterdir())


def test_a_closing_job_that_is_refused_is_one_line_with_what_runs_without_it(
    plan: Plan, submitted_to: Callable[[Recording], SubmitResult]
) -> None:
    result = submitted_to(Refusing(stage="close"))
    assert result.refused == {CLOSE: REASON} and result.exit_status == 2
    assert result.submission is not None
    jobs = ", ".join(job for array in result.submission.arrays for job in array.job_ids)
    assert printed(result).splitlines()[-1] == (
        f"no closing job: {REASON}; {jobs} stay queued, but nothing is retried, and `tanda report` is yours to run"
    )


def test_part_of_an_array_that_is_refused_takes_what_needs_it_along(
    plan: Plan, submitted_to: Callable[[Recording], SubmitResult]
) -> None:
    result = submitted_to(Recording(room=3))  # the data set, and half of the trainings
    queued = {task for array in result.submission.arrays for tasks in array.elements.values() for task in tasks}  # type: ignore[union-attr]
    for planned in plan.tasks:
        assert planned.id in queued or planned.id in result.held
        if planned.id in queued:
            assert not set(planned.task.needs) & set(result.held)


def test_the_login_shells_cluster_is_said_once_and_several_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    warn_once.cache_clear()
    monkeypatch.setattr(submit, "make_executor", lambda _name, _manifest: Recording())
    manifest = write_manifest(tmp_path)
    monkeypatch.setenv("SLURM_CLUSTERS", "a,b")
    with pytest.raises(InputError, match=r"SLURM_CLUSTERS=a,b: .* by the profile's `clusters`"):
        submit_plan(make_plan(load(manifest)), executor="slurm")
    monkeypatch.setenv("SLURM_CLUSTERS", "other")
    plan = make_plan(load(manifest))
    for _ in range(2):
        submit_plan(plan, executor="slurm")
    assert capfd.readouterr().err == "tanda: SLURM_CLUSTERS: jobs go to cluster other\n"
    submit_plan(plan, executor="local")
