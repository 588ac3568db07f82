"""Searches in a report: their trials, winner, budget and cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from report_fixture import (
    SPACE,
    Made,
    build_tables,
    data_files,
    finish_evaluate,
    finish_trial,
    make,
    make_search,
    rows_of,
    seeds_of,
)

from pipeline.report import budgets, build
from pipeline.report.collect import collect
from pipeline.report.groups import make_groups
from pipeline.report.search_summary import search_progress
from sharedfs.documents import read_json, write_json


@pytest.fixture
def searched(tmp_path: Path) -> Made:
    """A search of six trials, one stopped early, one failed, and its winner evaluated."""
    data = data_files(tmp_path / "data")
    made = make(tmp_path, searches=(make_search(data, name="mlp", space=SPACE, trials=6),))
    for number in range(6):
        finish_trial(
            made, 0, number, skill=0.3 + 0.1 * number, stopped="stopped by the search" if number == 2 else None
        )
    finish_evaluate(made, made.plan.rows[0].evaluate, skill=0.8)
    return made


def test_a_searchs_winner_is_its_best_trial_with_that_trials_settings(searched: Made) -> None:
    row = rows_of(build_tables(searched))[0]
    assert row["run"] == "winner"
    assert row["id"] == searched.plan.searches[0].trials[5]
    point = json.loads((searched.storage.search(searched.plan.searches[0].id) / "trials/0005/point.json").read_text())[
        "point"
    ]
    assert float(row["learning_rate"]) == pytest.approx(point["learning_rate"])
    assert float(row["dropout"]) == pytest.approx(point["dropout"])


@pytest.mark.parametrize("named", ["../../x; rm -r y", "x" * 16, "0123456789ABCDEF", "0123456789abcdef\n", 3])
def test_a_winner_whose_name_is_no_id_is_neither_path_nor_shell(named: object, searched: Made) -> None:
    row = searched.plan.rows[0]
    path = searched.storage.run(row.evaluate) / "record.json"
    record = read_json(path)
    write_json(path, {**record, "result": {**record["result"], "train": named}})
    result = collect(searched.plan, searched.states).results[0]
    assert result.id in searched.plan.searches[0].trials


def test_a_damaged_line_of_a_metrics_log_is_passed_over(searched: Made) -> None:
    trial = searched.plan.searches[0].trials[0]
    line = {"epoch": 1, "ended": "noon", "validation_balanced_accuracy": "good"}
    (searched.storage.run(trial) / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (search,) = collect(searched.plan, searched.states).searches
    progress = search_progress(search)
    assert (progress.ended_after[0], progress.best[0][0]) == (1, 2)


def test_a_search_shows_its_trials_best_first(searched: Made) -> None:
    folder = build(searched.plan, searched.states, mlflow=False)
    lines = (folder / "tables/mlp-trials.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["5", "4", "3", "1", "0", "2"]
    assert "stopped early" in lines[6]
    assert (folder / "plots/mlp-search.png").exists()


@pytest.mark.parametrize("trials", [1, 3, 20])
def test_the_expected_best_is_the_mean_of_drawn_searches(trials: int) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=20)
    drawn = random.choice(values, (40_000, trials)).max(axis=1)
    assert budgets.expected_best(values, trials) == pytest.approx(drawn.mean(), abs=0.02)
    assert [budgets.budgets(count) for count in (3, 10, 30)] == [[1, 2, 3], [1, 2, 5, 10], [1, 2, 5, 10, 20, 30]]


def test_a_search_says_what_fewer_trials_would_have_reached(searched: Made) -> None:
    folder = build_tables(searched)
    rows = [line.split(",") for line in (folder / "tables/mlp-budget.csv").read_text().splitlines()[1:]]
    values = [
        trial.figures["validation_balanced_accuracy"]
        for trial in collect(searched.plan, searched.states).searches[0].trials
    ]
    assert [row[0] for row in rows] == ["1", "2", "5", "6"]
    assert float(rows[0][3]) == pytest.approx(np.mean(values), abs=6e-4)
    assert float(rows[-1][1]) == sum(
        len(trial.epochs) for trial in collect(searched.plan, searched.states).searches[0].trials
    )


def test_costs_are_means_as_scores_are_and_a_winner_bears_its_search(searched: Made, tmp_path: Path) -> None:
    seeds = seeds_of(tmp_path / "seeds", {"a": 0.4, "b": 0.8}, 3)
    hours = [result.gpu_hours or 0 for result in collect(seeds.plan, seeds.states).results][:3]
    assert make_groups(collect(seeds.plan, seeds.states))[0].entries[0].gpu_hours() == pytest.approx(np.mean(hours))
    collected = collect(searched.plan, searched.states)
    (group,) = make_groups(collected)
    spent = sum(trial.gpu_hours or 0 for trial in collected.searches[0].trials)
    assert spent > 3 * max(trial.gpu_hours or 0 for trial in collected.searches[0].trials)
    assert group.entries[0].gpu_hours() == pytest.approx(spent)
