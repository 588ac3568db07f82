"""Results made again: which, what is refused, and that they are put back where nothing was queued."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from recording_fixture import Recording
from report_fixture import (
    DROPOUT,
    Made,
    amend_record,
    data_files,
    finish_all,
    finish_evaluate,
    finish_trial,
    make,
    make_run,
    make_search,
)
from rich.console import Console
from small_manifest import tanda, write_manifest

from jobs.attempt import begin, history, mark_former
from jobs.entry import run as run_task
from jobs.task import is_done, read_record
from pipeline import submission, submit
from pipeline.manifest.model import Resources
from pipeline.plan import Plan
from pipeline.queue import queue_history
from pipeline.scripts import dry_run
from pipeline.show import changed_lines
from pipeline.status import Standing, done_on_storage, task_states
from pipeline.submit import submit_plan
from pipeline.submit_result import SubmitResult, print_submitted
from pipeline.why import explain
from sharedfs.errors import InputError
from slurm.array import Array, Submitted
from slurm.errors import SubmitError, UnknownExecutorError


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A run and a search, both done, on data sets of their own."""
    data = data_files(tmp_path / "run")
    deep = make_search(data_files(tmp_path / "deep", "portuguese"), name="deep", space=DROPOUT, trials=2)
    made = make(tmp_path, runs=(make_run(data, group="g", name="a"),), searches=(deep,))
    made.plan = replace(made.plan, manifest=replace(made.plan.manifest, resources={"close": Resources()}))
    finish_all(made, {})
    for number in range(2):
        finish_trial(made, 0, number, skill=0.4 + 0.1 * number)
    for row in made.plan.rows:
        finish_evaluate(made, row.evaluate, skill=0.5)
    for planned in made.plan.tasks:
        if planned.stage == "preprocess":
            (made.storage.dataset(planned.id)).mkdir(parents=True)
    return made


def _task(plan: Plan, stage: str, group: str) -> str:
    return next(planned.id for planned in plan.tasks if (planned.stage, planned.group) == (stage, group))


def _files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b""
        for path in root.rglob("*")
        if {"log.txt", "submissions", "locks", "local"}.isdisjoint(path.parts)
    }


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recording], Recording]:
    def use(executor: Recording) -> Recording:
        monkeypatch.setattr(submit, "make_executor", lambda _name, _manifest: executor)
        return executor

    return use


class _Refusing(Recording):
    """Refuses for good whatever comes after so many arrays."""

    def __init__(self, after: int = 0) -> None:
        super().__init__()
        self.after = after

    def submit(self, array: Array) -> Submitted:
        if len(self.arrays) >= self.after:
            raise SubmitError("sbatch: error: invalid partition specified: gone")
        return super().submit(array)


def _printed(result: SubmitResult) -> str:
    out = io.StringIO()
    print_submitted(result, Console(file=out, width=200))
    return out.getvalue()


def test_what_is_made_again_and_what_stays_is_reported(made: Made, use: Callable[[Recording], Recording]) -> None:
    use(Recording())
    result = submit_plan(made.plan, executor="slurm", rerun="deep")
    winner = _task(made.plan, "evaluate", "deep")
    assert result.rerun.remade == {winner} and result.rerun.left_out == set(made.plan.searches[0].trials)
    document = result.document()
    assert (document["remade"], document["left_out"]) == ([winner], sorted(made.plan.searches[0].trials))
    assert "1 made again, the former results are kept\n2 trials stay as they are" in _printed(result)


def test_trials_alone_are_refused(made: Made) -> None:
    for name in ("trial 0", "deep/trial"):
        with pytest.raises(InputError, match="trials and nothing else: trials are never made again"):
            submit_plan(made.plan, executor="slurm", rerun=name)


