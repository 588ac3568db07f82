"""The report from storage: its table, its files, and what it does with what is unfinished or broken."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from report_fixture import (
    Made,
    data_files,
    epoch_line,
    fail,
    finish_all,
    finish_evaluate,
    finish_train,
    finish_trial,
    make,
    make_run,
    make_search,
)
from sklearn.metrics import balanced_accuracy_score, recall_score

from jobs import journal
from pipeline.report import build, disk
from pipeline.report.collect import collect
from pipeline.report.formats import html, latex, markdown
from pipeline.report.groups import make_groups
from pipeline.report.results import as_parquet
from pipeline.report.table import Cell, Column, Table, number_text
from pipeline.report.tables import build_all
from pipeline.report.ties import standing
from pipeline.report.words import PHRASES, make_words

SPACE = {"dropout": {"uniform": [0.0, 0.5]}, "learning_rate": {"loguniform": [1e-5, 1e-1]}}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Three finished runs, one of them over three seeds."""
    data = data_files(tmp_path / "data")
    runs = (
        make_run(data, group="baseline", name="MLP", reference={"test_balanced_accuracy": 0.447}),
        make_run(data, group="baseline", name="CNN", architecture="cnn"),
        *(make_run(data, group="baseline", name="wide", hidden_layers=[512], seed=seed) for seed in range(3)),
    )
    made = make(tmp_path, runs=runs)
    finish_all(made, {"MLP": 0.45, "CNN": 0.7, "wide": 0.8})
    return made


def _rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))


def _build(made: Made) -> Path:
    return build(made.plan, made.states, plots=False, mlflow=False)


def test_a_row_per_run_with_settings_figures_cost_and_commit(made: Made) -> None:
    rows = _rows(_build(made))
    assert [(row["run"], row["seed"], row["state"]) for row in rows] == [
        ("MLP", "0", "done"),
        ("CNN", "0", "done"),
        ("wide", "0", "done"),
        ("wide", "1", "done"),
        ("wide", "2", "done"),
    ]
    row = rows[2]
    assert row["hidden_layers"] == "512"
    assert rows[1]["filters_length"] == "2,3,4"
    assert row["freeze_embeddings"] == "true"
    assert row["language"] == "spanish"
    assert row["epochs_run"] == "5"
    assert row["git_commit"] == "0123abc"
    assert float(row["gpu_hours"]) == pytest.approx(20 / 3600, abs=1e-4)
    predictions = disk.read_predictions(str(made.storage.run(made.plan.rows[2].evaluate)), "test")
    assert predictions is not None
    score = balanced_accuracy_score(predictions.label, predictions.predicted)
    assert float(row["test_balanced_accuracy"]) == pytest.approx(score, abs=1e-6)
    assert row["id"] == made.plan.rows[2].train


def test_columns_are_those_of_the_design(made: Made) -> None:
    names = list(_rows(_build(made))[0])
    assert names[:7] == ["group", "run", "architecture", "seed", "id", "state", "cause"]
    wanted = ["train_loss", "validation_loss", "test_loss", "validation_balanced_accuracy", "test_balanced_accuracy"]
    wanted += ["validation_accuracy", "test_accuracy"]
    start = names.index("train_loss")
    assert names[start : start + 7] == wanted
    assert names[-4:] == ["epochs_run", "train_seconds", "gpu_hours", "git_commit"]
    hyperparameters = names[7:start]
    assert hyperparameters[:3] == ["hidden_layers", "dropout", "learning_rate"]
    assert "device" not in hyperparameters


def test_parquet_holds_the_same_with_types(made: Made) -> None:
    import pyarrow.parquet

    folder = _build(made)
    table = pyarrow.parquet.read_table(folder / "results.parquet")
    assert table.column_names == list(_rows(folder)[0])
    assert table.column("hidden_layers").to_pylist()[2] == [512]
    assert table.column("epochs_run").to_pylist() == [5] * 5


def test_recall_read_back_is_scikit_learns(made: Made) -> None:
    row = made.plan.rows[1]
    folder = str(made.storage.run(row.evaluate))
    found = disk.read_evaluation(folder)
    predictions = disk.read_predictions(folder, "test")
    assert found is not None
    assert predictions is not None
    wanted = recall_score(predictions.label, predictions.predicted, average=None)
    assert found[1]["test"].recall == pytest.approx(wanted)


