"""`tanda leaderboard`: every evaluated run of a storage, ranked among those on the same test titles alone."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_fixture import (
    amend_record,
    build_tables,
    data_files,
    fail,
    finish_all,
    five_results,
    make,
    make_run,
    rows_of,
)
from small_manifest import tanda, with_only, write_manifest
from stored import HOME

from pipeline.leaderboard import Board, make_leaderboard
from pipeline.leaderboard.plot import NAMED, make_front, write_plot
from pipeline.report.collect import collect
from pipeline.report.groups import make_groups
from pipeline.report.significance import by_titles
from pipeline.report.standings import answers_of, entry_intervals, standings
from sharedfs.documents import read_json, write_json
from sharedfs.errors import InputError


def _ranks(board: Board) -> dict[str, int]:
    return {place.label: place.rank for place in board.places}


def test_manifests_that_share_test_titles_share_a_table_and_others_have_their_own(tmp_path: Path) -> None:
    first = write_manifest(tmp_path, with_only("MLP", "linear"))
    # The second has one run in common with the first, and a group on other titles.
    other = with_only("MLP", "CNN").replace("name: small", "name: second")
    other = other.replace(
        "resources:", "  elsewhere: {split: {seed: 1}, runs: {linear: {architecture: linear}}}\nresources:"
    )
    second = tmp_path / "second.yaml"
    second.write_text(other)
    for manifest in (first, second):
        tanda("submit", manifest, "--executor", "inline")
        tanda("report", manifest, "--no-plots", "--no-mlflow")
    rows = json.loads(tanda("leaderboard", tmp_path / "storage", "--format", "json"))
    boards: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        boards.setdefault(row["test_fingerprint"], []).append(row)
    shared, alone = sorted(boards.values(), key=len, reverse=True)
    assert [row["run"] for row in alone] == ["second / elsewhere / linear"]
    assert {row["run"] for row in shared} == {
        "second / architectures / MLP (+1)", "small / architectures / linear", "second / architectures / CNN",
    }  # fmt: skip
    (mlp,) = (row for row in shared if row["architecture"] == "mlp")
    assert mlp["names"] == ["second / architectures / MLP", "small / architectures / MLP"]
    assert [row["rank"] for row in shared] == [1, 2, 3]
    scores = [row["test_balanced_accuracy_mean"] for row in shared]
    assert scores == sorted(scores, reverse=True)
    for row in rows:
        assert (
            row["test_balanced_accuracy_low"]
            <= row["test_balanced_accuracy_mean"]
            <= row["test_balanced_accuracy_high"]
        )
    # The figures are those of the reports.
    reported = {
        row["id"]: float(row["test_balanced_accuracy"])
        for name in ("small", "second")
        for row in rows_of(tmp_path / "storage/reports" / name)
    }
    for row in rows:
        assert [reported[task] for task in row["ids"]] == pytest.approx([row["test_balanced_accuracy_mean"]], abs=1e-6)
    lines = list(csv.DictReader(io.StringIO(tanda("leaderboard", tmp_path / "storage", "--format", "csv"))))
    assert [line["run"] for line in lines] == [row["run"] for row in rows]
    text = tanda("leaderboard", tmp_path / "storage")
    assert text.count("test titles of 6 categories, fingerprint") == 2 and "GPU-hours" in text
    assert tanda("leaderboard", tmp_path / "storage", "--format", "latex").count("\\begin{longtable}") == 2


def test_intervals_and_what_may_be_best_are_those_of_the_report(tmp_path: Path) -> None:
    made = five_results(tmp_path)
    (board,) = make_leaderboard(made.storage.root).boards
    collected = collect(made.plan, made.states)
    entries = [entry for group in make_groups(collected) for entry in group.entries]
    ((titles, members),) = by_titles(collected, entries).items()
    answers = answers_of(collected, members)
    ends = entry_intervals(members, titles, answers, "balanced_accuracy")
    tied = standings(members, titles, answers)["balanced_accuracy"].tied
    expected = sorted((*ends[entry.position], entry.position in tied, len(entry.results)) for entry in members)
    scores = [(place, place.scores["balanced_accuracy"]) for place in board.places]
    found = sorted((score.low, score.high, score.may_be_best, len(place.ids)) for place, score in scores)
    assert found == expected and len({may for *_, may, _ in found}) == 2
    hours = {place.architecture + str(len(place.ids)): place.gpu_hours for place in board.places}
    assert hours == pytest.approx(dict.fromkeys(("mlp1", "cnn1", "mlp3"), 60 / 3600))


def test_a_seed_that_failed_by_its_own_fault_counts_as_guessing(tmp_path: Path) -> None:
    made = five_results(tmp_path)
    before = make_leaderboard(made.storage.root).boards[0].places
    assert [len(place.ids) for place in before] == [3, 1, 1]
    row = next(row for row in made.plan.rows if row.run == "wide" and row.seed == 1)
    assert row.train is not None
    fail(made, row.train, "diverged", "the loss is NaN")
    shutil.rmtree(made.storage.run(row.evaluate))
    made_of = make_leaderboard(made.storage.root)
    (wide,) = (place for place in made_of.boards[0].places if place.failed)
    assert (len(wide.ids), wide.failed, made_of.problems) == (2, 1, ())
    assert wide.rank == 2 and wide.entry.judged_mean("test_balanced_accuracy") < 0.65  # 0.8, 0.8 and 1/12
    fail(made, row.train, "node failure", "its node went down")
    assert not any(place.failed for place in make_leaderboard(made.storage.root).boards[0].places)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A storage of an earlier version, whose data files are not where its manifest says."""
    return Path(shutil.copytree(HOME / "storage", tmp_path / "storage"))


