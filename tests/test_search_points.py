"""Points that a search tries first, trials that it takes from an earlier one, and what of stopped ones gc removes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from manifest_fixture import read
from search_fixture import SPACE, fake_train, make_study, run_inline, submit
from test_search_algorithms import CONDITIONAL

from jobs import models
from jobs.search.algorithms import random
from jobs.search.earlier import earlier_trials
from jobs.search.next_trial import observations_of, propose, seed_of
from jobs.search.points import IllegalPointError, draws_of
from jobs.search.space import read_space
from jobs.search.study import Study, read_trials
from jobs.testing import definition_with
from pipeline.gc import Unreferenced, find_unreferenced, remove
from pipeline.manifest.expand_searches import canonical
from pipeline.plan import make_plan
from sharedfs.errors import InputError

PARTS: dict[str, Any] = {
    "optimiser": {"choice": ["adam", {"sgd": {"momentum": {"uniform": [0.5, 0.99]}}}]},
    "weight_decay": {"choice": [0.0, 1e-5]},
}
EVERY = {setting.name: setting for setting in models.all_settings("mlp")}
FIRST = {"learning_rate": 0.001, "dropout": 0.25, "hidden_layers": [256, 128], "batch_size": 256}


def _space(text: dict[str, Any]) -> Any:
    return read_space(canonical(text, EVERY), EVERY.values())


@pytest.mark.parametrize("text", [SPACE, CONDITIONAL, PARTS], ids=["flat", "conditional", "parts"])
def test_the_draws_of_a_point_give_that_point(text: dict[str, Any]) -> None:
    space = _space(text)
    for seed in range(60):
        point = space.point(random.propose(space, [], seed))
        draws = draws_of(space, point)
        assert space.point(draws) == point
        assert space.point(draws_of(space, {**point, "epochs": 9}, whole=False)) == point


@pytest.mark.parametrize(("space", "point", "path", "words"), [
    (SPACE, {**FIRST, "dropout": 0.7}, ("dropout",), "must be from 0 to 0.5, not 0.7"),
    (SPACE, {**FIRST, "batch_size": 200}, ("batch_size",), "must be from 128 to 1024 in steps of 128, not 200"),
    (SPACE, {**FIRST, "dropout": True}, ("dropout",), "must be a number, not True"),
    (SPACE, {**FIRST, "hidden_layers": [7]}, ("hidden_layers",), r"must be one of \[64\], \[256, 128\]"),
    (SPACE, {**FIRST, "epochs": 3}, ("epochs",), "is no setting of the space"),
    (SPACE, {"dropout": 0.1}, (), "has no batch_size: a point gives every setting"),
    (CONDITIONAL, {"hidden_layers": [64], "dropout": 0.2, "learning_rate": 0.01}, ("dropout",), "no setting of the"),
    (CONDITIONAL, {"hidden_layers": [7], "learning_rate": 0.01}, (), "is none of the options of depth"),
    (PARTS, {"optimiser": {"sgd": {"momentum": 0.2}}, "weight_decay": 0}, ("optimiser", "sgd", "momentum"), "from 0.5"),
    (PARTS, {"optimiser": "adamw", "weight_decay": 0}, ("optimiser",), "must be one of adam, sgd, not 'adamw'"),
])  # fmt: skip
def test_a_point_that_the_space_cannot_give_is_told(
    space: dict[str, Any], point: dict[str, Any], path: tuple[str, ...], words: str
) -> None:
    with pytest.raises(IllegalPointError, match=words) as caught:
        draws_of(_space(space), point)
    assert caught.value.path == path


# In a manifest.

HEAD = """\
searches:
  s:
    architecture: mlp
    space: {dropout: {uniform: [0, 0.5]}, batch_size: {choice: [64, 128]}}