def test_categories_parsed_once_are_those_of_every_file(made: Made, tmp_path: Path) -> None:
    folders = [str(made.storage.run(row.evaluate)) for row in made.plan.rows]
    known = disk.Known()
    for folder in [*folders, *folders]:
        alone, together = disk.read_evaluation(folder), disk.read_evaluation(folder, known)
        assert alone is not None
        assert together is not None
        assert alone[0] == together[0]
        assert all(np.array_equal(alone[1][name].recall, together[1][name].recall) for name in alone[1])
    assert known.head
    odd = {"test": {"recall": [1.0], "support": [1]}, "classes": ['a],"b']}
    (tmp_path / "evaluation.json").write_text(json.dumps(odd))
    for _ in range(2):
        found = disk.read_evaluation(str(tmp_path), known)
        assert found is not None
        assert found[0] == ('a],"b',)


def test_twice_gives_identical_bytes(made: Made) -> None:
    folder = build(made.plan, made.states, mlflow=False)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = folder.with_name("kept")
    folder.rename(again)
    build(made.plan, made.states, mlflow=False)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(folder) for path in before} == {path.relative_to(folder) for path in after}
    assert [str(path) for path in before if before[path] != after[path]] == []
    assert {path.suffix for path in after} >= {".png", ".svg", ".html", ".csv", ".md", ".tex", ".parquet"}


def test_failures_and_unfinished_are_rows_with_their_reason(made: Made) -> None:
    wide = [row for row in made.plan.rows if row.run == "wide"]
    fail(made, wide[1].train or "", "out of memory", "killed at 16 GB")
    shutil.rmtree(made.storage.run(wide[1].evaluate))
    made.state(wide[1].evaluate, "waiting")
    (made.storage.run(made.plan.rows[0].train or "") / "record.json").unlink()
    made.state(made.plan.rows[0].train or "", "running")
    shutil.rmtree(made.storage.run(made.plan.rows[0].evaluate))
    made.state(made.plan.rows[0].evaluate, "waiting")
    folder = _build(made)
    rows = _rows(folder)
    assert (rows[3]["state"], rows[3]["cause"], rows[3]["test_loss"]) == ("failed", "out of memory", "")
    assert (rows[0]["state"], rows[0]["test_balanced_accuracy"]) == ("running", "")
    text = (folder / "results.md").read_text()
    assert "2/3, 1 out of memory" in text
    assert "2 of 5 runs have no final figures yet (1 out of memory, 1 running)" in text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"state": "done"}', b'{"state": "odd"}', b"\xff\xfe"])
def test_a_broken_record_is_a_row_that_says_so(made: Made, content: bytes) -> None:
    (made.storage.run(made.plan.rows[1].train or "") / "record.json").write_bytes(content)
    rows = _rows(_build(made))
    assert (rows[1]["state"], rows[1]["cause"]) == ("failed", "broken record")
    assert len(rows) == 5


@pytest.mark.parametrize("name", ["evaluation.json", "predictions.npz"])
@pytest.mark.parametrize("content", [b"", b'{"classes": ["A"]', b"PK\x03\x04 torn"])
def test_a_broken_evaluation_costs_its_intervals_and_nothing_else(made: Made, name: str, content: bytes) -> None:
    (made.storage.run(made.plan.rows[1].evaluate) / name).write_bytes(content)
    rows = _rows(build(made.plan, made.states, mlflow=False))
    assert all(row["state"] == "done" and row["test_balanced_accuracy"] for row in rows)


def test_done_since_the_states_were_taken_counts_as_done(made: Made) -> None:
    for state in list(made.states):
        made.state(state, "waiting")
    assert {row["state"] for row in _rows(_build(made))} == {"done"}


def test_a_done_record_without_its_files_is_not_done(made: Made) -> None:
    row = made.plan.rows[0]
    (made.storage.run(row.train or "") / "model.pt").unlink()
    made.state(row.train or "", "waiting")
    made.state(row.evaluate, "waiting")
    (made.storage.run(row.evaluate) / "evaluation.json").unlink()
    assert _rows(_build(made))[0]["state"] == "waiting"


