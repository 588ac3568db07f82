"""`tanda results`: the rows of results.csv in every form that it offers, from the stored storage."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import polars
import pytest
from small_manifest import tanda
from stored import HOME

from pipeline.experiment import Experiment
from pipeline.results import render_results
from sharedfs.errors import InputError


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    shutil.copytree(HOME, tmp_path / "small")
    (found,) = (tmp_path / "small").glob("*.yaml")
    return found


def test_every_form_has_the_rows_of_results_csv(manifest: Path) -> None:
    lines = tanda("results", manifest)
    report = Experiment(manifest).report(plots=False, mlflow=False)
    assert lines == (report / "results.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(lines)))
    documents = json.loads(tanda("results", manifest, "--format", "json"))
    frame = polars.read_parquet(io.BytesIO(render_results(Experiment(manifest).make_plan(), "parquet")))
    for some in (documents, frame.rows(named=True)):
        assert [row.keys() for row in some] == [row.keys() for row in rows]
        assert [row["id"] for row in some] == [row["id"] for row in rows]
        assert [f"{row['test_accuracy']:.6f}" for row in some] == [row["test_accuracy"] for row in rows]


def test_the_latex_table_has_what_differs_and_the_scores(manifest: Path) -> None:
    table = tanda("results", manifest, "--format", "latex")
    assert "\\begin{longtable}" in table
    rows = list(csv.DictReader(io.StringIO(tanda("results", manifest))))
    assert all(f"{float(row['test_balanced_accuracy']):.4f}" in table for row in rows)
    assert "dropout" in table and "batch" not in table, "all runs have one batch size"


def test_another_form_is_refused(manifest: Path) -> None:
    with pytest.raises(InputError, match="--format: must be one of csv, json, parquet, latex, not xls"):
        render_results(Experiment(manifest).make_plan(), "xls")
    tanda("results", manifest, "--format", "xls", status=2)
