"""Tables and observations: what they show."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from report_fixture import (
    Made,
    amend_record,
    build_tables,
    data_files,
    fail,
    finish_all,
    finish_evaluate,
    finish_train,
    five_results,
    make,
    make_run,
    rows_of,
    seeds_of,
)

from jobs import units
from jobs.units import Unit
from pipeline.report.collect import collect
from pipeline.report.files import ReportData, document_files
from pipeline.report.groups import make_groups
from pipeline.report.i18n import make_messages
from pipeline.report.insights import Observations
from pipeline.report.page import render
from pipeline.report.plots import cost, recall
from pipeline.report.significance import by_titles
from pipeline.report.standings import Standing, answers_of, standings
from pipeline.report.table import (
    Cell,
    Table,
    escape_latex,
    escape_markdown,
    number_text,
)
from pipeline.report.tables import build_all
from sharedfs.documents import read_json, write_json


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return five_results(tmp_path)


AB = (("a", 0.1), ("b", 0.2))


def _standing(made: Made, metric: str = "balanced_accuracy") -> Standing:
    collected = collect(made.plan, made.states)
    ((titles, entries),) = by_titles(collected, make_groups(collected)[0].entries).items()
    return standings(entries, titles, answers_of(collected, entries))[metric]


def _metrics(made: Made, language: str = "en") -> Table:
    collected = collect(made.plan, made.states)
    tables = build_all(make_groups(collected)[0], collected, make_messages(language))
    return next(table for table in tables if table.name == "metrics")


def _column(table: Table, key: str) -> list[Cell]:
    place = [column.key for column in table.columns].index(key)
    return [row[place] for row in table.rows]


def test_the_best_is_bold_with_those_that_cannot_be_told_from_it(made: Made) -> None:
    found = _standing(made)
    assert found.best.run == "wide"
    assert found.tied == {1, 2}, "CNN is behind by less than chance would explain"
    assert not found.of_settings, "MLP and CNN have one seed"
    table = _metrics(made)
    scores = _column(table, "test_balanced_accuracy")
    assert [cell.bold for cell in scores] == [False, True, True]
    values = [result.figures["test_balanced_accuracy"] for result in found.best.results]
    assert scores[2].text == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def test_two_equally_good_runs_are_both_bold(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    made = make(tmp_path, runs=tuple(make_run(data, group="g", name=f"r{n}", seed=n) for n in range(2)))
    finish_all(made, {"r0": 0.7, "r1": 0.7})
    assert _standing(made).tied == {0, 1}


def test_only_metrics_that_are_tested_are_bold(made: Made) -> None:
    """Validation figures are the highest of many on those titles, losses those of different kinds."""
    table = _metrics(made)
    bold = {column.key for column in table.columns if any(cell.bold for cell in _column(table, column.key))}
    assert bold == {"test_balanced_accuracy", "test_accuracy", "test_macro_f1"}
    intervals = [column.key for column in table.columns if column.key.endswith("interval")]
    assert intervals == ["interval", "accuracy interval", "macro_f1 interval"]
    for key, figure in zip(intervals, ("balanced_accuracy", "accuracy", "macro_f1"), strict=True):
        for cell, score in zip(_column(table, key), _column(table, f"test_{figure}"), strict=True):
            low, high = (float(end) for end in cell.text.strip("[]").split(", "))
            # The fixture makes up macro F1, 0.01 below balanced accuracy.
            assert low < (score.value or 0) < high and high - low < 0.2


@pytest.mark.parametrize(("categories", "shown"), [(5, False), (6, True)])
def test_top5_is_shown_where_it_says_something(categories: int, shown: bool, tmp_path: Path) -> None:
    runs = tuple(make_run(data_files(tmp_path / "data"), group="g", name=name, dropout=rate) for name, rate in AB)
    made = make(tmp_path, runs=runs, categories=categories)
    finish_all(made, {"a": 0.3})
    assert ("test_top5" in [column.key for column in _metrics(made).columns]) == shown


def test_a_table_says_over_how_many_categories_and_titles_it_is(tmp_path: Path) -> None:
    runs = tuple(make_run(data_files(tmp_path / "data"), group="g", name=name, dropout=rate) for name, rate in AB)
    made = make(tmp_path, runs=runs, categories=40, titles=90)
    finish_all(made, {"a": 0.3})
    support = np.bincount(made.labels["test"], minlength=40)
    rare = int(np.count_nonzero(support < 5))
    assert f"over 90 titles of 40 of the 40 categories, {rare} of which have fewer than" in " ".join(
        _metrics(made).notes
    )


@pytest.mark.parametrize(("titles", "few"), [(24, True), (400, False)])
def test_too_few_titles_have_no_interval_and_tell_nothing_apart(titles: int, few: bool, tmp_path: Path) -> None:
    runs = tuple(make_run(data_files(tmp_path / "data"), group="g", name=name, dropout=rate) for name, rate in AB)
    made = make(tmp_path, runs=runs, categories=3, titles=titles)
    finish_all(made, {"a": 0.3, "b": 0.95})
    table = _metrics(made)
    assert ("interval" in [column.key for column in table.columns]) == (not few)
    assert ("95 % interval too few titles" in table.caption) == few
    assert [cell.bold for cell in _column(table, "test_balanced_accuracy")] == [few, True]


@pytest.mark.parametrize(("seeds", "settings"), [(1, False), (3, True)])
def test_one_seed_speaks_of_trained_models_alone(seeds: int, settings: bool, tmp_path: Path) -> None:
    """No sentence, note or star says of settings what one seed of them showed."""
    made = seeds_of(tmp_path, {"a": 0.4, "b": 0.8}, seeds, titles=2_000)
    text = (build_tables(made) / "results.md").read_text().replace("\\", "")
    assert ("in titles and seeds" in text) == settings
    assert ("over titles and seeds" in text) == settings
    assert ("of these trained models more than chance" in text) == (not settings)
    assert ("won with one trained model" in text) == (not settings)
    assert ("Next: five seeds for g / b, g / a" in text) == (not settings)
    assert _standing(made).of_settings == settings


def test_the_spread_of_seeds_is_told_of_all_runs_together(tmp_path: Path) -> None:
    made = seeds_of(tmp_path, {"a": 0.4, "b": 0.8}, 3, titles=2_000)
    rows = [result.figures["test_balanced_accuracy"] for result in collect(made.plan, made.states).results]
    pooled = np.sqrt(np.mean([np.var(rows[:3], ddof=1), np.var(rows[3:], ddof=1)]))
    notes = " ".join(_metrics(made).notes)
    assert f"Seeds of mlp are {pooled:.4f} of test balanced accuracy apart" in notes
    assert "2 runs on these titles together, 4 degrees of freedom" in notes


def _two_data_sets(root: Path) -> Made:
    """Two runs on some titles; one on fewer, easier ones that has the highest scores."""
    data, other = data_files(root / "data"), data_files(root / "other", language="portuguese")
    runs = [make_run(data, group="g", name=name, dropout=rate) for name, rate in AB]
    made = make(root, runs=(*runs, make_run(other, group="g", name="easy")), titles=600)
    finish_all(made, {"a": 0.4, "b": 0.6})
    easy = next(row for row in made.plan.rows if row.run == "easy")
    made.labels = {split: label[label < 6] for split, label in made.labels.items()}
    finish_train(made, easy.train or "", skill=0.95)
    finish_evaluate(made, easy.evaluate, skill=0.95)
    return made


def test_runs_on_other_titles_are_not_compared(tmp_path: Path) -> None:
    made = _two_data_sets(tmp_path)
    table = _metrics(made)
    assert [cell.text for cell in _column(table, "run")] == ["a", "b ★", "easy"]
    assert [cell.text for cell in _column(table, "titles")] == ["A", "A", "B"]
    assert [cell.bold for cell in _column(table, "test_balanced_accuracy")] == [False, True, False]
    assert any(note.startswith("Test titles B: ") and "of 6 of the 12 categories" in note for note in table.notes)
    text = (build_tables(made) / "results.md").read_text()
    assert "g / easy is ahead" not in text and "ahead of g / easy" not in text
    assert "g / b is ahead of g / a" in text


@pytest.mark.parametrize(("cause", "wins"), [("diverged", False), ("out of memory", False), ("node failure", True)])
def test_a_seed_that_failed_by_its_own_fault_counts(cause: str, wins: bool, tmp_path: Path) -> None:
    made = seeds_of(tmp_path, {"sound": 0.6, "lucky": 0.75}, 3, titles=2_000)
    for row in [row for row in made.plan.rows if row.run == "lucky"][1:]:
        fail(made, row.train or "", cause, "it did", epochs=1)
        shutil.rmtree(made.storage.run(row.evaluate))
        made.state(row.evaluate, "waiting")
    table = _metrics(made)
    assert [cell.text for cell in _column(table, "run")] == (["sound", "lucky ★"] if wins else ["sound ★", "lucky"])
    assert [cell.bold for cell in _column(table, "test_balanced_accuracy")][1] == wins
    assert f"1/3, 2 {cause}" in _column(table, "seeds")[1].text
    assert any("counts as guessing" in note for note in table.notes) == (not wins)


def test_the_star_goes_by_what_selects(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    runs = tuple(make_run(data, group="g", name=name, dropout=rate, select_by="validation_loss") for name, rate in AB)
    made = make(tmp_path, runs=runs)
    finish_all(made, {"a": 0.3, "b": 0.6})
    for row, loss in zip(made.plan.rows, (1.0, 2.0), strict=True):
        for task in (row.train or "", row.evaluate):
            path = made.storage.run(task) / "record.json"
            record = read_json(path)
            write_json(path, {**record, "result": {**record["result"], "validation_loss": loss}})
    table = _metrics(made)
    assert [cell.text for cell in _column(table, "run")] == ["a ★", "b"]
    assert any(note.startswith("★ has the best validation loss of those") for note in table.notes)
    assert "chosen by its validation loss of 1.000" in (build_tables(made) / "results.md").read_text()


def test_pictures_show_runs_on_the_same_titles(tmp_path: Path) -> None:
    made = _two_data_sets(tmp_path)
    collected = collect(made.plan, made.states)
    costs = cost.build(None, collected, make_messages("en"))
    assert [[point.label for point in each.points] for each in costs] == [["g / a", "g / b"], ["g / easy"]]
    recalls = recall.build(make_groups(collected)[0], collected, make_messages("en"))
    assert [[run.run for run in each.runs] for each in recalls] == [["a", "b"], ["easy"]]
    assert len({each.name for each in (*costs, *recalls)}) == 4


def test_test_and_validation_are_compared_over_the_categories_of_both(tmp_path: Path) -> None:
    """Hard categories that only validation has once made test look better."""
    runs = tuple(make_run(data_files(tmp_path / "data"), group="g", name=name, dropout=rate) for name, rate in AB)
    made = make(tmp_path, runs=runs, titles=4_000)
    # The fixture's later categories are the harder ones.
    made.labels["test"] = made.labels["test"][made.labels["test"] < 5]
    finish_all(made, {"a": 0.6, "b": 0.6})
    text = (build_tables(made) / "results.md").read_text()
    found = re.search(r"(above|below) validation by (0\.\d+) .* over the 5 categories that both have", text)
    assert found is not None and float(found[2]) < 0.03


def test_published_figures_stand_beside_ours_with_the_difference(made: Made) -> None:
    folder = build_tables(made)
    ours = float(rows_of(folder)[0]["test_balanced_accuracy"])
    line = next(line for line in (folder / "tables/baseline-metrics.md").read_text().splitlines() if "MLP" in line)
    assert f"| {number_text(ours)} |" in line
    assert f"| 0.447 | {number_text(ours - 0.447, sign=True)} |" in line


def test_equal_columns_move_to_the_caption(made: Made) -> None:
    text = (build_tables(made) / "tables/baseline-hyperparameters.md").read_text()
    caption, head = text.splitlines()[0], text.splitlines()[2]
    assert "batch\\_size 128" in caption
    assert "batch\\_size" not in head
    assert "hidden\\_layers" in head


def _made_differently(root: Path, language: str) -> ReportData:
    """Three runs that earlier code made on other machines."""
    data = data_files(root / "data")
    runs = tuple(make_run(data, group="g", name=name, dropout=rate) for name, rate in (("a", 0.1), ("b_", 0.2)))
    many = tuple(make_run(data, group="g", name=f"w{number}", dropout=0.3 + number / 100) for number in range(7))
    made = make(root, runs=(*runs, *many), language=language)
    finish_all(made, {})
    model, evaluate = Unit("model", "mlp"), Unit("evaluate")
    old = {"revision": units.revision(model) - 1, "source": "s" * 16, "content": "c" * 16}
    other = {**old, "revision": units.revision(evaluate)}
    first, second, *others = made.plan.rows
    slow = {"torch": "2.8.0", "numpy": "2.1.0", "cpus": 2}
    fast = {"torch": "2.9.0", "numpy": "2.1.0", "cpus": 8, "cuda": "12.8", "cudnn": 91002, "gpu": "<A100> & co_"}
    amend_record(made, first.train or "", about=slow, made_by={"model mlp": old, "model gone": old})
    amend_record(made, first.evaluate, made_by={"evaluate": other})
    amend_record(made, second.train or "", about=fast, made_by={"model mlp": old})
    for row in others:
        amend_record(made, row.train or "", about={**slow, "cpus": 8})
    collected, messages = collect(made.plan, made.states), make_messages(language)
    groups = make_groups(collected)
    tables = build_all(groups[0], collected, messages)
    return ReportData(
        collected=collected,
        groups=groups,
        tables=tables,
        observations=Observations(first=()),
        pictures={},
        messages=messages,
    )


EVALUATE = units.revision(Unit("evaluate"))
MANY = {"en": "w0, w1, w2, w3, w4 and 2 more", "es": "w0, w1, w2, w3, w4 y 2 más"}
NOTES = {
    "en": [
        f"Not made by the code of this version: a (other code of evaluate, whose revision is {EVALUATE} as before).",
        "Not made by the code of this version: a (model gone, which this version does not have).",
        "Not made by the code of this version: a, b_ (revision 0 of model mlp, now 1).",
        *(
            f"Rows differ in {difference}, which can change their last digits."
            for difference in (
                f"torch (2.8.0: a, {MANY['en']}; 2.9.0: b_)",
                f"GPU (none: a, {MANY['en']}; <A100> & co_: b_)",
                f"threads (2: a; 8: b_, {MANY['en']})",
            )
        ),
    ],
    "es": [
        f"Con código que no es el de esta versión: a (otro código de evaluate, cuya revisión sigue siendo {EVALUATE}).",
        "Con código que no es el de esta versión: a (model gone, que esta versión no tiene).",
        "Con código que no es el de esta versión: a, b_ (revisión 0 de model mlp, ahora 1).",
        *(
            f"Las filas difieren en {difference}, lo que puede cambiar sus últimas cifras."
            for difference in (
                f"torch (2.8.0: a, {MANY['es']}; 2.9.0: b_)",
                f"GPU (ninguna: a, {MANY['es']}; <A100> & co_: b_)",
                f"hilos (2: a; 8: b_, {MANY['es']})",
            )
        ),
    ],
}


@pytest.mark.parametrize("language", ["en", "es"])
def test_notes_say_what_earlier_code_and_other_machines_made(tmp_path: Path, language: str) -> None:
    report = _made_differently(tmp_path, language)
    table = next(table for table in report.tables if table.name == "metrics")
    assert [note for note in table.notes if note in NOTES[language]] == NOTES[language]
    assert len(table.notes) == 4 + len(NOTES[language]), "what all rows share, or only some know, is no difference"
    files = document_files(report) | render(report)
    for name, shown in (("results.md", escape_markdown), ("results.tex", escape_latex), ("index.html", escape)):
        text = files[name].decode()
        assert [note for note in NOTES[language] if shown(note) not in text] == []


def test_the_worst_run_of_all_has_its_place_beside_its_cost(made: Made) -> None:
    collected = collect(made.plan, made.states)
    first = collected.results[0]
    worst = replace(first, figures={**first.figures, "test_balanced_accuracy": 0.0})
    collected.results = (worst, *collected.results[1:])
    (costs,) = cost.build(None, collected, make_messages("en"))
    assert [(point.label, point.score > 0) for point in costs.points] == [
        ("baseline / MLP", False),
        ("baseline / CNN", True),
        ("baseline / wide", True),
    ]


@pytest.mark.parametrize(("categories", "score", "said"), [
    (1, 1.0, False), (2, 0.54, True), (2, 0.9, False), (3, 0.37, True), (3, 0.6, False), (100, 0.03, True),
    (100, 0.04, False),
])  # fmt: skip
def test_at_chance_is_near_what_guessing_gives(categories: int, score: float, said: bool, tmp_path: Path) -> None:
    made = make(tmp_path, runs=(make_run(data_files(tmp_path / "data"), group="g", name="a"),), categories=categories)
    finish_all(made, {"a": 0.6})
    for task in (made.plan.rows[0].train or "", made.plan.rows[0].evaluate):
        path = made.storage.run(task) / "record.json"
        record = read_json(path)
        write_json(path, {**record, "result": {**record["result"], "validation_balanced_accuracy": score}})
    assert ("g / a was at chance" in (build_tables(made) / "results.md").read_text()) == said


def test_observations_say_what_happened(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    runs = (
        make_run(data, group="g", name="linear", architecture="linear"),
        make_run(data, group="g", name="weak"),
        make_run(data, group="g", name="strong", architecture="cnn"),
        make_run(data, group="g", name="stuck", architecture="rnn"),
    )
    made = make(tmp_path, runs=runs, titles=2_000)
    finish_all(made, {"linear": 0.6, "weak": 0.4, "strong": 0.8, "stuck": 0.3})
    rows = {row.run: row for row in made.plan.rows}
    finish_train(made, rows["strong"].train or "", skill=0.8, epochs=10, overfit=True)
    fail(made, rows["stuck"].train or "", "at chance", "gradients vanish", epochs=3)
    shutil.rmtree(made.storage.run(rows["stuck"].evaluate))
    text = (build_tables(made) / "results.md").read_text()
    for phrase in (
        "g / strong (cnn) won with one trained model",
        "Networks not above linear (",
        "on test): 1 of 2; the lowest is g / weak",
        "1 of 4 runs failed (1 at chance)",
        "g / strong overfits: its validation loss rises from",
        "g / stuck was stopped at chance level after 3 epochs: gradients vanish",
        "of balanced accuracy on average over 3 runs",
    ):
        assert phrase in text, phrase
    first = text.split("## Observations")[1].split("\n## ")[0].strip().splitlines()
    assert 1 <= len(first) <= 7
    assert first[0].startswith("- g / strong")
    assert not any("overfits" in line for line in first)
