"""Whatever a manifest holds: it loads, or one ManifestError says what is wrong and where."""

import os
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from manifest_fixture import HEAD, write

from jobs import models
from jobs.plugins import MODELS
from pipeline.manifest import ManifestError, load
from pipeline.manifest.expansion import DATA_KEYS
from pipeline.manifest.schema import Cluster, Group, Root, Search, Stage

EXAMPLES = int(os.environ.get("TANDA_FUZZ_EXAMPLES", "150"))
FUZZ = settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WORDS = sorted(
    {
        *Root.model_fields,
        *Group.model_fields,
        *Search.model_fields,
        *Cluster.model_fields,
        *Stage.model_fields,
        *DATA_KEYS,
        *MODELS.names(),
        *(setting.name for name in MODELS.names() for setting in models.all_settings(name)),
        "asha", "choice", "uniform", "loguniform", "quniform", "randint", "patience", "file", "size", "test_loss",
    }
)  # fmt: skip
KEYS = st.one_of(st.sampled_from(WORDS), st.text(max_size=8))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 5),
    st.floats(),
    st.floats(0, 1),
    st.text(max_size=10),
    st.sampled_from([*WORDS, "../x", "$HOME", "${", "1e-5", "\u202e", "a" * 300, "NUL\0"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
NAMES = st.text(string.ascii_letters + "./-é ", min_size=1, max_size=5)
SOURCE = st.just({"source": "a.csv"})


@st.composite
def sections(draw: st.DrawFn, keys: Iterable[str], **fixed: st.SearchStrategy[Any]) -> dict[str, Any]:
    """A mapping of some of these keys to anything, and of the fixed ones to what they need."""
    some = draw(st.lists(st.sampled_from(sorted(keys)), max_size=3))
    return {**{key: draw(VALUES) for key in some}, **{key: draw(strategy) for key, strategy in fixed.items()}}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A manifest: most keys in their places, anything at all behind them."""
    architecture = st.sampled_from(MODELS.names())
    runs = st.dictionaries(NAMES, sections(WORDS, architecture=architecture), max_size=3)
    axes = st.dictionaries(st.sampled_from(WORDS), st.lists(VALUES, max_size=3), max_size=3)
    groups = st.one_of(
        sections(Group.model_fields, runs=runs),
        sections(["seeds", "dropout", "seed"], architecture=architecture, grid=axes),
        sections(["seeds", "language"], architecture=architecture, zip=axes),
    )
    spaces = st.one_of(VALUES, st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=3))
    searches = sections(Search.model_fields, architecture=architecture, space=spaces)
    document: dict[str, Any] = draw(
        sections(
            Root.model_fields,
            name=st.one_of(st.just("lab"), VALUES),
            storage=st.one_of(st.just("s"), VALUES),
            data=st.one_of(SOURCE, sections(DATA_KEYS), VALUES),
            experiments=st.dictionaries(NAMES, groups, max_size=2),
            searches=st.dictionaries(NAMES, searches, max_size=2),
        )
    )
    return document


def survives(folder: Path, content: bytes, sets: tuple[str, ...] = ()) -> None:
    path = folder / "m.yaml"
    path.write_bytes(content)
    try:
        manifest = load(path, sets=sets)
    except ManifestError as error:
        lines = str(error).splitlines()
        assert error.problems
        assert len(lines) == len(error.problems)
        assert all(line.isprintable() for line in lines)
        return
    for run in manifest.runs:
        assert Path("/s", run.group).parent == Path("/s", run.name).parent == Path("/s")


@FUZZ
@given(document=documents())
def test_any_document_loads_or_is_refused_in_words(document: dict[str, Any], tmp_path: Path) -> None:
    survives(tmp_path, yaml.safe_dump(document, allow_unicode=False).encode())


@FUZZ
@given(
    content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
)
@example(content=b"\xff\xfe")
@example(content=b"? [a]: b")
@example(content=b"<<: *x")
@example(content=b"a: !!timestamp 2001-01-01")
@example(content=b"%YAML 9.9\n---\na: 1")
def test_any_bytes_are_refused_in_words(content: bytes, tmp_path: Path) -> None:
    survives(tmp_path, content)


@FUZZ
@given(text=st.text(string.printable, max_size=60), position=st.integers(0, 400))
def test_a_sound_manifest_with_anything_typed_into_it(text: str, position: int, tmp_path: Path) -> None:
    sound = HEAD + (
        "experiments:\n  g:\n    architecture: mlp\n    grid: {dropout: [0.1, 0.2], hidden_layers: [[8], [4, 4]]}\n"
        "    seeds: [0, 1]\nsearches:\n  s:\n    architecture: cnn\n    space: {dropout: {uniform: [0, 0.5]}}\n"
    )
    position = min(position, len(sound))
    survives(tmp_path, (sound[:position] + text + sound[position:]).encode())


@FUZZ
@given(
    path=st.lists(st.one_of(st.sampled_from([*WORDS, "g", "A", "0", "9"]), st.text(max_size=4)), max_size=6),
    value=st.one_of(VALUES.map(lambda value: yaml.safe_dump(value, default_flow_style=True)), st.text(max_size=20)),
)
def test_any_set_is_taken_or_refused_in_words(path: list[str], value: str, tmp_path: Path) -> None:
    sound = HEAD + "experiments:\n  g:\n    runs:\n      A: {architecture: mlp, hidden_layers: [8]}\n"
    survives(tmp_path, sound.encode(), (f"{'.'.join(path)}={value}",))


@FUZZ
@given(document=st.dictionaries(st.one_of(st.sampled_from(list(Cluster.model_fields)), KEYS), VALUES, max_size=6))
def test_any_profile_is_taken_or_refused_in_words(document: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, yaml.safe_dump(document), "c.yaml")
    survives(tmp_path, (HEAD + "cluster: c.yaml\nexperiments: {g: {runs: {A: {architecture: mlp}}}}\n").encode())


def test_the_fuzz_reaches_manifests_that_load(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "experiments: {g: {runs: {A: {architecture: mlp}}}}\n")
    assert load(tmp_path / "m.yaml").runs
    with pytest.raises(ManifestError):
        load(write(tmp_path, HEAD))