def test_a_torn_journal_line_is_an_epoch_not_yet_written(made: Made, tmp_path: Path) -> None:
    lines = [epoch_line(epoch, skill=0.5, random=np.random.default_rng(0)) for epoch in (1, 2, 3)]
    text = journal.encode(lines)
    for cut in range(0, len(text) + 1, 7):
        (tmp_path / "metrics.jsonl").write_bytes(text[:cut])
        assert list(disk.read_epochs(str(tmp_path))) == journal.read(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(text + journal.encode([{**lines[1], "train_loss": 9.0}]))
    assert list(disk.read_epochs(str(tmp_path))) == journal.read(tmp_path)


def test_two_hundred_reports_while_runs_are_being_written(made: Made) -> None:
    rows = [row for row in made.plan.rows if row.train]
    over = threading.Event()
    # The journal's fsyncs are real: the writer works as jobs do, only without pause.

    def write() -> None:
        number = 0
        while not over.is_set():
            row = rows[number % len(rows)]
            shutil.rmtree(made.storage.run(row.evaluate), ignore_errors=True)
            (made.storage.run(row.train or "") / "record.json").unlink(missing_ok=True)
            finish_train(made, row.train or "", skill=0.5)
            finish_evaluate(made, row.evaluate, skill=0.5)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    try:
        for _ in range(200):
            for row in _rows(_build(made)):
                whole = bool(row["test_balanced_accuracy"]) and bool(row["train_loss"])
                assert whole == (row["state"] == "done"), row
                seen.add(row["state"])
    finally:
        over.set()
        writer.join()
    assert "done" in seen


def test_the_best_is_bold_with_those_that_a_paired_test_cannot_tell_from_it(made: Made) -> None:
    collected = collect(made.plan, made.states)
    group = make_groups(collected)[0]
    found = standing(collected, group.entries, "test")
    assert found is not None
    assert found.best.run == "wide"
    assert found.tied == {2}
    assert found.p_values[0] < 0.001
    table = next(table for table in build_all(group, collected, make_words("en")) if table.name == "metrics")
    place = [column.key for column in table.columns].index("test_balanced_accuracy")
    assert [row[place].bold for row in table.rows] == [False, False, True]
    values = [result.figures["test_balanced_accuracy"] for result in group.entries[2].results]
    assert table.rows[2][place].text == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def test_two_equally_good_runs_are_both_bold(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    made = make(tmp_path, runs=tuple(make_run(data, group="g", name=f"r{n}", seed=n) for n in range(2)))
    finish_all(made, {"r0": 0.7, "r1": 0.7})
    collected = collect(made.plan, made.states)
    found = standing(collected, make_groups(collected)[0].entries, "test")
    assert found is not None
    assert found.tied == {0, 1}


def test_published_figures_stand_beside_ours_with_the_difference(made: Made) -> None:
    folder = _build(made)
    ours = float(_rows(folder)[0]["test_balanced_accuracy"])
    line = next(line for line in (folder / "tables/baseline-metrics.md").read_text().splitlines() if "MLP" in line)
    assert f"| {number_text(ours)} |" in line
    assert f"| 0.447 | {number_text(ours - 0.447, sign=True)} |" in line


def test_equal_columns_move_to_the_caption(made: Made) -> None:
    text = (_build(made) / "tables/baseline-hyperparameters.md").read_text()
    caption, head = text.splitlines()[0], text.splitlines()[2]
    assert "batch\\_size 128" in caption
    assert "batch\\_size" not in head
    assert "hidden\\_layers" in head


def test_spanish_has_every_phrase_with_the_same_places(made: Made, tmp_path: Path) -> None:
    import string

    for key, (english, spanish) in PHRASES.items():
        fields = [{name for _, name, _, _ in string.Formatter().parse(text) if name} for text in (english, spanish)]
        assert fields[0] == fields[1], key
    with pytest.raises(ValueError, match="must be one of en, es"):
        make_words("fr")


def test_a_spanish_report(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    made = make(
        tmp_path, runs=(make_run(data, group="g", name="r"), make_run(data, group="g", name="s")), language="es"
    )
    finish_all(made, {"s": 0.3})
    folder = build(made.plan, made.states, mlflow=False)
    text = (folder / "results.md").read_text()
    assert "exactitud balanceada de prueba" in text
    assert "Observaciones" in text
    assert '<html lang="es">' in (folder / "index.html").read_text()


def test_names_that_people_chose_are_escaped_everywhere(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    name = "<script>alert(1)</script> | $x_1$ & 100 % \\ {a} #1"
    made = make(tmp_path, runs=(make_run(data, group="a/b <i>", name=name), make_run(data, group="a/b <i>", name="b")))
    finish_all(made, {})
    folder = build(made.plan, made.states, mlflow=False)
    for path in folder.rglob("*.html"):
        assert "<script>alert" not in path.read_text(), path
    assert "<script>" not in (folder / "results.md").read_text()
    assert latex.escape(name) in (folder / "results.tex").read_text()
    assert _rows(folder)[0]["run"] == name
    assert all(path.parent == folder / "plots" for path in folder.rglob("*.png"))


def test_formats_show_a_table_each_in_its_way() -> None:
    table = Table(
        name="t",
        group="g",
        title="T",
        columns=(Column(key="run", title="run", number=False), Column(key="x", title="x_1")),
        rows=((Cell("a|b"), Cell("0.5", 0.5, bold=True)),),
        caption="All: 1 %.",
    )
    assert markdown.write(table) == "All: 1 %.\n\n| run | x\\_1 |\n| --- | ---: |\n| a\\|b | **0.5** |\n"
    assert "\\textbf{0.5} \\\\" in latex.write(table)
    assert "x\\_1" in latex.write(table)
    assert '<th scope="col" class="number" data-key="x">x_1</th>' in html.write(table)
    assert '<td class="number" data-value="0.5"><strong>0.5</strong></td>' in html.write(table)


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
    row = _rows(_build(searched))[0]
    assert row["run"] == "winner"
    assert row["id"] == searched.plan.searches[0].trials[5]
    point = json.loads((searched.storage.search(searched.plan.searches[0].id) / "trials/0005/point.json").read_text())[
        "point"
    ]
    assert float(row["learning_rate"]) == pytest.approx(point["learning_rate"])
    assert float(row["dropout"]) == pytest.approx(point["dropout"])


def test_a_search_shows_its_trials_best_first(searched: Made) -> None:
    folder = build(searched.plan, searched.states, mlflow=False)
    lines = (folder / "tables/mlp-trials.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["5", "4", "3", "1", "0", "2"]
    assert "stopped early" in lines[6]
    assert (folder / "plots/mlp-search.png").exists()


def test_an_untouched_manifest_has_a_report_too(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    made = make(
        tmp_path,
        runs=(make_run(data, group="g", name="r"),),
        searches=(make_search(data, name="s", space=SPACE, trials=2),),
    )
    folder = build(made.plan, made.states, mlflow=False)
    assert [row["state"] for row in _rows(folder)] == ["waiting", "waiting"]
    assert "2 of 2 runs have no final figures yet (2 waiting)" in (folder / "index.html").read_text()


def test_left_over_pages_and_plots_are_removed(made: Made) -> None:
    folder = build(made.plan, made.states, mlflow=False)
    (folder / "plots/old.png").write_bytes(b"old")
    (folder / "runs/old.html").write_bytes(b"old")
    (folder / "notes.txt").write_text("mine")
    build(made.plan, made.states, mlflow=False)
    assert not (folder / "plots/old.png").exists()
    assert not (folder / "runs/old.html").exists()
    assert (folder / "notes.txt").exists()


def test_progress_is_told(made: Made) -> None:
    told: list[tuple[str, int, int]] = []
    build(made.plan, made.states, mlflow=False, progress=lambda *step: told.append(step))
    assert {name for name, _, _ in told} >= {"plots", "page"}
    assert all(0 < done <= total for _, done, total in told)


def test_the_report_never_imports_torch_pandas_or_mlflow(made: Made) -> None:
    heavy = ("torch", "pandas", "mlflow", "matplotlib", "sklearn", "jinja2")
    before = _loaded(heavy, "import pipeline.report")
    assert before == "[]"
    assert (
        _loaded(heavy, "from pipeline.report.results import as_parquet; as_parquet({'a': [1, None], 'l': [[1], []]})")
        == "[]"
    )


def _loaded(names: tuple[str, ...], code: str) -> str:
    lines = f"import sys; {code}; print([name for name in {names} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("values", "read"),
    [
        ([1, None, 2.5], [1.0, None, 2.5]),
        ([[1], [], None], [[1], [], None]),
        ([[1], [2.5]], ["[1]", "[2.5]"]),
        ([1, "a"], ["1", '"a"']),
        ([{"a": 1}, None], ['{"a": 1}', None]),
        ([True, None], [True, None]),
        ([None, None], [None, None]),
    ],
)
def test_parquet_takes_a_setting_of_any_kind(values: list[object], read: list[object]) -> None:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(as_parquet({"setting": values})))
    assert table.column("setting").to_pylist() == read


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
    text = (_build(made) / "results.md").read_text()
    for phrase in (
        "Best cnn: strong (g)",
        "g / weak does not beat linear",
        "g / strong overfits: its validation loss rises from",
        "g / stuck was stopped at chance level after 3 epochs: gradients vanish",
        "of balanced accuracy on average over 3 runs",
    ):
        assert phrase in text, phrase
    assert "strong does not beat" not in text
