"""What is no manifest at all, what several mistakes look like together, and a wrong `--set`."""

from pathlib import Path

import pytest
from manifest_fixture import HEAD, errors, write

from pipeline.manifest import ManifestError, load

RUN = "experiments:\n  g:\n    runs:\n      A: {architecture: mlp%s}\n"
GRID = "experiments:\n  g:\n    architecture: mlp\n    %s\n"


WHOLE = {
    "empty": ("", "m.yaml:1:1: is empty"),
    "a list": ("- a\n", "m.yaml:1:1: must be a mapping of keys to values"),
    "two documents": (
        "a: 1\n---\nb: 2\n",
        "m.yaml:2:1: is not YAML: but found another document, expected a single document in the stream",
    ),
    "not YAML": (
        "a: [\n",
        "m.yaml:2:1: is not YAML: did not find expected node content, while parsing a flow node",
    ),
    "a tab": ("a:\n\tb: 1\n", "m.yaml:2:1: is not YAML: a tab can't indent: use spaces"),
    "a control character": (
        "a: \x07\n",
        "m.yaml: is not YAML: unacceptable character #x0007: control characters are not allowed",
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_file_that_is_no_mapping_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, expected = WHOLE[case]
    assert errors(tmp_path, monkeypatch, text) == expected


def test_a_missing_file_a_folder_and_other_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.yaml: no such file$"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(ManifestError, match="can't be read: "):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: se\xf1al\n".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"latin\.yaml: is not UTF-8 text: byte 8$"):
        load(tmp_path / "latin.yaml")


def test_aliases_that_ask_for_billions_of_values_are_refused(tmp_path: Path) -> None:
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)]
    with pytest.raises(ManifestError, match=r"1:1: is larger than 2,000,000 values, aliases followed$"):
        load(write(tmp_path, "a0: &a0 [1, 2]\n" + "".join(levels)))


def test_all_problems_are_reported_at_once_in_the_files_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD + "defaults: {droput: 1}\n" + RUN % ", epochs: 0, dropout: a"
    assert errors(tmp_path, monkeypatch, text).splitlines() == [
        "m.yaml:4:12: defaults.droput: unknown setting; did you mean 'dropout'?",
        "m.yaml:8:38: experiments.g.runs.A.epochs: must be at least 1, not 0",
        "m.yaml:8:50: experiments.g.runs.A.dropout: must be a number, not 'a'",
    ]


def test_a_grid_of_too_many_runs_is_refused_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = ", ".join(map(str, range(1, 400)))
    text = HEAD + GRID % f"grid: {{epochs: [{numbers}], batch_size: [{numbers}]}}"
    expected = "m.yaml:7:5: experiments.g.grid: 159,201 combinations: at most 100,000 runs"
    assert errors(tmp_path, monkeypatch, text) == expected


SETS = {
    "no value": ("epochs", "--set: must look like experiments.baseline.runs.MLP.epochs=1, not 'epochs'"),
    "an unknown group": (
        "experiments.h.runs.A.epochs=1",
        "--set: experiments.h: there is none of this name; must be one of g",
    ),
    "an unknown run": (
        "experiments.g.runs.AA.epochs=1",
        "--set: experiments.g.runs.AA: there is none of this name; did you mean 'A'?",
    ),
    "an unknown setting": (
        "experiments.g.runs.A.epoch=1",
        "--set: experiments.g.runs.A.epoch: unknown setting; did you mean 'epochs'?",
    ),
    "an unknown section": ("resource.train.cpus=1", "--set: resource: unknown key; did you mean 'resources'?"),
    "a wrong value": (
        "experiments.g.runs.A.epochs=two",
        "--set: experiments.g.runs.A.epochs: must be a whole number, not 'two'",
    ),
    "below a value": ("name.x=1", "--set: name.x: name is a value, it has no keys"),
    "not YAML": (
        "name=[",
        "--set: is not YAML: did not find expected node content, while parsing a flow node",
    ),
}


@pytest.mark.parametrize("case", SETS)
def test_a_wrong_set_is_named_as_such(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, expected = SETS[case]
    assert errors(tmp_path, monkeypatch, HEAD + RUN % "", sets=(change,)) == expected
