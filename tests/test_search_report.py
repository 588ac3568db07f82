"""Searches in the report: the refit's settings, the curve over epochs spent, every setting, importance by a method."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from report_fixture import Made, data_files, fail, finish_evaluate, finish_train, finish_trial, make, make_search

from jobs import metrics_log, models
from jobs.search.algorithms import random
from jobs.search.space import read_space
from jobs.settings import values
from pipeline.report import budgets, build
from pipeline.report.collect import SearchResult, collect
from pipeline.report.groups import make_groups
from pipeline.report.i18n import make_messages
from pipeline.report.plots import budget as budget_plot
from pipeline.report.plots import files
from pipeline.report.plots import search as plot
from pipeline.report.search_summary import axes, by_score, search_progress
from pipeline.report.tables import budget, build_all
from sharedfs.documents import read_json, write_json

SPACE: dict[str, Any] = {
    "dropout": {"uniform": [0.0, 0.5]},
    "learning_rate": {"loguniform": [1e-5, 1e-1]},
    "hidden_layers": {"choice": [[256], [256, 128]]},
}
CONDITIONAL: dict[str, Any] = {
    "shape": {"choice": [{"hidden_layers": [64]}, {"hidden_layers": [512], "dropout": {"uniform": [0.0, 0.5]}}]},
    "learning_rate": {"loguniform": [1e-5, 1e-1]},
}


def _made(root: Path, trials: int = 12, **more: Any) -> Made:
    search = make_search(data_files(root / "data"), name="deep", space=SPACE, trials=trials, **more)
    return make(root, searches=(search,))


def _search(made: Made) -> SearchResult:
    return collect(made.plan, made.states).searches[0]


def test_a_refit_shows_the_settings_that_it_was_trained_with(tmp_path: Path) -> None:
    made = _made(tmp_path, trials=3, refit_seeds=(7,))
    for number in range(3):
        finish_trial(made, 0, number, skill=0.2 + 0.2 * number)
    winner, refit = made.plan.rows
    finish_evaluate(made, winner.evaluate, skill=0.6)
    point = read_json(made.storage.search(made.plan.searches[0].id) / "trials" / "0002" / "point.json")["point"]
    assert refit.train is not None
    finish_train(made, refit.train, skill=0.6)
    used = {**values(made.plan.searches[0].search.settings), **point, "seed": 7, "architecture": "mlp", "dataset": "d"}
    write_json(made.storage.run(refit.train) / "settings.json", used)
    finish_evaluate(made, refit.evaluate, skill=0.6)
    folder = build(made.plan, made.states, plots=False, mlflow=False)
    first, second = csv.DictReader(io.StringIO((folder / "results.csv").read_text()))
    for row in (first, second):
        assert float(row["dropout"]) == pytest.approx(point["dropout"])
        assert float(row["learning_rate"]) == pytest.approx(point["learning_rate"])
        assert row["hidden_layers"] == ",".join(map(str, point["hidden_layers"]))
    assert (first["run"], second["run"], second["seed"], second["id"]) == ("winner", "refit", "7", refit.train)


def test_the_winner_is_the_run_that_the_evaluation_names(tmp_path: Path) -> None:
    made = _made(tmp_path, trials=3)
    for number in range(3):
        finish_trial(made, 0, number, skill=0.2 + 0.2 * number)
    evaluate = made.plan.rows[0].evaluate
    finish_evaluate(made, evaluate, skill=0.6)
    # Evaluated before trial 2 was continued and went past it: what was judged is what the row shows.
    path = made.storage.run(evaluate) / "record.json"
    record = json.loads(path.read_text())
    record["result"]["train"] = made.plan.searches[0].trials[1]
    path.write_text(json.dumps(record))
    (result,) = collect(made.plan, made.states).results
    assert result.id == made.plan.searches[0].trials[1]
    assert result.settings["dropout"] == _search(made).trials[1].point["dropout"]


@pytest.mark.parametrize("metric", ["validation_balanced_accuracy", "validation_loss"])
def test_the_curve_counts_every_epoch_in_the_order_in_which_they_ended(tmp_path: Path, metric: str) -> None:
    made = _made(tmp_path, trials=4, metric=metric)
    for number in range(3):
        finish_trial(made, 0, number, skill=0.2 + 0.2 * number, stopped="asha" if number == 1 else None)
    fail(made, finish_trial(made, 0, 3, skill=0.2), "diverged", "NaN", epochs=2)
    for number, trial in enumerate(made.plan.searches[0].trials):
        folder = made.storage.run(trial)
        metrics_log.rewrite(
            folder, [{**line, "ended": 100.0 * number + line["epoch"]} for line in metrics_log.read(folder)]
        )
    search = _search(made)
    progress = search_progress(search)
    assert progress.ended_after == {0: 4, 1: 5, 2: 9, 3: 11}
    assert [epochs for epochs, _ in progress.best] == list(range(1, 12))
    values = [line[metric] for trial in search.trials for line in trial.epochs]
    better = min if metric.endswith("loss") else max
    assert [value for _, value in progress.best] == [better(values[: count + 1]) for count in range(11)]


def test_a_search_by_loss_has_its_lowest_trial_on_top(tmp_path: Path) -> None:
    made = _made(tmp_path, trials=3, metric="validation_loss")
    for number in range(3):
        task = finish_trial(made, 0, number, skill=0.5)
        path = made.storage.run(task) / "record.json"
        record = json.loads(path.read_text())
        record["result"]["value"] = [2.0, 1.0, 3.0][number]
        path.write_text(json.dumps(record))
    assert [trial.number for trial in by_score(_search(made))] == [1, 0, 2]
    collected = collect(made.plan, made.states)
    messages = make_messages("en")
    (table,) = [
        t for group in make_groups(collected) for t in build_all(group, collected, messages) if t.name == "trials"
    ]
    assert [[row[0].text, row[1].bold] for row in table.rows] == [["1", True], ["0", False], ["2", False]]


def test_a_failed_trial_is_never_on_top_whatever_it_had_reached(tmp_path: Path) -> None:
    made = _made(tmp_path, trials=3)
    for number in range(3):
        finish_trial(made, 0, number, skill=0.9 - 0.2 * number)
    first = made.plan.searches[0].trials[0]
    path = made.storage.run(first) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "failed", "cause": "diverged"}))
    made.state(first, "failed", cause="diverged")
    assert [trial.number for trial in by_score(_search(made))] == [1, 2, 0]
    collected = collect(made.plan, made.states)
    (data,) = plot.build(make_groups(collected)[0], collected, make_messages("en"))
    assert [trial.outcome for trial in data.trials] == ["failed", "trial", "trial"]


def test_settings_inside_a_conditional_choice_have_columns_and_panels(tmp_path: Path) -> None:
    search = make_search(data_files(tmp_path / "data"), name="deep", space=CONDITIONAL, trials=12)
    made = make(tmp_path, searches=(search,))
    space = read_space(CONDITIONAL, models.all_settings("mlp"))
    for number in range(12):
        finish_trial(made, 0, number, skill=0.3)
        _draw(made, number, random.propose(space, [], number), space.point(random.propose(space, [], number)))
    found = {axis.name: axis for axis in axes(_search(made))}
    assert list(found) == ["hidden_layers", "dropout", "learning_rate"]
    assert found["hidden_layers"].options == ([64], [512])
    assert not found["dropout"].options and not found["dropout"].log and found["learning_rate"].log
    folder = build(made.plan, made.states, mlflow=False)
    header = (folder / "tables" / "deep-trials.csv").read_text().splitlines()[0]
    assert "hidden_layers,dropout,learning_rate" in header and "shape" not in header
    assert (folder / "plots" / "deep-search.png").exists()


def test_curve_settings_and_importance_are_on_the_page_and_in_the_markdown(tmp_path: Path) -> None:
    made = _made(tmp_path, trials=14)
    space = read_space(SPACE, models.all_settings("mlp"))
    for number in range(13):
        draws = random.propose(space, [], number)
        finish_trial(made, 0, number, skill=0.2 + draws["dropout"], stopped="asha" if number % 3 else None)
        _draw(made, number, draws, space.point(draws))
    folder = build(made.plan, made.states, mlflow=False)
    page, text = (folder / "index.html").read_text(), (folder / "results.md").read_text()
    for written in (page, text):
        assert "Trials of the search" in written or "trials of the search" in written
        assert "mportance of the settings" in written and "functional analysis of variance" in written
        assert "plots/deep-search.png" in written
    with (folder / "tables" / "deep-importance.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    assert {row[0] for row in rows} == set(SPACE) and rows[0][0] == "dropout"
    collected = collect(made.plan, made.states)
    (group,) = make_groups(collected)
    (data,) = plot.build(group, collected, make_messages("en"))
    assert {axis.name for axis in data.axes} == set(SPACE) and set(data.importance) == {"dropout"}
    assert [row[1] for row in rows[1:]] == ["cannot tell"] * (len(SPACE) - 1)
    assert len(data.trials) == 13 and data.best[-1][0] == sum(len(trial.epochs) for trial in _search(made).trials)


def _draw(made: Made, number: int, draws: dict[str, float], point: dict[str, Any]) -> None:
    """Give a finished trial a point with its draws."""
    home = made.storage.search(made.plan.searches[0].id) / "trials" / f"{number:04d}" / "point.json"
    write_json(home, {**read_json(home), "draws": draws, "point": point})


def test_searches_stand_side_by_side_at_equal_epochs(tmp_path: Path) -> None:
    data, narrow = data_files(tmp_path / "data"), {"dropout": {"uniform": [0.0, 0.5]}}
    searches = (
        make_search(data, name="deep", space=SPACE, trials=12),
        make_search(data, name="few", space=narrow, trials=4),
        make_search(data, name="by_loss", space=narrow, trials=4, metric="validation_loss"),
        make_search(data_files(tmp_path / "other", "other"), name="elsewhere", space=narrow, trials=4),
    )
    made = make(tmp_path, searches=searches)
    for at, search in enumerate(searches):
        for number in range(search.trials):
            finish_trial(made, at, number, skill=0.2 + 0.05 * number)
    collected = collect(made.plan, made.states)
    deep, few = (budgets.spent(search) for search in collected.searches[:2])
    assert deep is not None and few is not None and deep.epochs == few.epochs == 4
    table = budget.build(make_groups(collected)[0], collected, make_messages("en"))
    assert table is not None
    assert [column.key for column in table.columns[4:]] == ["search few"], "others are by another figure, or data"
    shown = {row[0].text: row[4] for row in table.rows}
    assert shown["1"].value == pytest.approx(few.scores.mean())
    assert shown["2"].value == pytest.approx(budgets.expected_best(few.scores, 2)) and shown["10"].text == "–"
    assert few.expected(4 * 2.5) == pytest.approx(budgets.expected_best(few.scores, 2.5))
    assert budgets.expected_best(few.scores, 2) < budgets.expected_best(few.scores, 2.5) < few.scores.max()
    alone = budget.build(make_groups(collected)[2], collected, make_messages("en"))
    assert alone is not None and len(alone.columns) == 4
    (drawn,) = budget_plot.build(make_groups(collected)[0], collected, make_messages("en"))
    ends = [(line.search, line.epochs[0], line.epochs[-1], line.best[0], line.best[-1]) for line in drawn.lines]
    assert [end[:3] for end in ends] == [("deep", 4, 48), ("few", 4, 16)]
    expected = [
        budgets.expected_best(each.scores, trials) for each, trials in ((deep, 1), (deep, 12), (few, 1), (few, 4))
    ]
    assert [score for end in ends for score in end[3:]] == pytest.approx(expected)
    assert "deep" in files("b", budget_plot.draw(drawn, make_messages("es")))["plots/b.svg"].decode()
    assert budget_plot.build(make_groups(collected)[2], collected, make_messages("en")) == []
