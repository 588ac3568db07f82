"""Searches as a manifest gives them: what is fixed, the space in its settings' types, what trials are given."""

from pathlib import Path

import pytest
from manifest_fixture import read

from pipeline.manifest.model import Search
from pipeline.plan import make_plan
from pipeline.show import startup_lines
from sharedfs.errors import InputError


def search(folder: Path, text: str, above: str = "") -> Search:
    manifest = read(folder, f"{above}searches:\n  s:\n    architecture: cnn\n{text}")
    return manifest.searches[0]


def test_a_search_keeps_what_is_fixed_apart_from_what_is_searched(tmp_path: Path) -> None:
    found = search(
        tmp_path,
        "    epochs: 9\n    space: {dropout: {uniform: [0, 0.5]}, batch_size: {quniform: [128, 1024, 128]}}\n",
        "defaults: {dropout: 0.2, learning_rate: 1e-2}\n",
    )
    assert found.settings.epochs == 9
    assert found.settings.learning_rate == 0.01
    assert found.searched >= {"dropout", "batch_size"}
    assert found.space == {"dropout": {"uniform": [0.0, 0.5]}, "batch_size": {"quniform": [128, 1024, 128]}}
    assert [type(number) for number in found.space["batch_size"]["quniform"]] == [int] * 3


def test_what_a_search_leaves_open(tmp_path: Path) -> None:
    found = search(tmp_path, "    space: {dropout: {uniform: [0, 0.5]}}\n")
    assert (found.algorithm, found.trials, found.parallel, found.metric) == (
        "tpe",
        10,
        4,
        "validation_balanced_accuracy",
    )
    assert (found.stopping, found.evaluate_best, found.refit_seeds, found.seed) == (None, 1, (), 0)
    assert found.startup == 5, "of ten trials half are proposed"
    assert found.resources["train"].throttle == 4


def test_all_that_a_search_can_be_told(tmp_path: Path) -> None:
    found = search(
        tmp_path,
        """\
    algorithm: random
    trials: 30
    parallel: 16
    metric: validation_loss
    seed: 5
    evaluate_best: 3
    refit_seeds: [0, 1]
    max_length: 16
    early_stopping: {patience: 2}
    stopping: {asha: {reduction: 4}}
    resources: {train: {throttle: 2, mem_gb: 3}}
    reference: {test_loss: 1}
    space:
      learning_rate: {loguniform: [1e-5, 1e-1]}
      epochs: {randint: [1, 15]}
      lstm:
        choice:
          - {hidden_layers: [64]}
          - {hidden_layers: [512], dropout: {uniform: [0, 0.5]}, weight_decay: 0}
""",
    )
    assert (found.algorithm, found.trials, found.parallel, found.metric) == ("random", 30, 16, "validation_loss")
    assert (found.seed, found.settings.seed, found.settings.patience) == (5, 5, 2)
    assert (found.evaluate_best, found.refit_seeds, found.reference) == (3, (0, 1), {"test_loss": 1.0})
    assert found.data.max_length == 16
    assert found.stopping is not None
    assert found.stopping["asha"]["reduction"] == 4
    assert (found.resources["train"].throttle, found.resources["train"].mem_gb) == (2, 3.0)
    # What one way of a conditional choice leaves alone keeps its fixed value.
    assert found.settings.dropout == 0.0
    assert found.space["lstm"]["choice"][1] == {
        "hidden_layers": [512],
        "dropout": {"uniform": [0.0, 0.5]},
        "weight_decay": 0.0,
    }


def test_a_space_is_the_same_however_its_numbers_are_written(tmp_path: Path) -> None:
    one = search(tmp_path, "    space: {dropout: {uniform: [0, 0.5]}, weight_decay: {choice: [0, 1e-5]}}\n")
    two = search(tmp_path, "    space: {dropout: {uniform: [0.0, 5e-1]}, weight_decay: {choice: [0.0, 0.00001]}}\n")
    assert repr(one.space) == repr(two.space)


def test_stopping_by_default_is_the_same_as_said(tmp_path: Path) -> None:
    space = "    space: {dropout: {uniform: [0, 0.5]}}\n"
    one = search(tmp_path, f"    stopping: {{asha: }}\n{space}")
    two = search(tmp_path, f"    stopping: {{asha: {{grace_epochs: 1, reduction: 3}}}}\n{space}")
    assert one.stopping == two.stopping


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the data files that a manifest's head names: a plan takes their fingerprints."""
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / name).write_text(f"title,category\nuna cosa de {name},A\n")
    return tmp_path


def test_startup_is_of_algorithms_that_have_one(tmp_path: Path) -> None:
    space = "    space: {dropout: {uniform: [0, 0.5]}}\n"
    assert search(tmp_path, f"    algorithm: random\n{space}").startup is None
    with pytest.raises(InputError, match=r"searches\.s\.startup: is no setting of random"):
        search(tmp_path, f"    algorithm: random\n    startup: 3\n{space}")


@pytest.mark.parametrize(("startup", "trials", "words"), [
    (5, 20, "s: tpe proposes from trial 6 on, those before are random"),
    (5, 19, "those before are random; no gain over random trials was measured with fewer than 20"),
    (20, 20, "from trial 21 on, those before are random: all 20 are; raise `trials` or lower `startup`"),
])  # fmt: skip
def test_a_plan_says_from_which_trial_on_points_are_proposed(
    startup: int, trials: int, words: str, files: Path
) -> None:
    space = "    space: {dropout: {uniform: [0, 0.5]}}\n"
    text = f"    startup: {startup}\n    trials: {trials}\n{space}"
    manifest = read(files, f"searches:\n  s:\n    architecture: cnn\n{text}")
    (line,) = startup_lines(make_plan(manifest))
    assert line.endswith(words)


def test_startup_is_in_the_id_but_for_what_searches_had_before_it(files: Path) -> None:
    space = "    space: {dropout: {uniform: [0, 0.5]}}\n"

    def planned(text: str) -> dict[str, object]:
        manifest = read(files, f"searches:\n  s:\n    architecture: cnn\n{text}{space}")
        plan = make_plan(manifest)
        document = plan.by_id()[plan.searches[0].trials[0]].task.settings["search"]
        assert isinstance(document, dict)
        return document

    assert planned("    startup: 5\n") == planned("") and planned("")["startup"] == 5
    assert "startup" not in planned("    startup: 10\n")
    assert "startup" not in planned("    algorithm: random\n")


def test_metric_is_the_old_name_of_select_by(tmp_path: Path) -> None:
    space = "    space: {dropout: {uniform: [0, 0.5]}}\n"
    for text in ("    metric: validation_loss\n", "    select_by: validation_loss\n"):
        found = search(tmp_path, f"{text}{space}")
        assert found.metric == found.settings.select_by == "validation_loss"
    above = search(tmp_path, space, "defaults: {select_by: validation_accuracy}\n")
    assert above.metric == above.settings.select_by == "validation_accuracy"
    with pytest.raises(
        InputError, match=r"searches\.s\.metric: is the old name of select_by, which is 'validation_loss'"
    ):
        search(tmp_path, f"    metric: validation_accuracy\n    select_by: validation_loss\n{space}")
    with pytest.raises(InputError, match=r"select_by: must be one of validation_loss, .*, not 'test_loss'"):
        search(tmp_path, f"    select_by: test_loss\n{space}")
