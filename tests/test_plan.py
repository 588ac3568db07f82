"""Planning is pure: the same manifest and files give the same tasks, each once, needs before what needs them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_fixture import HEAD, read, write
from report_fixture import five_results
from rich.console import Console

from jobs.task import STAGES
from pipeline.manifest import load
from pipeline.plan import Plan, PlannedArray, make_arrays, make_plan
from pipeline.show import plan_table

TWO_GROUPS = """\
defaults: {epochs: 2}
experiments:
  baseline:
    runs:
      MLP: {architecture: mlp}
      RNN: {architecture: rnn, language: portuguese}
  again:
    architecture: mlp
    seeds: [0, 1]
    runs: {same: {}}
searches:
  tuned:
    architecture: cnn
    trials: 3
    evaluate_best: 2
    refit_seeds: [7, 8]
    space: {dropout: {uniform: [0, 0.5]}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        (tmp_path / f"{name}.csv").write_text(f"title,category,language\nuno dos {name},x,spanish\n")
    return tmp_path


def planned(folder: Path, below: str = TWO_GROUPS, sets: tuple[str, ...] = ()) -> Plan:
    return make_plan(read(folder, below, sets))


def of_stage(plan: Plan, stage: str) -> list[Any]:
    return [task for task in plan.tasks if task.stage == stage]


def test_a_plan_is_the_same_for_the_same_manifest(folder: Path) -> None:
    first, second = planned(folder), planned(folder)
    assert [task.id for task in first.tasks] == [task.id for task in second.tasks]
    assert first == second
    assert make_arrays(first.tasks) == make_arrays(second.tasks)


def test_a_plan_holds_each_task_once_and_shares_what_runs_have_in_common(folder: Path) -> None:
    plan = planned(folder)
    ids = [task.id for task in plan.tasks]
    assert len(ids) == len(set(ids))
    assert len(of_stage(plan, "preprocess")) == 2  # all rows, and the Portuguese ones
    assert len(of_stage(plan, "trial")) == 3
    # MLP and `same` with seed 0 are one run: three fixed ones, and two refits.
    assert len(of_stage(plan, "train")) == 3 + 2
    assert len(of_stage(plan, "evaluate")) == 3 + 2 + 2
    same = [row for row in plan.rows if row.run in ("MLP", "same") and row.seed == 0]
    assert [row.group for row in same] == ["baseline", "again"]
    assert len({row.train for row in same}) == len({row.evaluate for row in same}) == 1


def test_needs_come_before_what_needs_them(folder: Path) -> None:
    plan = planned(folder)
    seen: set[str] = set()
    for task in plan.tasks:
        assert set(task.task.needs) <= seen
        seen.add(task.id)
    stages = [STAGES.index(task.stage) for task in plan.tasks]
    assert stages == sorted(stages)


def test_arrays_are_ordered_by_what_they_wait_for(folder: Path) -> None:
    arrays = make_arrays(planned(folder).tasks)
    where = {task.id: position for position, array in enumerate(arrays) for task in array.tasks}
    assert sum(len(array.tasks) for array in arrays) == len(where)
    for position, array in enumerate(arrays):
        assert all(other < position for other in array.after)
        waits = {where[need] for task in array.tasks for need in (*task.task.needs, *task.after)} - {position}
        assert waits == set(array.after)
        assert len({(task.stage, task.group, task.resources) for task in array.tasks}) == 1


def test_a_searchs_tasks(folder: Path) -> None:
    plan = planned(folder)
    (search,) = plan.searches
    trials = of_stage(plan, "trial")
    assert search.trials == tuple(task.id for task in trials)
    assert [task.task.settings["number"] for task in trials] == [0, 1, 2]
    assert len({str(task.task.settings["search"]) for task in trials}) == 1
    winners = [row for row in plan.rows if row.group == "tuned"]
    assert [(row.run, row.seed, row.train is None) for row in winners] == [
        ("winner", 0, True),
        ("rank 2", 0, True),
        ("refit", 7, False),
        ("refit", 8, False),
    ]
    by_id = plan.by_id()
    refits = [row.train for row in winners if row.train is not None]
    for row, waits in ((winners[0].evaluate, search.trials), *((train, search.trials) for train in refits)):
        assert set(by_id[row].after) == set(waits)


def test_more_trials_are_the_same_search(folder: Path) -> None:
    three, five = planned(folder), planned(folder, sets=("searches.tuned.trials=5",))
    assert three.searches[0].id == five.searches[0].id
    assert five.searches[0].trials[:3] == three.searches[0].trials


PLUMBING = {
    "resources": "resources.train.mem_gb=99",
    "the report": "report.language=es",
    "retries": "retries=0",
    "another name": "name=other",
    "the storage": "storage=elsewhere",
    "parallel": "searches.tuned.parallel=1",
    "the device": "defaults.device=cpu",
    "how often to save": "defaults.checkpoint_min=1",
    "shards": "resources.preprocess.shards=3",
    "a reference": "experiments.baseline.reference.MLP.test_loss=1",
    "a default that is a default": "defaults.dropout=0",
    "a default that nobody has": "defaults.sublinear=true",
}


@pytest.mark.parametrize("case", PLUMBING)
def test_ids_do_not_depend_on_plumbing(case: str, folder: Path) -> None:
    changed = planned(folder, sets=(PLUMBING[case],))
    own = [task.id for task in changed.tasks if "shard" not in task.task.settings]
    assert own == [task.id for task in planned(folder).tasks]


DECIDING = {
    "a setting": ("experiments.baseline.runs.MLP.epochs=9", 1),
    "a default": ("defaults.epochs=9", 3),
    "the length": ("data.max_length=9", 3),
}


@pytest.mark.parametrize("case", DECIDING)
def test_ids_depend_on_what_decides_the_result(case: str, folder: Path) -> None:
    change, other = DECIDING[case]
    before = {task.id for task in of_stage(planned(folder), "train") if task.run != "refit"}
    after = {task.id for task in of_stage(planned(folder, sets=(change,)), "train") if task.run != "refit"}
    assert len(after - before) == other


def test_ids_follow_the_files_content_and_not_its_place(folder: Path) -> None:
    before = [task.id for task in planned(folder).tasks]
    moved = folder / "moved"
    moved.mkdir()
    for name in "abc":
        (folder / f"{name}.csv").rename(moved / f"{name}.csv")
    assert [task.id for task in make_plan(load(write(moved, HEAD + TWO_GROUPS))).tasks] == before
    (moved / "a.csv").write_text("title,category,language\notro,x,spanish\n")
    changed = [task.id for task in make_plan(load(write(moved, HEAD + TWO_GROUPS))).tasks]
    assert not set(changed) & set(before)


def test_one_group_or_search_can_be_planned_alone(folder: Path) -> None:
    manifest = read(folder, TWO_GROUPS)
    assert {row.group for row in make_plan(manifest, only="again").rows} == {"again"}
    assert {task.stage for task in make_plan(manifest, only="tuned").tasks} == {
        "preprocess",
        "trial",
        "train",
        "evaluate",
    }
    with pytest.raises(ValueError, match="no group or search 'agin'; did you mean 'again'"):
        make_plan(manifest, only="agin")


def test_a_missing_data_file_is_an_error(folder: Path) -> None:
    (folder / "b.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.csv"):
        planned(folder)


def test_arrays_keep_resources_apart(folder: Path) -> None:
    below = (
        "experiments:\n  g:\n    architecture: mlp\n"
        "    runs: {A: {}, B: {seed: 1}, C: {seed: 2, resources: {train: {mem_gb: 32}}}}\n"
    )
    arrays = [array for array in make_arrays(planned(folder, below).tasks) if array.stage == "train"]
    assert sorted((array.resources.mem_gb, len(array.tasks)) for array in arrays) == [(8.0, 2), (32.0, 1)]


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_part_of_a_plan_makes_arrays_whose_needs_come_first(data: st.DataObject, tmp_path_factory: Any) -> None:
    plan = _shared_plan(tmp_path_factory)
    chosen = data.draw(st.lists(st.sampled_from(plan.tasks), unique_by=lambda task: task.id))
    arrays: tuple[PlannedArray, ...] = make_arrays(chosen)
    assert sorted(task.id for array in arrays for task in array.tasks) == sorted(task.id for task in chosen)
    assert all(other < position for position, array in enumerate(arrays) for other in array.after)


_PLANS: list[Plan] = []


def _shared_plan(tmp_path_factory: Any) -> Plan:
    if not _PLANS:
        folder = tmp_path_factory.mktemp("plan")
        for name in "abc":
            (folder / f"{name}.csv").write_text(f"title,category,language\nuno dos {name},x,spanish\n")
        _PLANS.append(planned(folder))
    return _PLANS[0]


def test_plans_compare_by_value(folder: Path) -> None:
    plan = planned(folder)
    assert replace(plan, rows=()) != plan


def test_a_plan_shows_with_how_little_time_training_may_start(tmp_path: Path) -> None:
    made = five_results(tmp_path)
    console = Console(width=200)
    shown = {}
    for executor in ("slurm", "local"):
        cluster = replace(made.plan.manifest.cluster, executor=executor, least_min=30)
        plan = replace(made.plan, manifest=replace(made.plan.manifest, cluster=cluster))
        with console.capture() as capture:
            console.print(plan_table(plan, ()))
        shown[executor] = capture.get()
    assert [line.split()[3] for line in shown["slurm"].splitlines() if "30 to 60 min" in line] == ["train"]
    assert "30 to" not in shown["local"] and "60 min" in shown["local"]
