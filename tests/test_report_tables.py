"""Tables, searches and observations: what they show, and in which formats."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from cluster_fixture import REQUIRED
from report_fixture import (
    SPACE,
    Made,
    amend_record,
    build_tables,
    data_files,
    fail,
    finish_all,
    finish_evaluate,
    finish_train,
    finish_trial,
    five_results,
    make,
    make_run,
    make_search,
    rows_of,
)

from jobs import units
from jobs.units import Unit
from pipeline.report import build
from pipeline.report.collect import collect
from pipeline.report.files import ReportData, document_files
from pipeline.report.groups import make_groups
from pipeline.report.i18n import make_messages
from pipeline.report.page import render
from pipeline.report.plots import cost
from pipeline.report.search_summary import search_progress
from pipeline.report.significance import best_and_ties
from pipeline.report.table import (
    Cell,
    Column,
    Table,
    escape_latex,
    escape_markdown,
    latex_document,
    number_text,
    to_html,
    to_latex,
    to_markdown,
)
from pipeline.report.tables import build_all
from sharedfs.documents import read_json, write_json


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return five_results(tmp_path)


def test_the_best_is_bold_with_those_that_a_paired_test_cannot_tell_from_it(made: Made) -> None:
    collected = collect(made.plan, made.states)
    group = make_groups(collected)[0]
    found = best_and_ties(collected, group.entries, "test")
    assert found is not None
    assert found.best.run == "wide"
    assert found.tied == {2}
    assert found.p_values[0] < 0.001
    table = next(table for table in build_all(group, collected, make_messages("en")) if table.name == "metrics")
    place = [column.key for column in table.columns].index("test_balanced_accuracy")
    assert [row[place].bold for row in table.rows] == [False, False, True]
    values = [result.figures["test_balanced_accuracy"] for result in group.entries[2].results]
    assert table.rows[2][place].text == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def test_two_equally_good_runs_are_both_bold(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    made = make(tmp_path, runs=tuple(make_run(data, group="g", name=f"r{n}", seed=n) for n in range(2)))
    finish_all(made, {"r0": 0.7, "r1": 0.7})
    collected = collect(made.plan, made.states)
    found = best_and_ties(collected, make_groups(collected)[0].entries, "test")
    assert found is not None
    assert found.tied == {0, 1}


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
        collected=collected, groups=groups, tables=tables, observations=(), pictures={}, messages=messages
    )


MANY = {"en": "w0, w1, w2, w3, w4 and 2 more", "es": "w0, w1, w2, w3, w4 y 2 más"}
NOTES = {
    "en": [
        "Not made by the code of this version: a (other code of evaluate, whose revision is 1 as before).",
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
        "Con código que no es el de esta versión: a (otro código de evaluate, cuya revisión sigue siendo 1).",
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
    assert len(table.notes) == 3 + len(NOTES[language]), "what all rows share, or only some know, is no difference"
    files = document_files(report) | render(report)
    for name, shown in (("results.md", escape_markdown), ("results.tex", escape_latex), ("index.html", escape)):
        text = files[name].decode()
        assert [note for note in NOTES[language] if shown(note) not in text] == []


def test_formats_show_a_table_each_in_its_way() -> None:
    table = Table(
        name="t",
        group="g",
        title="T",
        columns=(Column(key="run", title="run", number=False), Column(key="x", title="x_1")),
        rows=((Cell("a|b"), Cell("0.5", 0.5, bold=True)),),
        caption="All: 1 %.",
    )
    assert to_markdown(table) == "All: 1 %.\n\n| run | x\\_1 |\n| --- | ---: |\n| a\\|b | **0.5** |\n"
    assert "\\textbf{0.5} \\\\" in to_latex(table)
    assert "x\\_1" in to_latex(table)
    assert '<th scope="col" class="number" data-key="x">x_<wbr>1</th>' in to_html(table)
    assert '<td class="number" data-value="0.5"><strong>0.5</strong></td>' in to_html(table)


@pytest.mark.skipif(
    shutil.which("pdflatex") is None and not os.environ.get(REQUIRED), reason="pdflatex is not installed"
)
def test_latex_compiles_and_no_table_is_wider_than_its_page(tmp_path: Path) -> None:
    titles = [f"a_rather_long_setting_{n}" for n in range(12)] + ["a column of several words"] * 6
    wide = Table(
        name="t",
        group="g",
        title="T <&%$#_{}~^\\>",
        columns=tuple(Column(key=title, title=title, number=n % 3 > 0) for n, title in enumerate(titles)),
        rows=tuple(
            (Cell("1024, 512, 1024, 512, 256, 128"), Cell("0.123 ± 0.012"), Cell("1e-05")) * 6 for _ in range(3)
        ),
        caption="Every mark: − ± ≥ ≤ ★ – … ñ.",
    )
    few = replace(wide, columns=wide.columns[:4], rows=tuple(row[:4] for row in wide.rows))
    (tmp_path / "t.tex").write_text(latex_document("All & sundry", [to_latex(wide), to_latex(few)]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2_000:]
    assert "Overfull" not in (tmp_path / "t.log").read_text(errors="replace")


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
        "Best cnn: strong (g)",
        "g / weak does not beat linear",
        "g / strong overfits: its validation loss rises from",
        "g / stuck was stopped at chance level after 3 epochs: gradients vanish",
        "of balanced accuracy on average over 3 runs",
    ):
        assert phrase in text, phrase
    assert "strong does not beat" not in text
