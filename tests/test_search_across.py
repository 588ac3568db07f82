"""Searches across architectures: as a manifest gives them, as they draw, and one from its first trial to its report."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_fixture import read
from search_fixture import SPACE, fake_train, make_study, objective, run_inline
from small_manifest import result_rows, tanda, with_only, write_manifest

from jobs import models
from jobs.plugins import ALGORITHMS, MODELS
from jobs.search.across import ARCHITECTURE, default_space, space_of
from jobs.search.algorithms import Observation
from jobs.search.earlier import earlier_trials
from jobs.search.importance import main_effects
from jobs.search.points import IllegalPointError, draws_of
from jobs.search.study import Study, open_study, read_trials
from jobs.settings import DataShape, values
from jobs.storage import Storage
from jobs.testing import definition_with, settings_with
from jobs.training.run import read_trained_recipe
from pipeline.manifest.model import Search
from pipeline.manifest.validation import read_value
from pipeline.plan import make_plan
from sharedfs.errors import InputError

NAMES = ("cnn", "linear", "mlp", "rnn")
OWN: dict[str, Any] = {
    "mlp": {"hidden_layers": {"choice": [[64], [128, 64]]}, "dropout": {"uniform": [0.0, 0.5]}, "epochs": 4},
    "cnn": {"filters_count": {"quniform": [10, 50, 10]}},
    "learning_rate": {"loguniform": [1e-4, 1e-1]},
}
DEFAULTS = {name: default_space(name) for name in NAMES}
SPACES = {"own": (OWN, ("cnn", "mlp")), "default": (DEFAULTS, NAMES)}
SHAPE = DataShape(max_length=32, vector_size=100)


def search(folder: Path, text: str) -> Search:
    return read(folder, f"searches:\n  s:\n{text}").searches[0]


# As a manifest gives them.


def test_what_is_fixed_and_searched_of_each(tmp_path: Path) -> None:
    found = search(
        tmp_path,
        """\
    architecture: [mlp, cnn]
    batch_size: 64
    space:
      learning_rate: {loguniform: [1e-4, 1]}
      mlp: {hidden_layers: {choice: [[64], [128]]}, epochs: 4}
      cnn: {filters_count: {quniform: [10, 50, 10]}}
    points: [{architecture: mlp, learning_rate: 0.01, hidden_layers: [64], epochs: 4}]
