"""Ensembles: as a manifest names them, as members are chosen, and one from its members to the report."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from manifest_fixture import read
from numpy.typing import NDArray
from small_manifest import MANIFEST, result_rows, tanda, write_manifest

from jobs import entry
from jobs.metrics import probabilities
from jobs.models.ensemble import Settings
from jobs.models.ensemble.estimator import choose
from jobs.predict import predict
from jobs.storage import Storage
from jobs.task import read_record
from jobs.training.run import Trained
from pipeline.manifest import load
from pipeline.plan import make_plan
from pipeline.repro import check
from sharedfs.errors import InputError

RUNS = "experiments:\n  g:\n    architecture: mlp\n    seeds: [0, 1]\n    runs: {one: {}, two: {dropout: 0.5}}\n"
SEARCH = "searches:\n  s: {architecture: cnn, trials: 3, evaluate_best: 2, space: {dropout: {uniform: [0, 0.5]}}}\n"


# As a manifest names them.


@pytest.mark.parametrize(("members", "message"), [
    ("[gg]", r"ensembles\.e\.members\.0: no group, search or group/run 'gg'; did you mean 'g'"),
    ("[g/three]", r"ensembles\.e\.members\.0: no group, search or group/run 'g/three'"),
    ("[]", r"ensembles\.e\.members: must name at least one"),
    ("[g, g/one]", r"ensembles\.e\.members\.1: g/one is among the members already"),
    ("[g, s], top: 0", r"ensembles\.e\.top: must be at least 1"),
    ("[g], select_by: test_loss", r"ensembles\.e\.select_by: must be one of validation_"),
])  # fmt: skip
def test_what_an_ensemble_cannot_be(tmp_path: Path, members: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, f"{RUNS}{SEARCH}ensembles:\n  e: {{members: {members}}}\n")


def test_members_are_of_one_data_set(tmp_path: Path) -> None:
    other = RUNS.replace("two: {dropout: 0.5}", "two: {max_length: 8}")
    with pytest.raises(InputError, match=r"members: g/one and g/two have different data: members are of one data set"):
        read(tmp_path, f"{other}ensembles:\n  e: {{members: [g]}}\n")


def test_a_group_may_not_have_their_name(tmp_path: Path) -> None:
    runs = RUNS.replace("  g:", "  ensembles:")
    with pytest.raises(InputError, match="ensembles: a group or search has this name already: rename it"):
        read(tmp_path, f"{runs}ensembles:\n  e: {{members: [ensembles]}}\n")


def test_an_ensemble_is_no_architecture_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown architecture 'ensemble'"):
        read(tmp_path, "experiments:\n  g: {runs: {one: {architecture: ensemble}}}\n")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the data files that a manifest's head names."""
    for name in "abc":
        (tmp_path / f"{name}.csv").write_text(f"title,category\nuna cosa {name},A\n")
    return tmp_path


def test_an_ensemble_is_its_members_and_changes_nothing_of_them(files: Path) -> None:
    def ids(ensembles: str) -> tuple[set[str], list[str]]:
        plan = make_plan(read(files, f"{RUNS}{SEARCH}{ensembles}"))
        own = [row.train or "" for row in plan.rows if row.group == "ensembles"]
        return {planned.id for planned in plan.tasks if planned.group != "ensembles"}, own

    without, nothing = ids("")
    same, made = ids(
        "ensembles:\n  one: {members: [g/one, g/two]}\n  two: {members: [g/two, g/one]}\n  three: {members: [g]}\n"
        "  four: {members: [g], top: 2}\n  five: {members: [g, s]}\n"
    )
    assert same == without and nothing == []
    assert made[0] == made[1] == made[2] and len(set(made)) == 3


def test_an_ensemble_waits_for_its_members(files: Path) -> None:
    plan = make_plan(read(files, f"{RUNS}{SEARCH}ensembles:\n  e: {{members: [g/one, s]}}\n"), only="ensembles")
    (ensemble,) = (planned for planned in plan.tasks if (planned.stage, planned.group) == ("train", "ensembles"))
    trained = {row.train for row in plan.rows if row.group == "g"}
    (search,) = plan.searches
    assert {row.run for row in plan.rows if row.group == "g"} == {"one"}
    assert set(ensemble.task.needs) == trained | {search.dataset}
    assert set(ensemble.after) == set(search.trials)


def test_an_ensemble_is_selected_as_its_members_are(tmp_path: Path) -> None:
    runs = RUNS.replace("seeds: [0, 1]", "select_by: validation_loss") + SEARCH
    of = (
        "ensembles:\n  a: {members: [g]}\n  b: {members: [g, s]}\n  c: {members: [g], select_by: validation_accuracy}\n"
    )
    chosen = [ensemble.settings for ensemble in read(tmp_path, runs + of).ensembles]
    assert [settings.select_by for settings in chosen if isinstance(settings, Settings)] == [
        "validation_loss",
        "validation_balanced_accuracy",
        "validation_accuracy",
    ]


def test_an_ensemble_fails_where_a_member_is_not_there(files: Path) -> None:
    plan = make_plan(read(files, f"{RUNS}{SEARCH}ensembles:\n  e: {{members: [g/one]}}\n  f: {{members: [s]}}\n"))
    storage = Storage(files / "storage")
    datasets = [planned.task for planned in plan.tasks if planned.stage == "preprocess"]
    for task in datasets:
        assert entry.run(task.write(storage)) == entry.DONE
    for planned in plan.tasks:
        if (planned.stage, planned.group) == ("train", "ensembles"):
            entry.run(planned.task.write(storage))
            record = read_record(storage.run(planned.id))
            assert record is not None and record.cause == "upstream failed"