def test_a_data_set_of_a_search_is_not_made_again(made: Made, use: Callable[[Recording], Recording]) -> None:
    use(Recording())
    before = _files(made.storage.root)
    for plan in (made.plan, replace(made.plan, searches=())):  # also where another manifest has the search
        with pytest.raises(InputError, match=r"can't be made again: search \w+ has 2 trials on it, which stay") as one:
            submit_plan(plan, executor="slurm", rerun="data")
        assert "\n" not in str(one.value)
    assert _files(made.storage.root) == before
    assert submit_plan(made.plan, executor="slurm", rerun="spanish").rerun.remade == {
        planned.id for planned in made.plan.tasks if planned.group == "g" or planned.run == "spanish"
    }


def test_an_unknown_name_is_answered_with_groups_too(made: Made) -> None:
    with pytest.raises(InputError, match=r"no task 'dep' in .*; did you mean 'deep'"):
        submit_plan(made.plan, executor="slurm", rerun="dep")


@pytest.mark.parametrize("executor", [_Refusing(), Recording(room=0)], ids=["refused for good", "no room"])
def test_results_are_put_back_where_nothing_is_queued(
    made: Made, use: Callable[[Recording], Recording], executor: Recording
) -> None:
    train = _task(made.plan, "train", "g")
    begin(made.storage.run(train))
    before = _files(made.storage.root)
    use(executor)
    try:
        result = submit_plan(made.plan, executor="slurm", rerun="spanish")
        assert result.held and result.submission and result.submission.remade == ()
        assert result.rerun.remade == frozenset()
    except SubmitError:
        assert list(made.storage.submissions.iterdir()) == []
    after = _files(made.storage.root)
    assert {name for name in before.keys() ^ after.keys() if not name.endswith("superseded")} == set()
    assert all(after[name] == content for name, content in before.items())
    assert not task_states(made.plan)[train].queued and train in done_on_storage(made.plan)