""",
    )
    assert found.architecture == "cnn, mlp" and list(found.fixed) == ["cnn", "mlp"]
    assert found.space["learning_rate"] == {"loguniform": [1e-4, 1.0]}
    assert found.fixed["mlp"].searched == {"learning_rate", "hidden_layers", "epochs"}
    assert found.fixed["cnn"].searched == {"learning_rate", "filters_count"}
    assert {each.settings.batch_size for each in found.fixed.values()} == {64}
    assert found.points[0]["architecture"] == "mlp"
    assert {name for name, _ in found.examples} == {"cnn", "mlp"}
    assert {made.epochs for name, made in found.examples if name == "mlp"} == {4}


def test_the_order_and_the_form_of_the_names_change_nothing(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / name).write_text(f"title,category\nuna cosa {name},A\n")
    ids = set()
    for names in ("[mlp, cnn]", "[cnn, mlp]", "{choice: [mlp, cnn]}"):
        text = f"searches:\n  s: {{architecture: {names}, space: default}}\n"
        ids.add(make_plan(read(tmp_path, text)).searches[0].id)
    assert len(ids) == 1


def test_one_architecture_is_the_search_that_it_was(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / name).write_text(f"title,category\nuna cosa {name},A\n")
    text = "searches:\n  s: {{architecture: {}, space: {{dropout: {{uniform: [0, 0.5]}}}}}}\n"
    plain, listed = (make_plan(read(tmp_path, text.format(names))) for names in ("mlp", "[mlp]"))
    assert plain.searches[0].id == listed.searches[0].id
    document: Any = plain.by_id()[plain.searches[0].trials[0]].task.settings["search"]
    assert document["architecture"] == "mlp" and "across" not in document


def test_a_default_space_leaves_what_the_search_says_itself(tmp_path: Path) -> None:
    alone = search(tmp_path, "    architecture: mlp\n    dropout: 0.1\n    space: default\n")
    assert set(alone.space) == set(DEFAULTS["mlp"] or {}) - {"dropout"} and alone.settings.dropout == 0.1
    space = "{learning_rate: {uniform: [0.1, 0.2]}, cnn: default, mlp: {}}"
    several = search(tmp_path, f"    architecture: [mlp, cnn]\n    batch_size: 9\n    space: {space}\n")
    assert set(several.space["cnn"]) == set(DEFAULTS["cnn"] or {}) - {"learning_rate", "batch_size"}


@pytest.mark.parametrize(("text", "line"), [
    ("    architecture: [mlp, cnm]\n    space: default\n", r"s\.architecture: unknown architecture 'cnm'.*'cnn'"),
    ("    architecture: []\n    space: default\n", r"s\.architecture: must be a name, or different names"),
    ("    architecture: [mlp, mlp]\n    space: default\n", r"s\.architecture: must be a name, or different names"),
    ("    architecture: {choose: [mlp]}\n    space: default\n", r"s\.architecture: must be a name, or different"),
    ("    architecture: 3\n    space: default\n", r"s\.architecture: must be a name, a list or a mapping, not 3"),
    ("    architecture: mlp\n    space: defaults\n", r"s\.space: must be default, or map settings to distributions"),
    ("    architecture: [mlp, cnn]\n    space: {mlp: 3}\n", r"s\.space\.mlp: must map settings to .*, not 3"),
    ("    architecture: [mlp, cnn]\n    space: {filters_count: {choice: [5]}}\n",
     r"s\.space\.filters_count: mlp has no such setting"),
    ("    architecture: [mlp, cnn]\n    space: {mlp: {filters_count: {choice: [5]}}}\n",
     r"s\.space\.mlp\.filters_count: the architecture has no such setting"),
    ("    architecture: [mlp, cnn]\n    space: {cnn: {filters_count: {quniform: [0, 10, 2]}}}\n",
     r"s\.space\.cnn\.filters_count\.quniform\.0: must be at least 1"),
    ("    architecture: [mlp, cnn]\n    space: {dropout: {choice: [0]}, cnn: {dropout: 0.1}}\n",
     r"s\.space\.cnn\.dropout: is already decided by another entry"),
    ("    architecture: [mlp, cnn]\n    space: {architecture: {choice: [{dropout: 0}, {dropout: 0.1}]}}\n",
     r"s\.space\.architecture: is taken"),
    ("    architecture: [mlp, linear]\n    epochs: 3\n    space: default\n", r"s\.epochs: linear has no such setting"),
    ("    architecture: [mlp, cnn]\n    dropout: 0.1\n    space: {mlp: {dropout: {uniform: [0, 0.5]}}}\n",
     r"s\.dropout: is searched: space has it too"),
    ("    architecture: [mlp, cnn]\n    max_length: 3\n    space: {cnn: {filters_length: {choice: [[2], [4]]}}}\n",
     r"s\.space\.cnn\.filters_length: a filter of 4 words is longer than max_length, 3"),
    ("    architecture: [mlp, cnn]\n    space: default\n    points: [{dropout: 0.1}]\n",
     r"s\.points\.0: has no architecture"),
    ("    architecture: [mlp, linear]\n    select_by: validation_loss\n    space: default\n", r"linear has no such"),
    ("    architecture: [mlp, cnn]\n    space: default\n    continue: t\n  t: {architecture: rnn, space: default}\n",
     r"s\.continue: t is a search of rnn by .*, this one of cnn, mlp"),
])  # fmt: skip
def test_what_a_manifest_may_not_say_of_them(text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line):
        search(tmp_path, text)


def test_an_architecture_without_a_default_space_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(MODELS.load("rnn"), "SPACE")
    with pytest.raises(InputError, match=r"s\.space: rnn declares no default space"):
        search(tmp_path, "    architecture: rnn\n    space: default\n")


# As they draw.


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
@pytest.mark.parametrize("kind", SPACES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), past=st.integers(0, 12))
def test_every_drawn_trial_is_legal_for_its_architecture(algorithm: str, kind: str, seed: int, past: int) -> None:
    text, names = SPACES[kind]
    space = space_of(text, names)
    history = [
        Observation(draws=ALGORITHMS.load("random").propose(space, [], seed + number), loss=float(number))
        for number in range(past)
    ]
    draws = ALGORITHMS.load(algorithm).propose(space, history, seed)
    point = space.point(draws)
    assert draws_of(space, point).keys() == draws.keys() and space.point(draws_of(space, point)) == point
    name = str(point.pop(ARCHITECTURE))
    known = {setting.name: setting for setting in models.all_settings(name)}
    for key, value in point.items():
        read_value(known[key], value)
    assert settings_with(name, **point).problem(SHAPE) is None
    assert {label.split(".")[0] for label in draws if "." in label} <= {name}, "only its own settings are drawn"


def test_tpe_comes_to_prefer_the_better_architecture() -> None:
    space, tpe = space_of(OWN, ("cnn", "mlp")), ALGORITHMS.load("tpe")
    better = 0
    for seed in range(3):
        history: list[Observation] = []
        for number in range(40):
            draws = tpe.propose(space, history, 1000 * seed + number)
            history.append(Observation(draws=draws, loss=float(space.point(draws)[ARCHITECTURE] == "cnn")))
        better += sum(past.loss == 0 for past in history[20:])
    assert 40 < better < 60, "of 60; 30 by chance, with a standard deviation of 4"


@pytest.mark.parametrize(("point", "path", "words"), [
    ({"learning_rate": 0.01}, (), "has no architecture"),
    ({"architecture": "rnn", "learning_rate": 0.01}, ("architecture",), "must be one of cnn, mlp, not 'rnn'"),
    ({"architecture": "cnn", "learning_rate": 0.01, "filters_count": 7}, ("filters_count",), "from 10 to 50"),
    ({"architecture": "cnn", "learning_rate": 0.01, "filters_count": 10, "dropout": 0}, ("dropout",), "no setting of"),
])  # fmt: skip
def test_a_point_that_the_space_cannot_give_is_told(point: dict[str, Any], path: tuple[str, ...], words: str) -> None:
    with pytest.raises(IllegalPointError, match=words) as caught:
        draws_of(space_of(OWN, ("cnn", "mlp")), point)
    assert caught.value.path == path


def test_importance_knows_the_architecture_and_settings_within_it() -> None:
    space, random = space_of(OWN, ("cnn", "mlp")), ALGORITHMS.load("random")
    trials: list[Any] = []
    for number in range(60):
        draws = random.propose(space, [], number)
        point = space.point(draws)
        value = 0.5 if point[ARCHITECTURE] == "cnn" else 0.2 * float(str(point["dropout"]))
        trials.append(SimpleNamespace(number=number, value=value, cause=None, draws=draws, epochs=4, epochs_asked=4))
    shares = main_effects(space, trials).shares
    assert set(shares) == {"architecture", "learning_rate", "cnn.filters_count", "mlp.hidden_layers", "mlp.dropout"}
    assert next(iter(shares)) == "architecture" and shares["architecture"] > 0.8
    assert shares["mlp.dropout"] > max(shares["cnn.filters_count"], shares["mlp.hidden_layers"])


# As trials run.


def _across(root: Path, trials: int, **more: Any) -> Study:
    across = {name: dict(definition_with(name, "d", {}, settings={"epochs": 9}).settings) for name in ("cnn", "mlp")}
    given = {"space": {"cnn": {"filters_count": {"quniform": [10, 50, 10]}}, "mlp": {}, **SPACE}, "settings": {}}
    return make_study(root, trials, across=across, **{**given, **more})


def test_trials_of_both_are_stopped_by_one_rule(tmp_path: Path) -> None:
    study = _across(tmp_path, 12, stopping={"asha": {"grace_epochs": 1, "reduction": 3}}, algorithm="random")
    assert run_inline(study, range(12), fake_train()) == [0] * 12
    trials = read_trials(study)
    assert {trial.point[ARCHITECTURE] for trial in trials} == {"cnn", "mlp"}
    assert {trial.state for trial in trials} == {"stopped", "done"}
    best = max(trials, key=lambda trial: objective(SimpleNamespace(**trial.point), 9))
    assert best.state == "done"


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_a_search_of_one_goes_on_across_several_and_back(tmp_path: Path, algorithm: str) -> None:
    alone = make_study(tmp_path, 6, epochs=9, algorithm="random")
    assert run_inline(alone, range(6), fake_train()) == [0] * 6
    several = _across(tmp_path, 6, algorithm=algorithm, continues=alone.id)
    taken = earlier_trials(several)
    assert len(taken) == 6
    assert {several.space().point(trial.draws)[ARCHITECTURE] for trial in taken} == {"mlp"}
    assert run_inline(several, range(6), fake_train()) == [0] * 6
    back = Study(
        several.storage,
        definition_with("mlp", several.definition.dataset, SPACE, settings={"epochs": 9}, continues=several.id),
    )
    mine = [trial.number for trial in read_trials(several) if trial.point[ARCHITECTURE] == "mlp"]
    assert [trial.number for trial in earlier_trials(back)] == mine


MANIFEST = (
    with_only()
    .replace(", hidden_layers: [16]", "")
    .replace("experiments:\n  architectures:\n    runs:\n", """\