"""


@pytest.mark.parametrize(("text", "line"), [
    ("    points: [{dropout: 0.1, batch_size: 64}, {dropout: 0.9, batch_size: 64}]\n",
     r":\d+:\d+: searches\.s\.points\.1\.dropout: must be from 0 to 0\.5, not 0\.9"),
    ("    points: [{dropout: 0.1}]\n", r"searches\.s\.points\.0: has no batch_size"),
    ("    trials: 1\n    points: [{dropout: 0.1, batch_size: 64}, {dropout: 0.2, batch_size: 64}]\n",
     r"searches\.s\.points: are 2, more than trials, 1"),
    ("    points: [{dropout: 0.1, batch_size: 64}, {dropout: 1e-1, batch_size: 64}]\n",
     r"searches\.s\.points\.1: is the same as point 1"),
    ("    continue: t\n", r":\d+:15: searches\.s\.continue: no search 't'; must be one of s"),
    ("    continue: s\n", r"searches\.s\.continue: s continues s, or is the same search"),
    ("    continue: other\n  other:\n    architecture: cnn\n    space: {dropout: {uniform: [0, 0.5]}}\n",
     r"searches\.s\.continue: other is a search of cnn by validation_balanced_accuracy"),
    ("    continue: o\n  o:\n    architecture: mlp\n    max_length: 7\n    space: {dropout: {uniform: [0, 0.1]}}\n",
     r"searches\.s\.continue: o has other data"),
])  # fmt: skip
def test_what_a_manifest_may_not_say_of_them(text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line):
        read(tmp_path, HEAD + text)


def test_they_are_in_the_id_where_they_are_given(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / name).write_text(f"title,category\nuna cosa {name},A\n")

    def planned(text: str, name: str = "s") -> dict[str, Any]:
        plan = make_plan(read(tmp_path, HEAD + text))
        search = next(search for search in plan.searches if search.search.name == name)
        document = plan.by_id()[search.trials[0]].task.settings["search"]
        assert isinstance(document, dict)
        return {**document, "id": search.id}

    plain = planned("")
    assert "points" not in plain and "continues" not in plain
    assert planned("    points: []\n") == plain
    given = planned("    points: [{dropout: 0, batch_size: 128}]\n")
    assert given["points"] == ({"dropout": 0.0, "batch_size": 128},) and given["id"] != plain["id"]
    second = "  t:\n    architecture: mlp\n    continue: s\n    space: {dropout: {uniform: [0, 0.2]}}\n"
    assert planned(second, "t")["continues"] == plain["id"]


# As trials run.


def test_the_points_are_tried_first_and_the_others_learn_of_them(tmp_path: Path) -> None:
    points = [FIRST, {**FIRST, "dropout": 0.0}]
    study = make_study(tmp_path, 4, epochs=1, points=points)
    assert run_inline(study, range(4), fake_train()) == [0] * 4
    trials = read_trials(study)
    assert [trial.point["dropout"] for trial in trials[:2]] == [0.25, 0.0]
    assert trials[0].point["hidden_layers"] == (256, 128)
    assert trials[2].point not in [trial.point for trial in trials[:2]]
    assert all(trial.draws.keys() == trials[2].draws.keys() for trial in trials)


def _continued(study: Study, **given: Any) -> Study:
    definition = definition_with("mlp", study.definition.dataset, algorithm="tpe", continues=study.id, **given)
    return Study(study.storage, definition)


def test_the_legal_trials_of_the_earlier_search_are_history_alone(tmp_path: Path) -> None:
    earlier = make_study(tmp_path, 8, epochs=2, algorithm="random")
    assert run_inline(earlier, range(8), fake_train()) == [0] * 8
    space = {**SPACE, "dropout": {"uniform": [0.0, 0.25]}}
    study = _continued(earlier, settings={"epochs": 2}, space=space)
    legal = [trial for trial in read_trials(earlier) if trial.point["dropout"] <= 0.25]
    assert 0 < len(legal) < 8
    taken = earlier_trials(study)
    assert [trial.number for trial in taken] == [trial.number for trial in legal]
    assert [study.space().point(trial.draws) for trial in taken] == [trial.point for trial in legal]
    assert len(observations_of(study, taken)) == len(legal)
    submit(study, 1)
    assert read_trials(study) == [], "they are none of its trials"
    assert propose(study, 0, []) != propose(Study(study.storage, earlier.definition), 0, [])
    plain = Study(study.storage, definition_with("mlp", study.definition.dataset, algorithm="tpe",
                                                 settings={"epochs": 2}, space=space))  # fmt: skip
    assert seed_of(study, 0, 0) == seed_of(plain, 0, 0), "the seed knows no data set, nor a search that does"


def test_a_setting_that_is_fixed_now_must_have_been_the_same(tmp_path: Path) -> None:
    earlier = make_study(tmp_path, 9, epochs=1, algorithm="random")
    assert run_inline(earlier, range(9), fake_train()) == [0] * 9
    space = {name: SPACE[name] for name in SPACE if name != "hidden_layers"}
    study = _continued(earlier, settings={"epochs": 1, "hidden_layers": [64]}, space=space)
    same = [trial.number for trial in read_trials(earlier) if trial.point["hidden_layers"] == (64,)]
    assert 0 < len(same) < 9 and [trial.number for trial in earlier_trials(study)] == same


def test_an_earlier_search_that_has_not_begun_has_no_trials(tmp_path: Path) -> None:
    study = _continued(make_study(tmp_path, 1), settings={"epochs": 9}, space=SPACE)
    assert earlier_trials(study) == []


# What gc removes.


def test_gc_drops_the_state_of_stopped_trials_once_none_can_be_promoted(tmp_path: Path) -> None:
    study = make_study(tmp_path, 9, stopping={"asha": {"grace_epochs": 1, "reduction": 3}})
    plan = _plan_of(study, 9)
    assert run_inline(study, range(8), fake_train()) == [0] * 8
    stopped = [trial for trial in read_trials(study) if trial.state == "stopped"]
    for trial in stopped:
        (trial.folder / "checkpoint.pt").write_bytes(b"x" * 1000)
    assert stopped and not _checkpoints(study, plan), "the ninth may still change who is promoted"
    assert run_inline(study, [8], fake_train()) == [0]
    stopped = [trial for trial in read_trials(study) if trial.state == "stopped"]
    waste = _checkpoints(study, plan)
    assert {found.path.parent for found in waste} <= {trial.folder for trial in stopped} and len(waste) > 2
    assert remove(study.storage, waste) == sum(found.size for found in waste)
    assert [trial.state for trial in read_trials(study)].count("stopped") == len(stopped), "their results stay"


def _plan_of(study: Study, trials: int) -> Any:
    tasks = tuple(study.task(number).id for number in range(trials))
    search = SimpleNamespace(id=study.id, trials=tasks)
    manifest = SimpleNamespace(storage=study.storage.root)
    return SimpleNamespace(manifest=manifest, searches=(search,), tasks=[SimpleNamespace(id=task) for task in tasks])


def _checkpoints(study: Study, plan: Any) -> list[Unreferenced]:
    return [found for found in find_unreferenced(study.storage, [plan]) if found.path.name == "checkpoint.pt"]
