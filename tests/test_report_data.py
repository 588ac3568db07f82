"""The report's account of the data: planted leaks, dropped rows, looks and fingerprints are read back from it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from data_fixture import csv_file
from small_manifest import tanda

WORDS = ("silla", "mesa", "cama", "sofá", "cuna", "ropero", "lámpara")
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
    return [{"title": title, "category": category} for title in titles]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaks")
    own = {
        part: [f"{word} {letter * 4}" for word in WORDS]
        for part, letter in zip(("train", "validation", "test"), "abc", strict=True)
    }
    parts = {
        "train": [
            *_rows(*own["train"], "Mesa Ratona Grande"),
            *_rows("mesa ratona grande", "pala", category="HOGAR"),
            *_rows(""),
        ],
        "validation": _rows(*own["validation"]),
        "test": [
            *_rows(*own["test"], "silla aaaa", "LAMPARA, aaaa!", "aaaa cama"),  # exact, case and accents, word order
            *_rows("cuna aaaa", category="HOGAR"),  # under another label alone
            *_rows("mesa ratona grande"),  # under both
            *_rows("pala", category="Jardín"),  # of a category that training does not have
        ],
    }
    for part, rows in parts.items():
        csv_file(folder / f"{part}.csv", rows)
    (folder / "m.yaml").write_text(MANIFEST)
    tanda("submit", folder / "m.yaml", "--executor", "inline")
    tanda("report", folder / "m.yaml", "--no-mlflow", "--no-plots")
    return folder / "storage" / "reports" / "leaks"


def _table(report: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((report / "tables" / f"g-{name}.csv").read_text())))


def test_planted_leaks_are_read_back_from_the_report(report: Path) -> None:
    train, validation, test = _table(report, "data")
    columns = ("titles", "in training too", "same words in any order", "in training under another label")
    assert [test[name].split(" ")[0] for name in columns] == ["12", "4", "5", "2"]
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
    assert (row["run"], row["unseen titles"]) == ("linear", "8")
    (line,) = csv.DictReader(io.StringIO((report / "results.csv").read_text()))
    assert (line["test_titles"], line["test_unseen_titles"]) == ("12", "8")
    assert line["test_fingerprint"].endswith("-12")
    assert float(line["test_unseen_balanced_accuracy"]) == pytest.approx(float(row["on unseen titles"]), abs=1e-3)


def test_one_file_twice_is_refused_before_anything_runs(report: Path) -> None:
    manifest = report.parents[2] / "m.yaml"
    said = tanda("plan", manifest, "--set", "data.test=train.csv", status=2)
    assert "train.csv has the content of data.train's" in said