def test_results_are_put_back_where_preparing_fails(
    made: Made, use: Callable[[Recording], Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Recording())
    evaluate = made.storage.run(_task(made.plan, "evaluate", "g"))
    (evaluate / "superseded").symlink_to(made.storage.root)  # a link there is followed nowhere
    before = _files(made.storage.root)
    with pytest.raises(OSError, match="is a link"):
        submit_plan(made.plan, executor="slurm", rerun="g/a")
    after = _files(made.storage.root)
    assert all(after[name] == content for name, content in before.items())
    assert is_done(made.storage, _task(made.plan, "train", "g"))
    assert list(made.storage.submissions.iterdir()) == []


def test_a_closing_job_refused_for_good_is_told_and_the_tasks_are_not_forgotten(
    made: Made, use: Callable[[Recording], Recording]
) -> None:
    use(_Refusing(after=2))
    result = submit_plan(made.plan, executor="slurm", rerun="g/a")
    assert result.refused == {submit.CLOSE: "sbatch: error: invalid partition specified: gone"}
    assert result.held == {} and result.exit_status == 2
    (kept,) = submission.read_all(made.storage)
    assert [array.stage for array in kept.arrays] == ["train", "evaluate", "close"]
    assert kept.held == result.held and kept.remade == tuple(sorted(result.rerun.remade))


def test_a_dry_run_shows_what_would_be_made_again_and_touches_nothing(made: Made) -> None:
    before = _files(made.storage.root)
    text = dry_run(made.plan, rerun="g")
    train, evaluate = _task(made.plan, "train", "g"), _task(made.plan, "evaluate", "g")
    lines = [f"# made again: g/a/train {train}", f"# made again: g/a/evaluate {evaluate}", "# --- demo-g-train"]
    assert text.splitlines()[:3] == lines
    assert dry_run(made.plan) == "" and _files(made.storage.root) == before
    with pytest.raises(UnknownExecutorError, match="unknown executor 'slrum'; legal: inline, local, slurm"):
        dry_run(made.plan, executor="slrum")


def test_what_was_done_for_a_former_result_does_not_count(made: Made, use: Callable[[Recording], Recording]) -> None:
    train = _task(made.plan, "train", "g")
    folder = made.storage.run(train)
    use(Recording())
    submit_plan(made.plan, executor="slurm", rerun="g/a")
    (first,) = submission.read_all(made.storage)
    again = replace(first, name="later", time=first.time + 1)
    failed = replace(first, name="earlier", time=first.time - 1, remade=())
    assert [each.submission for each in queue_history([failed, first, again], {train})[train]] == ["later"]
    assert len(queue_history([failed, replace(again, remade=())], {train})[train]) == 2
    assert history(folder) == [] and not (folder / "record.json").exists()


def test_attempts_at_a_former_result_are_in_no_record(tmp_path: Path) -> None:
    made = make(tmp_path, runs=(make_run(data_files(tmp_path / "d"), group="g", name="a"),))
    folder = made.storage.run(_task(made.plan, "train", "g"))
    former = [begin(folder) for _ in range(3)]
    for attempt in former:
        attempt.end(state="done", ended=2e12, running_s=1.0)
    mark_former(folder)
    assert run_task(folder) == 1  # what it needs is not there
    record = read_record(folder)
    assert record is not None and (record.attempt, record.former_attempts) == (4, 3)
    assert record.running_s < 1000 and [attempt.number for attempt in history(folder)] == [4]
    amend_record(made, folder.name)
    assert task_states(made.plan)[folder.name].attempts == 1


def test_what_earlier_code_made_is_named_with_what_can_be_made_again(made: Made) -> None:
    train, trials = _task(made.plan, "train", "g"), made.plan.searches[0].trials
    again = "they stay as they are; `tanda submit --rerun changed` makes them again"
    never = "2 trials of them are never made again, as they were compared with each other: another seed of their search"
    for changed, advice in (((train,), [again]), (trials, [never]), ((train, *trials), [again, never])):
        first, *lines = changed_lines(made.plan.tasks, dict.fromkeys(changed, ("made by revision 1",)))
        assert first.startswith(f"{len(changed)} done, made by revision 1: ")
        assert [line.startswith(known) for line, known in zip(lines, advice, strict=True)] == [True] * len(advice)


def test_scripts_to_submit_by_hand_make_nothing_again(tmp_path: Path) -> None:
    words = ("submit", write_manifest(tmp_path), "--sbatch-only", tmp_path / "scripts", "--rerun", "architectures")
    assert "--sbatch-only moves no result aside, so --rerun can't go with it" in tanda(*words, status=2)
    assert not (tmp_path / "scripts").exists()


def test_why_says_that_earlier_code_made_a_result(made: Made) -> None:
    train, trial = _task(made.plan, "train", "g"), made.plan.searches[0].trials[0]
    for task in (train, trial):
        amend_record(made, task, made_by={"model gone": {"revision": 1, "source": "s", "content": "c"}})
    assert explain(made.plan, train).splitlines()[1:] == [
        "succeeded after 1 attempt",
        "made by model gone, which this version does not have",
        "it stays as it is; `tanda submit --rerun g/a` makes it again",
    ]
    assert explain(made.plan, trial).endswith("which this version does not have")


def test_a_submission_elsewhere_imports_no_submitit() -> None:
    program = "import sys, pipeline.submit; assert 'submitit' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_what_is_done_by_the_time_it_is_queued_keeps_its_result(
    made: Made, use: Callable[[Recording], Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its element was taken for lost, and ended it between the look and the deed."""
    use(Recording())
    evaluate = _task(made.plan, "evaluate", "g")
    states = task_states(made.plan)
    states[evaluate] = replace(states[evaluate], state="lost")
    monkeypatch.setattr(submit, "standing", lambda _plan, **_how: Standing(states=states, undone=None))
    before = (made.storage.run(evaluate) / "record.json").read_bytes()
    result = submit_plan(made.plan, executor="slurm")
    assert result.submission is not None
    assert (made.storage.run(evaluate) / "record.json").read_bytes() == before
    assert is_done(made.storage, evaluate)
