"""The whole report: the same bytes each time, in two languages, safe with any name, and how it tells its progress."""

from __future__ import annotations

import io
import string
import subprocess
import sys
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
from report_fixture import (
    SPACE,
    Made,
    data_files,
    finish_all,
    five_results,
    make,
    make_run,
    make_search,
    rows_of,
)
from rich.console import Console

from pipeline import live
from pipeline.manifest.schema import Report
from pipeline.plan import make_plan
from pipeline.report import build, table
from pipeline.report.i18n import languages, load_phrases, make_messages
from sharedfs.errors import InputError


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return five_results(tmp_path)


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


def test_every_language_has_every_phrase_with_the_same_names_to_fill_in() -> None:
    english = _placeholders("en")
    for language in languages():
        assert _placeholders(language) == english, language


def _placeholders(language: str) -> dict[str, set[str]]:
    parse = string.Formatter().parse
    return {key: {name for _, name, _, _ in parse(text) if name} for key, text in load_phrases(language).items()}


def test_the_languages_are_those_that_a_manifest_may_ask_for() -> None:
    assert languages() == get_args(Report.model_fields["language"].annotation)
    with pytest.raises(InputError, match="must be one of en, es"):
        make_messages("fr")


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
    assert table.escape_latex(name) in (folder / "results.tex").read_text()
    assert rows_of(folder)[0]["run"] == name
    assert all(path.parent == folder / "plots" for path in folder.rglob("*.png"))


def test_every_legend_has_names_of_any_kind(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    kinds = {"_a": "mlp", "漢字": "cnn", "x" * 100: "rnn"}
    runs = tuple(make_run(data, group="_g", name=name, architecture=kind) for name, kind in kinds.items())
    made = make(tmp_path, runs=runs)
    finish_all(made, {})
    folder = build(made.plan, made.states, mlflow=False)
    for name in ("cost", "_g-curves", "_g-recall"):
        text = (folder / f"plots/{name}.svg").read_text()
        assert "_a" in text and "漢字" in text and "x…x" in text, name


def test_categories_of_the_data_are_escaped_everywhere(tmp_path: Path) -> None:
    made = make(tmp_path, runs=(make_run(data_files(tmp_path / "data"), group="g", name="a"),), categories=6)
    odd = ("</script><script>alert(1)</script>", "x" * 5000, "", "$x_1$", "a\x00\x1b[31m\nb", "\u202e")
    made.categories = odd
    finish_all(made, {})
    folder = build(made.plan, made.states, mlflow=False)
    for path in (*folder.rglob("*.html"), *folder.rglob("*.js")):
        assert "<script>alert" not in path.read_text(), path
    for path in folder.rglob("*.svg"):
        ElementTree.parse(path)


def test_an_untouched_manifest_has_a_report_too(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    made = make(
        tmp_path,
        runs=(make_run(data, group="g", name="r"),),
        searches=(make_search(data, name="s", space=SPACE, trials=2),),
    )
    folder = build(made.plan, made.states, mlflow=False)
    assert [row["state"] for row in rows_of(folder)] == ["waiting", "waiting"]
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
        _loaded(
            heavy, "from pipeline.report.results_csv import as_parquet; as_parquet({'a': [1, None], 'l': [[1], []]})"
        )
        == "[]"
    )


def _loaded(names: tuple[str, ...], code: str) -> str:
    lines = f"import sys; {code}; print([name for name in {names} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.strip()


def test_one_groups_report_leaves_the_whole_one_as_it_is(tmp_path: Path) -> None:
    data = data_files(tmp_path / "data")
    made = make(tmp_path, runs=tuple(make_run(data, group=group, name="r") for group in ("a", "b")))
    finish_all(made, {})
    whole = build(made.plan, made.states, mlflow=False)
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    part = build(make_plan(made.plan.manifest, only="b"), made.states, mlflow=False, only="b")
    assert part == whole / "only" / "b"
    assert [row["group"] for row in rows_of(part)] == ["b"]
    build(made.plan, made.states, mlflow=False)
    assert {path: path.read_bytes() for path in before} == before
    assert (part / "index.html").exists()


def test_a_bar_shows_on_a_terminal_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, after_s, shown in ((True, 0.0, True), (True, 60.0, False), (False, 0.0, False)):
        monkeypatch.setattr(live, "SHOWN_AFTER_S", after_s)
        written = io.StringIO()
        with live.progress_bar(Console(file=written, force_terminal=terminal, width=100)) as tell:
            assert (tell is not None) == terminal
            if tell is not None:
                tell("plots", 3, 7)
        assert ("drawing plots" in written.getvalue() and "3/7" in written.getvalue()) == shown
