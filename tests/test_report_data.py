"""The report's account of the data: planted leaks, dropped rows, looks and fingerprints are read back from it."""

from __future__ import annotations

import csv
import html
import io
import json
from pathlib import Path

import pytest
from data_fixture import csv_file
from small_manifest import tanda, write_titles

from pipeline.errors import find_errors
from sharedfs.documents import read_json

WORDS = ("silla", "mesa", "cama", "sofá", "cuna", "ropero", "lámpara")
DESK = "escritorio pino tres cajones amplio blanco"
MANIFEST = """
name: leaks
storage: storage
data:
  train: train.csv
  validation: validation.csv
  test: test.csv
  text: {accents: strip}
  vocabulary: {min_count: 1}
  embeddings: {size: 4}
experiments:
  g: {runs: {linear: {architecture: linear}}}
resources: {preprocess: &small {cpus: 1, mem_gb: 0.5, time_min: 5}, train: *small, evaluate: *small, close: *small}
"""


def _rows(*titles: str, category: str = "Hogar") -> list[dict[str, str]]:
    return [{"title": title, "category": category, "language": "es"} for title in titles]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaks")
    own = {
        part: [f"{word} {letter * 4}" for word in WORDS]
        for part, letter in zip(("train", "validation", "test"), "abc", strict=True)
    }
    parts = {
        "train": [
            *_rows(*own["train"], "Mesa Ratona Grande", f"{DESK} mate"),
            *_rows("mesa ratona grande", "pala", category="HOGAR"),
            *_rows(""),
        ],
        "validation": _rows(*own["validation"]),
        "test": [
            *_rows(*own["test"], "silla aaaa", "LAMPARA, aaaa!", "aaaa cama"),  # exact, case and accents, word order
            *_rows("cuna aaaa", category="HOGAR"),  # under another label alone
            *_rows("mesa ratona grande"),  # under both
            *_rows("pala", category="Jardín"),  # of a category that training does not have
            *_rows(f"{DESK} brillante", category="HOGAR"),  # one word is another
        ],
    }
    for row in parts["test"][:3]:
        row["language"] = "pt"
    for part, rows in parts.items():
        csv_file(folder / f"{part}.csv", rows)
    (folder / "m.yaml").write_text(MANIFEST)
    tanda("submit", folder / "m.yaml", "--executor", "inline")
    tanda("report", folder / "m.yaml", "--no-mlflow")
    return folder / "storage" / "reports" / "leaks"


def _table(report: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((report / "tables" / f"g-{name}.csv").read_text())))


def test_planted_leaks_are_read_back_from_the_report(report: Path) -> None:
    train, validation, test = _table(report, "data")
    columns = ("titles", "in training too", "same words in any order", "in training under another label")
    assert [test[name].split(" ")[0] for name in columns] == ["13", "4", "5", "2"]
    assert [validation[name].split(" ")[0] for name in columns] == ["7", "0", "0", "0"]
    assert [row["rows dropped"] for row in (train, validation, test)] == ["1", "0", "1"]
    assert [row["categories"] for row in (train, validation, test)] == ["2 / 2", "1 / 2", "2 / 2"]
    text = (report / "tables" / "g-data.md").read_text()
    for said in (
        "label unseen in training 1",
        "empty title 1",
        "look alike: HOGAR, Hogar",
        "fingerprint",
        "test.csv sha256:",
    ):
        assert said in text


def test_each_score_is_also_that_of_unseen_titles(report: Path) -> None:
    (row,) = _table(report, "unseen")
    assert (row["run"], row["unseen titles"]) == ("linear", "9")
    (line,) = csv.DictReader(io.StringIO((report / "results.csv").read_text()))
    assert (line["test_titles"], line["test_unseen_titles"]) == ("13", "9")
    assert line["test_fingerprint"].endswith("-13")
    assert float(line["test_unseen_balanced_accuracy"]) == pytest.approx(float(row["on unseen titles"]), abs=1e-3)


def test_dropped_test_rows_are_told_beside_the_scores(report: Path) -> None:
    text = (report / "tables" / "g-metrics.md").read_text()
    assert "Of the test rows 1 of 14 were dropped and are in no score: label unseen in training 1." in text


def test_each_language_has_its_score(report: Path) -> None:
    (row,) = _table(report, "languages")
    languages = read_json(next(report.parents[1].glob("runs/*/evaluation.json")))["test"]["languages"]
    assert [*row] == ["run", "all titles", "es (10)", "pt (3)"]
    for column, name in (("es (10)", "es"), ("pt (3)", "pt")):
        assert float(row[column]) == pytest.approx(languages[name]["balanced_accuracy"], abs=1e-3)


