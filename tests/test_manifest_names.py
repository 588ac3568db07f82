"""Names in any script and spelling, and paths that are no text."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from manifest_fixture import errors, read, write
from small_manifest import tanda, with_only, write_manifest, write_titles

from pipeline.manifest import load
from pipeline.manifest.compose import STORAGE_VARIABLE
from pipeline.manifest.validation import name_problem, safe_name
from pipeline.named import find_row, find_task, find_tasks
from pipeline.plan import make_plan
from sharedfs.errors import InputError

ACCENTED = "café"
ON_A_MAC = unicodedata.normalize("NFD", ACCENTED)
RUNS = "experiments:\n  g:\n    architecture: linear\n    runs: {%s: {}}\n"


@pytest.mark.parametrize("name", ["हिन्दी", "ไทยก่อน", "தமிழ்", "বাংলা", "עִבְרִית", "한국어", "日本語", ON_A_MAC, "x̂-1"])
def test_a_name_may_be_in_any_script_with_its_marks(name: str, tmp_path: Path) -> None:
    (run,) = read(tmp_path, RUNS % name).runs
    assert run.name == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize("name", ["\u0301a", "a b", "a/b", "a\u200bb", "a\u202eb", "a“b", "-a", ".a", "a\n"])
def test_what_a_name_may_not_hold(name: str) -> None:
    assert name_problem(name) is not None


def test_a_name_has_one_spelling_wherever_it_is_written(tmp_path: Path) -> None:
    text = with_only("linear").replace("name: small", f"name: {ON_A_MAC}").replace("linear:", f"{ON_A_MAC}:")
    path = write_manifest(tmp_path, text.replace("architectures:", f"{ON_A_MAC}:"))
    manifest = load(path, sets=[f"experiments.{ON_A_MAC}.runs.{ACCENTED}.seed=3"])
    assert manifest.name == ACCENTED
    plan = make_plan(manifest, only=ON_A_MAC)
    assert plan.rows == make_plan(manifest, only=ACCENTED).rows and plan.rows[0].seed == 3
    for name in (ACCENTED, ON_A_MAC):
        assert find_task(plan, name).run == find_row(plan, f"{name}/{name}:3").run == ACCENTED
        assert len(find_tasks(plan, name)) == 2


def test_two_spellings_of_one_name_are_a_key_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "experiments:\n  g:\n    architecture: linear\n    runs:\n      %s: {}\n      %s: {}\n"
    said = errors(tmp_path, monkeypatch, "name: m\n" + text % (ACCENTED, ON_A_MAC))
    assert "m.yaml:7:7: experiments.g.runs.café: duplicate key (first in line 6)" in unicodedata.normalize("NFC", said)


@pytest.mark.parametrize(
    ("text", "name"),
    [("हिन्दी शीर्षक", "हिन्दी-शीर्षक"), (ON_A_MAC, ACCENTED), ("  a & b!", "a-b"), ("...", ""), ("\u0301", "")],
)
def test_a_name_is_made_of_any_text(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_a_first_manifest_has_the_name_of_its_file(tmp_path: Path) -> None:
    write_titles(tmp_path / f"{ON_A_MAC}.csv")
    tanda("init", tmp_path / f"{ON_A_MAC}.csv", tmp_path / "m.yaml")
    assert load(tmp_path / "m.yaml").name == ACCENTED


def test_the_longest_names_still_make_files(tmp_path: Path) -> None:
    longest, group = "語" * 66, "ж" * 100
    text = with_only("linear").replace("name: small", f"name: {longest}").replace("architectures:", f"{group}:")
    folder = tmp_path / "scripts"
    tanda("submit", write_manifest(tmp_path, text), "--sbatch-only", folder)
    names = [path.stem for path in folder.glob("*.sbatch")]
    assert len(names) == 4 and sum(f"-{group}-" in name for name in names) == 2
    assert all(name.startswith(longest[:6]) for name in names)


NO_TEXT = os.fsdecode(b"d\xffta")


@pytest.mark.parametrize("what", ["the manifest", "the storage", "data", "a variable"])
def test_a_path_that_is_no_text_is_named(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "name: m\nstorage: s\ndata: {train: a.csv, validation: b.csv, test: c.csv}\n" + RUNS % "A"
    folder = tmp_path
    if what == "the manifest":
        folder = tmp_path / NO_TEXT
    elif what == "the storage":
        monkeypatch.setenv(STORAGE_VARIABLE, f"/{NO_TEXT}")
    else:
        monkeypatch.setenv("SOMEWHERE", f"/{NO_TEXT}")
        text = text.replace("a.csv", "$SOMEWHERE/a.csv") if what == "data" else text.replace(": s", ": $SOMEWHERE")
    with pytest.raises(InputError, match=r"d\\xffta.*: a path that is not UTF-8 text: rename it"):
        load(write(folder, text))


def test_a_locale_without_a_letter_prints_its_number(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, with_only("linear").replace("name: small", f"name: {ACCENTED}"))
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert "caf\\xe9" in tanda("plan", path, environment=ascii_alone)
