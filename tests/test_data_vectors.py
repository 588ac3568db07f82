"""Word vectors: every format gives the same rows, only wanted words are read, mistakes are named by line."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from data_fixture import context_of, csv_file, preprocess_into, titles
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.data import vectors
from jobs.data.dataset import Dataset
from jobs.stages import preprocess
from jobs.storage import Storage
from pipeline.manifest import load
from pipeline.plan import make_plan
from pipeline.vector_coverage import coverage_lines

WORDS = {"uno": [1.0, -2.0, 0.5], "señor": [3.0, 4.0, 5.0], "dos": [0.25, 1e-05, -1.5]}
TOKENS = ["<PAD>", "<UNK>", "dos", "nada", "señor"]


def text(header: bool = True, end: str = "\n") -> bytes:
    lines = [f"{word} {' '.join(map(repr, row))}{end}" for word, row in WORDS.items()]
    return ((f"{len(WORDS)} 3\n" if header else "") + "".join(lines)).encode()


def binary(newline: bytes = b"\n") -> bytes:
    rows = [word.encode() + b" " + np.array(row, "<f4").tobytes() + newline for word, row in WORDS.items()]
    return b"3 3\n" + b"".join(rows)


def read(path: Path, tokens: list[str] = TOKENS) -> vectors.VectorTable:
    return vectors.from_file(path, tokens, 3, threads=2)


@pytest.mark.parametrize(
    "content",
    [
        text(),
        text(header=False),
        text(end=" \n"),
        text(end="\r\n"),
        text()[:-1],
        binary(),
        binary(newline=b""),
        gzip.compress(text()),
        gzip.compress(binary()),
        zstandard.compress(text()),
        text() + b"\n",
    ],
)
@pytest.mark.parametrize("chunk", [1, 20, 1 << 20])
def test_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, chunk: int) -> None:
    monkeypatch.setattr(vectors, "CHUNK_BYTES", chunk)
    path = tmp_path / "vectors"
    path.write_bytes(content)
    table = read(path)
    assert table.in_file.tolist() == [False, False, True, False, True]
    assert np.allclose(table.vectors[[2, 4]], [WORDS["dos"], WORDS["señor"]])
    assert not table.vectors[0].any()
    assert table.vectors[[1, 3]].all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tres 1 2", r"v:4: 2 values where there should be 3"),
        ("tres 1 2 3 4", r"v:4: 4 values where there should be 3"),
        ("dos 1 x 3", r"v:4: not 3 numbers"),
        ("dos 1 nan 3", r"v:4: a value that is not finite"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_a_bad_line_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str, chunk: int
) -> None:
    monkeypatch.setattr(vectors, "CHUNK_BYTES", chunk)
    path = tmp_path / "v"
    path.write_text(f"4 3\nuno 1 2 3\naño 1 2 3\n{line}\ncuatro 1 2 3\n")
    with pytest.raises(ValueError, match=message):
        read(path)


def test_words_with_spaces_and_tabs_and_twice(tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.write_text("a . b 1 2 3\ndos\t4\t5\t6\nseñor  7 8 9\ndos 0 0 0\n")
    table = read(path, [*TOKENS, "a . b"])
    assert table.vectors[[2, 4, 5]].tolist() == [[4, 5, 6], [7, 8, 9], [1, 2, 3]]


def test_another_size_and_a_file_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.write_bytes(text())
    with pytest.raises(ValueError, match=r"vectors of 3 values: set data\.embeddings\.size to that, not 5"):
        vectors.from_file(path, TOKENS, 5, threads=1)
    path.write_bytes(binary()[:-6])
    with pytest.raises(ValueError, match="ends after 2 vectors where its header says 3"):
        read(path)
    path.write_bytes(gzip.compress(text())[:-12])
    with pytest.raises(ValueError, match="truncated"):
        read(path)


def test_missing_words_have_the_spread_of_the_found_ones(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((500, 3)) * (0.1, 1, 5) + (0, 2, -3)
    path = tmp_path / "v"
    path.write_text("".join(f"w{at} {' '.join(map(str, row))}\n" for at, row in enumerate(rows.tolist())))
    tokens = ["<PAD>", "<UNK>", *(f"w{at}" for at in range(500)), *(f"m{at}" for at in range(2000))]
    table = read(path, tokens)
    missing = table.vectors[502:]
    assert np.allclose(missing.std(axis=0), rows.std(axis=0), rtol=0.1)
    assert np.allclose(missing.mean(axis=0), rows.mean(axis=0), atol=0.5)
    assert np.array_equal(table.vectors, read(path, tokens).vectors)


def test_in_a_data_set_with_coverage_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.txt"
    path.write_text("común 1 2 3\nnúmero 4 5 6\nnadie 7 8 9\n")
    data: dict[str, Any] = {
        "source": csv_file(tmp_path / "a.csv", titles(60)),
        "embeddings": {"file": str(path), "size": 3},
    }
    dataset = preprocess_into(tmp_path / "s", **data)
    facts = dataset.meta.vectors
    words = dataset.vocabulary
    assert facts.types_found == 2
    assert facts.types_share == pytest.approx(2 / (len(words) - 2))
    train = dataset.splits["train"].tokens
    known = np.isin(train, [words.index("común"), words.index("número")])
    assert facts.tokens_share == pytest.approx(known.mean())
    assert dataset.vectors()[words.index("común")].tolist() == [1, 2, 3]
    assert not dataset.vectors()[0].any()

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(vectors, "read", never)
    again = preprocess_into(tmp_path / "s", **data, max_length=3)
    assert again.folder != dataset.folder
    assert np.array_equal(again.vectors(), dataset.vectors())
    assert again.meta.vectors.types_found == 2


def _with_vectors(tmp_path: Path, content: str, **data: Any) -> Dataset:
    path = tmp_path / "v.txt"
    path.write_text(content)
    source = csv_file(tmp_path / "a.csv", titles(60))
    return preprocess_into(tmp_path / "s", source=source, embeddings={"file": str(path), "size": 3}, **data)


def test_a_file_that_has_no_word_is_an_error(tmp_path: Path) -> None:
    for _ in range(2):  # also once it is in the cache of earlier versions
        with pytest.raises(ValueError, match=r"v\.txt: has a vector for none of the data set's \d+ words \("):
            _with_vectors(tmp_path, "nadie 1 2 3\n")


def test_coverage_is_told_and_little_of_it_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = _with_vectors(tmp_path, "común 1 2 3\n")
    assert (
        dataset.meta.vectors.text
        == "5.0% of the words and 25.0% of the training titles' tokens have a vector in the file"
    )
    said = capsys.readouterr().err
    assert f"word vectors: {dataset.meta.vectors.text}" in said and "WARNING" not in said
    rare = [{"title": f"uno dos tres cuatro cinco {'seis' if at < 4 else ''}", "category": "A"} for at in range(60)]
    path = csv_file(tmp_path / "b.csv", rare)
    (tmp_path / "v.txt").write_text("seis 1 2 3\n")
    preprocess_into(tmp_path / "s", source=path, embeddings={"file": str(tmp_path / "v.txt"), "size": 3})
    assert "WARNING: " in capsys.readouterr().err


def test_status_tells_the_coverage(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("común 1 2 3\n")
    csv_file(tmp_path / "a.csv", titles(60))
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        "name: m\nstorage: storage\n"
        "data: {source: a.csv, embeddings: {file: v.txt, size: 3}, vocabulary: {min_count: 1}}\n"
        "experiments: {g: {runs: {linear: {architecture: linear}}}}\n"
    )
    plan = make_plan(load(manifest))
    assert coverage_lines(plan) == []
    (task,) = (planned.task for planned in plan.tasks if planned.stage == "preprocess")
    preprocess.run(context_of(Storage(plan.manifest.storage), task))
    (line,) = coverage_lines(plan)
    assert "% of the words and " in line and line.startswith("word vectors of ")


def test_drawn_vectors_follow_the_seed_and_those_of_the_file_do_not(tmp_path: Path) -> None:
    drawn = preprocess_into(tmp_path / "s", source=csv_file(tmp_path / "c.csv", titles(90)), embeddings={"size": 3})
    assert np.array_equal(vectors.of_run(drawn, 0), drawn.vectors()), "seed 0 draws what is stored"
    one, two = vectors.of_run(drawn, 1), vectors.of_run(drawn, 2)
    assert (
        not one[0].any()
        and not np.isclose(one[1:], two[1:]).any()
        and not np.isclose(one[1:], drawn.vectors()[1:]).any()
    )
    assert np.array_equal(one, vectors.of_run(drawn, 1))
    from_file = _with_vectors(tmp_path, "común 1 2 3\nnúmero 4 5 6\n")
    own = [from_file.vocabulary.index(word) for word in ("común", "número")]
    one, two = vectors.of_run(from_file, 1), vectors.of_run(from_file, 2)
    assert one[own].tolist() == two[own].tolist() == [[1, 2, 3], [4, 5, 6]]
    others = np.setdiff1d(np.arange(1, len(one)), own)
    assert not np.isclose(one[others], two[others]).any() and not one[0].any()
    assert np.array_equal(vectors.of_run(from_file, 0), from_file.vectors())


def test_the_vectors_of_an_earlier_version_stay_as_they_are(tmp_path: Path) -> None:
    dataset = _with_vectors(tmp_path, "común 1 2 3\n")
    meta = json.loads((dataset.folder / "meta.json").read_text())
    del meta["files"]["vectors_in_file.bin"]
    (dataset.folder / "meta.json").write_text(json.dumps(meta))
    earlier = Dataset.open(dataset.folder)
    assert np.array_equal(vectors.of_run(earlier, 3), earlier.vectors())
    assert earlier.content_digest == dataset.content_digest, "a model of it can still be opened"


@settings(
    deadline=None,
    max_examples=int(os.environ.get("TANDA_FUZZ_EXAMPLES", "150")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    content=st.lists(st.sampled_from([b"3 3\n", b"dos", b" ", b"1", b"\n", b"-", b"\xff", b"\0", b"x", b"e"])).map(
        b"".join
    )
)
def test_any_bytes_end_well_or_in_a_value_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v"
    path.write_bytes(content)
    try:
        read(path)
    except ValueError as error:
        assert str(path) in str(error)