def test_errors_by_title_are_on_the_runs_page(report: Path) -> None:
    (evaluation,) = report.parents[1].glob("runs/*/evaluation.json")
    errors = find_errors(evaluation.parent)
    page = html.unescape((report / "runs" / f"{evaluation.parent.name}.html").read_text())
    section = page.split('id="errors"')[1].split("</section>")[0]
    worst = errors.worst[0]
    assert worst.place is not None and errors.wrong == len(errors.worst) > 0
    assert f"<td>{Path(worst.place).name}</td>" in section and f"<td>{worst.label}</td>" in section
    for one in errors.slices:
        assert f'<td>{one.value}</td><td class="number">{one.titles}</td><td class="number">{one.wrong}</td>' in section
    assert "in another order" in section and "> 10" not in section


def test_one_file_twice_is_refused_before_anything_runs(report: Path) -> None:
    manifest = report.parents[2] / "m.yaml"
    said = tanda("plan", manifest, "--set", "data.test=train.csv", status=2)
    assert "train.csv has the content of data.train's" in said


def test_the_command_counts_them_and_finds_near_ones(report: Path) -> None:
    manifest = report.parents[2] / "m.yaml"
    printed = tanda("overlap", manifest)
    assert "4 (30.8%)" in printed and "5 (38.5%)" in printed and "near" not in printed
    (found,) = json.loads(tanda("overlap", manifest, "--near", "--json"))
    assert found["overlap"]["test"]["exact"] == 4
    assert (found["near"]["titles"], found["near"]["near"], found["near"]["other_label"]) == (8, 1, 1)
    (nearest,) = found["near"]["nearest"]
    assert (nearest["title"], nearest["twin"]) == ("escritorio pino tres cajones amplio blanco <UNK>", f"{DESK} mate")
    assert (nearest["label"], nearest["twin_label"]) == ("HOGAR", "Hogar")
    assert nearest["similarity"] == pytest.approx(6 / 7) and nearest["place"].endswith("test.csv: row 14")
    printed = tanda("overlap", manifest, "--near")
    assert "1 of the 8 test titles that training does not have are near one of its titles" in printed


# Scores by training rows.

SIZES = """
name: sizes
storage: storage
data:
  source: titles.csv
  split: {validation: 0.2, test: 0.2}
  embeddings: {size: 8}
experiments:
  g: {architecture: linear, grid: {train_rows: [20, all, 60], ngrams: [1, 2]}}
resources: {preprocess: &small {cpus: 1, mem_gb: 0.5, time_min: 5}, train: *small, evaluate: *small, close: *small}
"""


def test_scores_are_drawn_against_training_rows(tmp_path: Path) -> None:
    write_titles(tmp_path / "titles.csv")
    (tmp_path / "m.yaml").write_text(SIZES)
    tanda("submit", tmp_path / "m.yaml", "--executor", "inline")
    tanda("report", tmp_path / "m.yaml", "--no-mlflow")
    made = tmp_path / "storage" / "reports" / "sizes"
    rows = _table(made, "data_size")
    names = [f"train_rows={rows},ngrams={ngrams}" for ngrams in (1, 2) for rows in (20, 60, "all")]
    assert [row["run"] for row in rows] == names
    whole = int(rows[2]["training rows"])
    assert [int(row["training rows"]) for row in rows] == [20, 60, whole] * 2 and whole > 200
    scores = {line["run"]: line for line in csv.DictReader(io.StringIO((made / "results.csv").read_text()))}
    assert len({line["test_fingerprint"] for line in scores.values()}) == 1, "all are judged on the same titles"
    for row in rows:
        score = float(scores[row["run"]]["test_balanced_accuracy"])
        assert float(row["test balanced accuracy"]) == pytest.approx(score, abs=1e-3)
    picture = (made / "plots" / "g-rows.svg").read_text()
    assert "ngrams=1" in picture and "training rows" in picture and "g-rows.png" in (made / "index.html").read_text()


def test_a_number_of_rows_that_is_none_is_refused(tmp_path: Path) -> None:
    write_titles(tmp_path / "titles.csv")
    (tmp_path / "m.yaml").write_text(SIZES.replace("60]", "most]"))
    assert "must be a whole number from 1, or all, not 'most'" in tanda("plan", tmp_path / "m.yaml", status=2)
