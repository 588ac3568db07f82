"""YAML as manifests read it: 1.2's scalars, merges, includes, `--set`, environment variables, absolute paths."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from manifest_fixture import HEAD, read, write

from pipeline.manifest import ManifestError, load
from pipeline.manifest.path_fields import absolute_path, expand
from pipeline.manifest.yaml_nodes import parse

RUN = "experiments:\n  g:\n    runs:\n      A: {architecture: mlp}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0.5e+3", -500.0),
        (".inf", float("inf")),
        ("0x1f", 31),
        ("0o17", 15),
        ("-3", -3),
        ("007", "007"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!int '7'", 7),
        ("ñandú", "ñandú"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert parse(f"x: {text}", "t").plain() == {"x": value}


def test_keys_are_their_text() -> None:
    assert parse("{1: a, no: b, true: c, 1e-5: d}", "t").plain() == {"1": "a", "no": "b", "true": "c", "1e-5": "d"}


@pytest.mark.parametrize("change", [
    lambda text: "\ufeff" + text,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.replace("\n", "\r"),
    lambda text: text.replace("name: lab", "name:\tlab") + "# the end",
    lambda text: "%YAML 1.1\n---\n" + text + "...\n",
], ids=["a mark of byte order", "Windows' line ends", "old line ends", "a tab between", "a version"])  # fmt: skip
def test_what_editors_leave_changes_nothing(change: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(change(HEAD + RUN).encode())
    manifest = load(tmp_path / "m.yaml")
    assert (manifest.name, [run.name for run in manifest.runs]) == ("lab", ["A"])


@pytest.mark.parametrize("name", ["1", "no", "on", "null", "1e5", "2024-01-01", "ñandú", "А"])
def test_a_run_may_have_any_word_as_its_name(name: str, tmp_path: Path) -> None:
    (run,) = read(tmp_path, RUN.replace("A:", f"{name}:")).runs
    assert run.name == name


def test_merges_are_taken_in_order_and_own_keys_win() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc:\n  <<: [*a, *b]\n  y: 3\n"
    assert parse(text, "t").plain()["c"] == {"x": 1, "y": 3, "z": 2}


def test_a_merged_key_is_reported_where_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = "experiments:\n  g:\n    runs:\n      A: &a {architecture: mlp, epochs: 0}\n      B: {<<: *a, seed: 1}\n"
    write(tmp_path, HEAD + runs)
    with pytest.raises(ManifestError) as caught:
        load(Path("m.yaml"))
    assert [str(problem.mark) for problem in caught.value.problems] == ["m.yaml:7:41"] * 2


def test_paths_are_relative_to_the_manifest_that_names_them(tmp_path: Path) -> None:
    write(tmp_path, "data: {train: t.csv, validation: ../v.csv}\nstorage: s\n", "base/data/base.yaml")
    path = write(tmp_path, "include: base/data/base.yaml\nname: n\ndata: {test: e.csv}\n" + RUN)
    manifest = load(path)
    data = manifest.runs[0].data
    assert (data.train, data.validation) == (str(tmp_path / "base/data/t.csv"), str(tmp_path / "base/v.csv"))
    assert data.test == str(tmp_path / "e.csv")
    assert manifest.storage == tmp_path / "base/data/s"


def test_includes_are_merged_below_and_later_ones_win(tmp_path: Path) -> None:
    write(tmp_path, "retries: 1\nbrake_after: 1\ndefaults: {epochs: 1, dropout: 0.1}\n", "one.yaml")
    write(tmp_path, "brake_after: 2\ndefaults: {epochs: 2}\n", "two.yaml")
    manifest = load(write(tmp_path, "include: [one.yaml, two.yaml]\ncanary: true\n" + HEAD + RUN))
    assert (manifest.retries, manifest.brake_after, manifest.canary) == (1, 2, True)
    assert manifest.runs[0].settings.epochs == 2
    assert manifest.runs[0].settings.dropout == 0.1


def test_a_problem_in_an_included_file_is_told_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "x: 1\nretries: -1\n", "sub/base.yaml")
    write(tmp_path, "include: sub/base.yaml\n" + HEAD + RUN)
    with pytest.raises(ManifestError) as caught:
        load(Path("m.yaml"))
    assert str(caught.value).splitlines() == [
        f"sub/base.yaml:1:1: x: unknown key; must be one of {', '.join(sorted(_root_keys()))}",
        "sub/base.yaml:2:10: retries: must be at least 0, not -1",
    ]


def _root_keys() -> list[str]:
    from pipeline.manifest.schema import Root

    return list(Root.model_fields)


def test_includes_in_a_circle_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "include: two.yaml\n", "one.yaml")
    write(tmp_path, "include: one.yaml\n", "two.yaml")
    with pytest.raises(ManifestError, match=r"^two\.yaml:1:10: include: one\.yaml is included by itself$"):
        load(Path("one.yaml"))


def test_the_same_file_included_twice_is_no_circle(tmp_path: Path) -> None:
    write(tmp_path, "retries: 1\n", "base.yaml")
    write(tmp_path, "include: base.yaml\nretries: 3\n", "one.yaml")
    manifest = load(write(tmp_path, "include: [one.yaml, base.yaml]\n" + HEAD + RUN))
    assert manifest.retries == 1


def test_set_changes_values_adds_them_and_takes_yaml(tmp_path: Path) -> None:
    sets = (
        "experiments.g.runs.A.epochs=7",
        "experiments.g.runs.A.hidden_layers=[8, 4]",
        "experiments.g.runs.B={architecture: rnn}",
        "resources.train.mem_gb=1e1",
        "data.language=no",
        "experiments.g.runs.A.hidden_layers.0=9",
    )
    manifest = read(tmp_path, RUN, sets)
    first, second = manifest.runs
    assert (first.settings.epochs, first.settings.hidden_layers) == (7, (9, 4))
    assert second.architecture == "rnn"
    assert manifest.resources["train"].mem_gb == 10.0
    assert first.data.language == "no"


def test_set_finds_names_with_dots_and_paths_beside_the_manifest(tmp_path: Path) -> None:
    below = "experiments:\n  v1.2:\n    runs:\n      a.b: {architecture: mlp}\n"
    manifest = read(tmp_path, below, ("experiments.v1.2.runs.a.b.epochs=9", "data.train=sub/x.csv"))
    assert manifest.runs[0].settings.epochs == 9
    assert manifest.runs[0].data.train == str(tmp_path / "sub/x.csv")


def test_storage_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDA_STORAGE", "/shared/lab")
    manifest = read(tmp_path, RUN)
    assert manifest.storage == Path("/shared/lab")
    assert manifest.document["storage"] == "/shared/lab"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A/x", "1/x"),
        ("${A}x", "1x"),
        ("${B:-d/e}/x", "d/e/x"),
        ("${A:-d}", "1"),
        ("${EMPTY:-d}", "d"),
        ("a$$b", "a$b"),
        ("plain", "plain"),
    ],
)
def test_environment_variables_are_filled_in(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "EMPTY": ""}) == expected


def test_a_relative_path_may_not_escape_notice(tmp_path: Path) -> None:
    assert absolute_path("../x//y/./z", tmp_path / "a") == str(tmp_path / "x/y/z")
    assert absolute_path("/data/x", tmp_path) == "/data/x"
    assert absolute_path("~/x", tmp_path) == str(Path.home() / "x")


def test_vectors_that_expand_to_nothing_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = HEAD.replace("test: c.csv", 'test: c.csv, embeddings: {file: "${MY_VECTORS:-}"}')
    monkeypatch.delenv("MY_VECTORS", raising=False)
    assert load(write(tmp_path, head + RUN)).runs[0].data.embeddings.file is None
    monkeypatch.setenv("MY_VECTORS", "/v.gz")
    assert load(write(tmp_path, head + RUN)).runs[0].data.embeddings.file == "/v.gz"


def test_what_a_submission_keeps_is_the_same_manifest_anywhere(tmp_path: Path) -> None:
    write(tmp_path, "partition: gpu\nresources: {train: {cpus: 3}}\nmodules: [a]\n", "profiles/c.yaml")
    below = RUN.replace("A:", "A$:").replace("A$", "A") + "cluster: profiles/c.yaml\numask: 027\n"
    head = HEAD.replace("a.csv", "a$$b.csv")
    manifest = load(write(tmp_path, head + below))
    kept = write(tmp_path, _yaml(manifest.document), "elsewhere/kept.yaml")
    again = load(kept)
    for name in ("name", "storage", "cluster", "runs", "searches", "resources", "umask", "document"):
        assert getattr(again, name) == getattr(manifest, name)
    assert manifest.runs[0].data.train == str(tmp_path / "a$b.csv")


def _yaml(document: Any) -> str:
    import json

    return json.dumps(document)  # JSON is YAML


def test_a_section_with_nothing_in_it_is_as_good_as_left_out(tmp_path: Path) -> None:
    manifest = read(tmp_path, RUN + "searches:\nreport:\nresources:\ndefaults:\n")
    assert (manifest.searches, manifest.language) == ((), "en")


def test_messages_hold_no_line_break_or_terminal_escape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, HEAD + 'report: {"a\\n\\e[31m": 1}\n')
    with pytest.raises(ManifestError) as caught:
        load(Path("m.yaml"))
    assert str(caught.value) == r"m.yaml:4:10: report.a\n\x1b[31m: unknown key; must be one of language"