searches:
  best:
    architecture: [mlp, cnn, linear]
    algorithm: random
    trials: 6
    evaluate_best: 2
    refit_seeds: [7]
    seed: 3
    space:
      mlp: {hidden_layers: {choice: [[8], [16]]}, learning_rate: {loguniform: [1e-3, 1e-1]}}
      cnn: {filters_count: {quniform: [4, 8, 2]}, filters_length: [1, 2], hidden_layers: []}
      linear: {c: {loguniform: [0.1, 10]}}
    points: [{architecture: cnn, filters_count: 8, filters_length: [1, 2], hidden_layers: []}]
""")
)  # fmt: skip


def test_one_is_planned_run_and_reported(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, MANIFEST)
    planned = json.loads(tanda("plan", manifest, "--json"))["searches"][0]
    assert planned["architecture"] == "cnn, linear, mlp" and set(planned["space"]) == {"cnn", "linear", "mlp"}
    tanda("run", manifest, "--executor", "inline")
    storage = Storage(tmp_path / "storage")
    trials = read_trials(open_study(storage, planned["id"]))
    assert [trial.state for trial in trials] == ["done"] * 6
    assert trials[0].point == {"architecture": "cnn", "filters_count": 8, "filters_length": (1, 2), "hidden_layers": ()}
    assert {trial.point[ARCHITECTURE] for trial in trials} >= {"cnn", "linear"}
    for trial in trials:
        trained = read_trained_recipe(trial.folder)
        used = {ARCHITECTURE: trained.architecture, **values(trained.settings)}
        assert {name: used[name] for name in trial.point} == trial.point
    best = max(trials, key=lambda trial: (trial.value or 0, -trial.number))
    rows = result_rows(manifest)
    assert set(rows) == {"winner", "rank 2", "refit"}
    for name in ("winner", "refit"):
        assert (
            rows[name]["architecture"] == best.point[ARCHITECTURE] and float(rows[name]["test_balanced_accuracy"]) > 0.5
        )
    assert rows["refit"]["seed"] == "7"
    (page,) = (storage.root / "reports" / "small").glob("results.md")
    assert str(best.point[ARCHITECTURE]) in page.read_text()
