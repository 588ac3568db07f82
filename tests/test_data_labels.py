"""Labels are what a person means: spelling that nobody sees, numbers and missing values make no categories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data_fixture import csv_file, jsonl_file, preprocess_into


def test_a_label_is_what_a_person_means(tmp_path: Path) -> None:
    written = ["Hogar y jardín", " Hogar  y jardín\u200b", "Hogar\u00a0y\njardi\u0301n", "\ufeffHogar y jar\u00addín"]
    rows = [{"title": "uno dos tres", "category": label} for label in [*written, "\u200b", " \u2060 "] * 5]
    dataset = preprocess_into(tmp_path, source=csv_file(tmp_path / "a.csv", rows))
    assert dataset.classes == ["Hogar y jardín"]
    assert dataset.meta.parts["source"].dropped == {"empty label": 10}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_one_number_is_one_category_however_it_is_written(tmp_path: Path, ending: str) -> None:
    rows: list[dict[str, Any]] = [{"title": "uno dos", "category": label} for label in (1, 1.0, 2.0, 2) * 9]
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        schema = {"title": pl.String, "category": pl.Float64}
        pl.DataFrame(rows, schema=schema, strict=False).write_parquet(path)
    else:
        {"csv": csv_file, "jsonl": jsonl_file}[ending](path, rows)
    assert preprocess_into(tmp_path, source=str(path)).classes == ["1", "2"]


def test_numbers_that_are_not_all_whole_are_names(tmp_path: Path) -> None:
    rows = [{"title": "uno dos", "category": label} for label in ("1.0", "1", "1.5") * 9]
    assert preprocess_into(tmp_path, source=csv_file(tmp_path / "a.csv", rows)).classes == ["1", "1.0", "1.5"]


def test_a_missing_value_of_any_type_is_a_missing_label(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    labels = [1.0, 2.0, float("nan"), None] * 9
    pl.DataFrame({"title": ["uno dos"] * 36, "category": labels}).write_parquet(path)
    dataset = preprocess_into(tmp_path, source=str(path))
    assert dataset.classes == ["1", "2"]
    assert dataset.meta.parts["source"].dropped == {"empty label": 18}


def test_categories_that_look_alike_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["Jardín", "JARDIN", "jardin ", "Hogar", "Hogar-2", "hogar 2", "++"]
    rows = [{"title": "uno dos", "category": name} for name in names * 9]
    dataset = preprocess_into(tmp_path, source=csv_file(tmp_path / "a.csv", rows))
    assert set(dataset.meta.alike) == {("Hogar-2", "hogar 2"), ("JARDIN", "Jardín", "jardin")}
    assert "categories that look alike: 'Hogar-2', 'hogar 2'" in capsys.readouterr().err
