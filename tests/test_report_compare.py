"""Two runs or two reports side by side."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from report_fixture import Made, data_files, finish_all, make, make_run

from pipeline.report import build
from pipeline.report.compare import compare
from sharedfs.documents import read_json, write_json
from sharedfs.errors import InputError


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
    assert "of these trained models more than chance in titles, p < 0.001" in found.sentences[0]
    assert re.search(r"^  architecture +mlp +cnn$", found.text(), re.MULTILINE)


def test_two_reports_by_run(tmp_path: Path) -> None:
    first, second = _report(tmp_path, "one"), _report(tmp_path, "two", dropout=0.2)
    found = compare(str(first), str(second))
    (table,) = found.tables
    assert [(row[0].text, row[1].text) for row in table.rows] == [("g/a", "dropout")]
    assert "chance" in table.rows[0][5].text
    assert found.sentences == (f"Only in {first}: g/only one.", f"Only in {second}: g/only two.")


def test_code_versions_and_machines_that_differ(tmp_path: Path) -> None:
    reports = [_report(tmp_path / name, "one") for name in ("old", "new")]
    ran = ({"torch": "2.8.0", "cpus": 4, "numpy": "2.1"}, {"torch": "2.9.0", "cpus": 4, "numpy": None, "gpu": "H100"})
    for report, about, number in zip(reports, ran, (1, 2), strict=True):
        root = report.parent.parent
        made_by = {
            "model mlp": {"revision": number, "source": "a" * 16, "content": "a" * 16},
            "training": {"revision": 3, "source": "ab"[number - 1] * 16, "content": "ab"[number - 1] * 16},
            "evaluate": {"revision": 1, "source": "a" * 16, "content": "ab"[number - 1] * 16},
        }
        for path in root.glob("runs/*/record.json"):
            record = read_json(path)
            if record["stage"] == "train":
                write_json(path, {**record, "about": {**record["about"], **about}, "made": made_by})
    first, second = (str(report) for report in reports)
    found = compare(first, second)
    assert found.tables[0].rows == ()
    runs = "(g/a, g/b, g/only one)"
    code = ("revision 3, code aaaaaaaa", "revision 3, code bbbbbbbb")
    assert found.sentences == (
        f"Runs differ in model mlp: revision 1 in {first}, revision 2 in {second} {runs}.",
        f"Runs differ in training: {code[0]} in {first}, {code[1]} in {second} {runs}.",
        f"Runs differ in torch: 2.8.0 in {first}, 2.9.0 in {second} {runs}.",
        f"Runs differ in GPU: none in {first}, H100 in {second} {runs}.",
    )
    two = compare(f"{first}:g/a", f"{second}:g/a", language="es")
    assert two.tables[2].title == "Código, versiones y máquinas que difieren"
    assert [[cell.text for cell in row] for row in two.tables[2].rows] == [
        ["model mlp", "revisión 1", "revisión 2"],
        ["training", "revisión 3, código aaaaaaaa", "revisión 3, código bbbbbbbb"],
        ["torch", "2.8.0", "2.9.0"],
        ["GPU", "ninguna", "H100"],
    ]


def test_what_one_report_does_not_know_is_no_difference(tmp_path: Path) -> None:
    first, second = _report(tmp_path / "a", "one"), _report(tmp_path / "b", "one", dropout=0.2)
    text = (second / "results.csv").read_text().splitlines()
    (second / "results.csv").write_text("\n".join([text[0] + ",smoothing", *(f"{line},0.1" for line in text[1:])]))
    for one, other in ((first, second), (second, first)):
        assert [row[1].text for row in compare(str(one), str(other)).tables[0].rows] == ["dropout"]


def test_in_spanish(tmp_path: Path) -> None:
    report = _report(tmp_path, "one")
    assert compare(f"{report}:a", f"{report}:b", language="es").tables[0].title == "Ajustes que difieren"


@pytest.mark.parametrize(("change", "message"), [
    (lambda text: text.replace("group,run,", "where,what,"), r"row 1: must have as many values as there are columns"),
    (lambda text: text + "g,torn", r"row 4: must have as many values as there are columns"),
    (lambda text: text.replace("\ng,a,mlp,0,", "\ng,a,mlp,0,x,"), r"row 1: must have as many values as there are col"),
    (lambda text: text + '"g', r"not a report's table: unexpected end of data; `tanda report` writes it again"),
    (lambda text: text + "\xf1", r"not a report's table: 'utf-8' codec"),
    (lambda text: re.sub(r"0\.\d+", "many", text), r"row 1: \w+: must be a number, not 'many'"),
])  # fmt: skip
def test_a_damaged_table_is_named_in_one_line(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    report = _report(tmp_path, "one")
    table = report / "results.csv"
    table.write_bytes(change(table.read_text()).encode("latin-1"))
    with pytest.raises(InputError, match=rf"results\.csv: {message}"):
        compare(f"{report}:g/a", f"{report}:b")


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