# As members are chosen.


def chances(*right: float) -> list[NDArray[np.float32]]:
    """Of members that are right in so many of ten titles of two categories, each with its own errors."""
    made = []
    for number, share in enumerate(right):
        wrong = np.roll(np.arange(20) >= round(20 * share), 5 * number)
        of_label = np.where(wrong, 0.45, 0.9)  # surer where it is right
        own = np.empty((20, 2), np.float32)
        own[np.arange(20), LABELS], own[np.arange(20), 1 - LABELS] = of_label, 1 - of_label
        made.append(own)
    return made


LABELS = np.arange(20) % 2


def test_all_members_count_alike() -> None:
    assert choose(chances(0.5, 0.9), LABELS, Settings(members=("a", "b"))) == {0: 1, 1: 1}


def test_the_best_are_chosen_by_validation() -> None:
    of = chances(0.5, 0.9, 0.7)
    assert choose(of, LABELS, Settings(top=2)) == {1: 1, 2: 1}
    assert choose(of, LABELS, Settings(top=1, select_by="validation_loss")) == {1: 1}


def test_greedy_adds_what_helps_and_no_more() -> None:
    # Two that err on different titles are right together; one that errs with the best adds nothing.
    best, other = chances(0.8, 0.75)
    assert choose([other, best], LABELS, Settings(greedy=8)) == {1: 1, 0: 1}
    assert choose([*chances(0.5), best], LABELS, Settings(greedy=8)) == {1: 1}


# From its members to the report.

ENSEMBLES = """\
ensembles:
  all: {members: [architectures, s]}
  best: {members: [architectures], top: 2}
  greedy: {members: [architectures, s], greedy: 5}
searches:
  s: {architecture: mlp, trials: 2, space: {dropout: {uniform: [0, 0.5]}}}
"""


def test_an_ensemble_of_runs_and_of_a_searchs_winner(tmp_path: Path) -> None:
    text = MANIFEST.replace("MLP: {architecture: mlp}", "MLP: {architecture: mlp, seeds: [0, 1]}") + ENSEMBLES
    path = write_manifest(tmp_path, text)
    tanda("run", path, "--executor", "inline")
    storage, plan = Storage(tmp_path / "storage"), make_plan(load(path))
    (row,) = (row for row in plan.rows if (row.group, row.run) == ("ensembles", "all"))
    folder = storage.run(row.train or "")
    members = json.loads((folder / "ensemble.json").read_text())["members"]
    assert len(members) == 6 and {member["weight"] for member in members} == {1 / 6}

    # The mean of the members' probabilities, each at the temperature that its own evaluation found.
    trained = Trained.open(storage, folder)
    test = trained.dataset.splits["test"]
    temperatures = {}
    for other in (other for other in plan.rows if other.group != "ensembles"):
        record = read_record(storage.run(other.evaluate))
        assert record is not None
        temperatures[other.train or record.result["train"]] = record.result["temperature"]
    mean = np.zeros((len(test), 6))
    for member in members:
        assert member["temperature"] == temperatures[member["run"]]
        for rows, logits, _ in Trained.open(storage, storage.run(member["run"])).logits(test):
            mean[rows] += probabilities(logits / np.float32(member["temperature"])) / 6
    (logits,) = (logits for _, logits, _ in trained.logits(test))
    np.testing.assert_allclose(probabilities(logits), mean, atol=1e-6)
    with np.load(storage.run(row.evaluate) / "predictions.npz") as arrays:
        np.testing.assert_array_equal(arrays["test_predicted"], mean.argmax(1))
        predicted, probability = arrays["test_predicted"], arrays["test_probability"][:, 0]

    # `predict` of the test titles, from their text, as evaluation of them.
    facts = trained.dataset.facts("test")
    assert facts is not None
    with (tmp_path / "titles.csv").open(encoding="utf-8", newline="") as file:
        titles = [line["title"] for line in csv.DictReader(file)]
    answers = [first for (first,) in predict(storage.root, folder, [titles[at] for at in facts.rows.tolist()])]
    assert [answer.category for answer in answers] == [trained.dataset.classes[label] for label in predicted]
    np.testing.assert_allclose([answer.probability for answer in answers], probability, atol=1e-6)

    # A row as any other, with what it adds, and `predict` as evaluation.
    shown = result_rows(path)
    assert {shown[run]["architecture"] for run in ("all", "best", "greedy")} == {"ensemble"}
    board = {
        line["run"]: line for line in csv.DictReader(tanda("leaderboard", storage.root, "--format", "csv").splitlines())
    }
    of_members = math.fsum(float(board[f"small / architectures / {run}"]["train_seconds"]) for run in ("CNN", "linear"))
    assert float(board["small / ensembles / all"]["train_seconds"]) > of_members
    report = (tmp_path / "storage/reports/small/results.md").read_text()
    assert "all adds " in report and "the best of its members by validation" in report
    seconds = {run: float(shown[run]["train_seconds"]) for run in shown}
    assert seconds["best"] > sum(seconds[run] for run in ("CNN", "RNN", "linear"))
    assert check(storage.run(row.evaluate)) == [] and check(folder) == []
    (tmp_path / "new.txt").write_text("vino malbec nuevo\n")
    assert tanda("predict", folder, tmp_path / "new.txt").startswith("WINES")
