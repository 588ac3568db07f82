"""Two runs or two reports side by side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from report_fixture import Made, data_files, finish_all, make, make_run

from pipeline.report import build
from pipeline.report.compare import compare


def _report(root: Path, name: str, **settings: object) -> Path:
    data = data_files(root / "data")
    runs = (
        make_run(data, group="g", name="a", **settings),
        make_run(data, group="g", name="b", architecture="cnn"),
        make_run(data, group="g", name=f"only {name}", dropout=0.4),
    )
    made: Made = make(root, runs=runs, name=name)
    finish_all(made, {"a": 0.4, "b": 0.8})
    return build(made.plan, made.states, plots=False, mlflow=False)


def test_two_runs_settings_metrics_and_chance(tmp_path: Path) -> None:
    report = _report(tmp_path, "one")
    found = compare(f"{report}:g/a", f"{report}:b")
    settings, metrics = found.tables
    told = {row[0].text: [cell.text for cell in row[1:]] for row in settings.rows}
    assert told["architecture"] == ["mlp", "cnn"]
    assert told["filters_length"] == ["–", "2,3,4"]
    assert "dropout" not in told
    row = next(row for row in metrics.rows if row[0].text == "test balanced accuracy")
    assert row[3].value == pytest.approx((row[2].value or 0) - (row[1].value or 0), abs=1e-9)
    assert len(found.sentences) == 1
    assert found.sentences[0].startswith("g/b is ahead of g/a by")
    assert "more than chance, p < 0.001" in found.sentences[0]
    assert re.search(r"^  architecture +mlp +cnn$", found.text(), re.MULTILINE)


def test_two_reports_by_run(tmp_path: Path) -> None:
    first, second = _report(tmp_path, "one"), _report(tmp_path, "two", dropout=0.2)
    found = compare(str(first), str(second))
    (table,) = found.tables
    assert [(row[0].text, row[1].text) for row in table.rows] == [("g/a", "dropout")]
    assert "chance" in table.rows[0][5].text
    assert found.sentences == (f"Only in {first}: g/only one.", f"Only in {second}: g/only two.")


def test_in_spanish(tmp_path: Path) -> None:
    report = _report(tmp_path, "one")
    assert compare(f"{report}:a", f"{report}:b", language="es").tables[0].title == "Ajustes que difieren"


def test_what_is_not_there_says_what_is(tmp_path: Path) -> None:
    report = _report(tmp_path, "one")
    with pytest.raises(ValueError, match=r"no such run; the report has g/a, g/b, g/only one"):
        compare(f"{report}:g/z", f"{report}:a")
    with pytest.raises(ValueError, match="no such report"):
        compare(str(tmp_path / "nowhere"), str(report))
    with pytest.raises(ValueError, match="give two reports, or two runs"):
        compare(str(report), f"{report}:a")
    (report / "results.csv").unlink()
    with pytest.raises(ValueError, match="`tanda report` writes it"):
        compare(f"{report}:a", f"{report}:b")