def test_a_storage_is_ranked_by_its_records_alone_without_manifests_and_data(stored: Path) -> None:
    shutil.rmtree(stored / "submissions")
    shutil.rmtree(stored / "datasets")
    (board,) = make_leaderboard(stored).boards
    names = ["architectures / linear", "architectures / MLP", "tuned / winner", "tuned / refit"]
    assert _ranks(board) == {f"small / {name}": rank for rank, name in zip((1, 2, 2, 4), names, strict=True)}
    shutil.rmtree(stored / "reports")
    (board,) = make_leaderboard(stored).boards
    assert sorted(place.label for place in board.places) == [
        "linear e3fff916", "mlp 447457b7", "mlp 5bb8e8c9", "mlp b9e19988"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("runs/2a204df4e1adf03b/record.json", "{", "runs/2a204df4e1adf03b/record.json: not a JSON document"),
        ("runs/2a204df4e1adf03b/task.json", "{}", "runs/2a204df4e1adf03b: left out: "),
        ("runs/2a204df4e1adf03b/evaluation.json", "[]", "files that its record names are not there"),
        ("runs/e3fff916d15e7b00/record.json", None, "no record of the training e3fff916d15e7b00"),
        ("reports/small/results.csv", "a,b\n1,2\n", "names of runs can't be read"),
        ("searches/a1395e81f4f1710a/trials/0001/point.json", "[]", "GPU-hours are not counted"),
    ],
)
def test_what_cannot_be_read_is_said_and_the_rest_is_ranked(
    stored: Path, path: str, content: str | None, said: str
) -> None:
    (stored / path).unlink()
    if content is not None:
        (stored / path).write_text(content)
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline", "leaderboard", str(stored), "--format", "json"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 1 and said in ended.stderr and ended.stderr.count("\n") == 1, ended.stderr
    assert len(json.loads(ended.stdout)) == (3 if path.startswith("runs/") else 4)


def test_an_evaluation_of_the_right_size_that_is_none_is_said(stored: Path) -> None:
    path = stored / "runs/2a204df4e1adf03b/evaluation.json"
    path.write_bytes(b"x" * path.stat().st_size)
    made = make_leaderboard(stored)
    assert [len(board.places) for board in made.boards] == [3]
    assert made.problems == (f"{path.parent}: left out: its evaluation can't be read",)


def test_titles_that_were_made_again_under_the_same_id_are_others(stored: Path) -> None:
    for name, fingerprint in (("2a204df4e1adf03b", "one"), ("35d90866878b4fc4", "other")):
        record = read_json(stored / "runs" / name / "record.json")
        record["result"]["test_fingerprint"] = fingerprint
        write_json(stored / "runs" / name / "record.json", record)
    assert sorted(len(board.places) for board in make_leaderboard(stored).boards) == [1, 1, 2]


def test_a_folder_that_is_no_storage_is_one_line_and_an_empty_one_is_said(tmp_path: Path) -> None:
    assert "no storage: there is no folder runs/ in it" in tanda("leaderboard", tmp_path, status=2)
    (tmp_path / "runs").mkdir()
    assert make_leaderboard(tmp_path).problems == (f"{tmp_path}: no run of it is evaluated, or none can be read",)
    tanda("leaderboard", tmp_path, status=1)


def test_the_front_is_the_runs_than_which_none_is_cheaper_and_better(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    skills = {f"r{number}": 0.3 + 0.05 * (number * 7 % 11) for number in range(14)}
    runs = [make_run(data, group="g", name=name, dropout=0.01 * at) for at, name in enumerate(skills)]
    made = make(tmp_path, runs=tuple(runs))
    finish_all(made, skills)
    for at, row in enumerate(made.plan.rows):
        assert row.train is not None
        amend_record(made, row.train, about={"gpus": at % 5})
    build_tables(made)
    (board,) = make_leaderboard(made.storage.root).boards
    front = make_front(board)
    assert front.gpu and len(front.points) == 14 and sum(point.named for point in front.points) == NAMED
    for point in front.points:
        beaten = any(
            (other.cost <= point.cost and other.score > point.score)
            or (other.cost < point.cost and other.score >= point.score)
            for other in front.points
        )
        assert point.on_front is not beaten, point
        assert point.named or not point.on_front
    for name, begins in (("front.png", b"\x89PNG"), ("front.svg", b"<?xml")):
        write_plot(make_leaderboard(made.storage.root), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert "g / r" in (tmp_path / "front.svg").read_text()
    with pytest.raises(InputError, match=r"front.pdf: must end in .png or .svg"):
        write_plot(make_leaderboard(made.storage.root), tmp_path / "front.pdf")


def test_without_a_gpu_the_cost_is_the_time_of_training(stored: Path) -> None:
    (board,) = make_leaderboard(stored).boards
    front = make_front(board)
    assert not front.gpu
    costs = [place.seconds for place in board.places]
    assert sorted(costs) == [point.cost for point in front.points] and None not in costs
