"""Text to data sets: what stands in them, whatever the format, the number of threads and the number of shards."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zstandard
from data_fixture import (
    SHARED,
    contents,
    context_of,
    csv_file,
    decoded,
    jsonl_file,
    preprocess_into,
    task_of,
    titles,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data import shards
from jobs.data.dataset import UNK
from jobs.data.settings import LANGUAGES, Text
from jobs.data.text import split_words
from jobs.predict import TitleEncoder
from jobs.stages import preprocess
from jobs.storage import Storage

EVERYTHING = {"text": {"min_letters": 1, "digits": "keep"}, "vocabulary": {"min_count": 1}}
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data is not at {SHARED}")


def test_what_stands_in_a_data_set(tmp_path: Path) -> None:
    rows = titles(60)
    dataset = preprocess_into(tmp_path, source=csv_file(tmp_path / "a.csv", rows), **EVERYTHING)
    assert dataset.classes == [f"CLASS_{at}" for at in range(4)]
    assert dataset.vocabulary[:2] == ["<PAD>", "<UNK>"]
    assert sum(map(len, dataset.splits.values())) == 60
    vectors = dataset.vectors()
    assert vectors.shape == (dataset.vocabulary_size, 300)
    assert not vectors[0].any()
    assert abs(float(vectors[1:].std()) - 1) < 0.1
    for split in dataset.splits.values():
        assert split.tokens.dtype == np.uint16
        for tokens, label in zip(decoded(dataset, split), split.labels, strict=True):
            if "<UNK>" not in tokens:
                assert tokens[0] == "palabra" + "abcd"[label]
                assert tokens[1] == "número"
                assert tokens[3] == "común"
    for name, file in dataset.meta.files.items():
        assert hashlib.sha256((dataset.folder / name).read_bytes()).hexdigest() == file.sha256


def test_the_vocabulary_is_of_training_rows_alone(tmp_path: Path) -> None:
    parts = {
        "train": [{"title": "uno dos dos", "category": "A"}, {"title": "uno tres", "category": "B"}],
        "validation": [{"title": "cuatro cuatro cuatro uno", "category": "A"}],
        "test": [{"title": "cinco cinco", "category": "B"}],
    }
    files = {part: csv_file(tmp_path / f"{part}.csv", rows) for part, rows in parts.items()}
    dataset = preprocess_into(tmp_path, **files)
    assert dataset.vocabulary == ["<PAD>", "<UNK>", "dos", "uno"]  # twice each; ties by code point
    assert decoded(dataset, dataset.splits["validation"]) == [["<UNK>"] * 3 + ["uno"]]


def test_every_format_and_compression_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = [{**row, "title": row["title"] + ' "con, coma"\tx'} for row in titles(40)]
    plain = csv_file(tmp_path / "a.csv", rows)
    tabbed = csv_file(tmp_path / "a.tsv", rows, separator="\t")
    lines = jsonl_file(tmp_path / "a.jsonl", rows)
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    packed = tmp_path / "named-for-nothing"
    packed.write_bytes(gzip.compress(Path(lines).read_bytes()[:100]) + gzip.compress(Path(lines).read_bytes()[100:]))
    frozen = tmp_path / "a.csv.zst"
    frozen.write_bytes(zstandard.compress(Path(plain).read_bytes()))
    made = []
    for number, path in enumerate((plain, tabbed, lines, tmp_path / "a.parquet", packed, frozen)):
        dataset = preprocess_into(tmp_path / str(number), source=str(path), **EVERYTHING)
        made.append({name: data for name, data in contents(dataset.folder).items() if name != "meta.json"})
    assert all(other == made[0] for other in made)


def test_lists_of_tokens_are_taken_as_they_stand(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"tokenized_title": ["Ab", "2", "ñu ñu"], "category": "A"},
        {"tokenized_title": [], "category": "A"},
        {"tokenized_title": None, "category": "A"},
    ] * 5
    source = jsonl_file(tmp_path / "a.jsonl", rows)
    dataset = preprocess_into(
        tmp_path,
        source=source,
        columns={"tokens": "tokenized_title"},
        vocabulary={"min_count": 1},
    )
    account = dataset.meta.parts["source"]
    assert account.dropped == {"empty title": 5}
    found = [tuple(row) for split in dataset.splits.values() for row in decoded(dataset, split)]
    assert sorted(set(found)) == [("<UNK>",), ("Ab", "2", "ñu ñu")]
    assert len(found) == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({}, ["cámara", "digital", "lente"]),
        ({"accents": "strip"}, ["camara", "digital", "lente"]),
        ({"digits": "keep"}, ["cámara", "32gb", "digital", "con", "lente"]),
        ({"digits": "zero"}, ["cámara", "00gb", "digital", "con", "lente"]),
        ({"min_letters": 1}, ["cámara", "gb", "x", "digital", "con", "lente"]),
        ({"stop_words": "spanish"}, ["cámara", "digital", "lente"]),
        ({"min_letters": 2, "word_ngrams": 2}, ["cámara", "gb", "digital", "con", "lente", "cámara gb", "gb digital"]),
        (
            {"min_letters": 6, "character_ngrams": [7, 7]},
            ["cámara", "digital", "<cámara", "cámara>", "<digita", "digital", "igital>"],
        ),
    ],
)
def test_each_text_setting(tmp_path: Path, text: dict[str, Any], expected: list[str]) -> None:
    title = "Cámara <b class='x'>32gb</b> X-DIGITAL, con lente"
    rows = [{"title": title, "category": "A"}] * 10
    dataset = preprocess_into(tmp_path, source=csv_file(tmp_path / "a.csv", rows), text=text)
    found = decoded(dataset, dataset.splits["train"])[0]
    if text in ({}, {"accents": "strip"}):
        expected = [*expected[:2], "con", expected[2]]
    if "word_ngrams" in text:
        expected = [*expected, "digital con", "con lente"]
    assert found == expected


def test_every_language_has_its_stop_words() -> None:
    pieces = pl.Series(["azul", "como", "não", "mas", "with", "también", "também"])
    settings = Text(stop_words="auto", accents="strip")
    kept = {language: split_words(pieces, settings, language)[0].to_list() for language in LANGUAGES}
    assert kept == {
        "spanish": ["azul", "nao", "with", "tambem"],
        "portuguese": ["azul", "with", "tambien"],
        "english": ["azul", "como", "nao", "mas", "tambien", "tambem"],
    }


def test_decomposed_accents_are_the_same_letter(tmp_path: Path) -> None:
    rows = [{"title": "cámara", "category": "A"}, {"title": "ca\u0301mara", "category": "A"}] * 5
    dataset = preprocess_into(tmp_path, source=csv_file(tmp_path / "a.csv", rows))
    assert dataset.vocabulary == ["<PAD>", "<UNK>", "cámara"]


def test_rows_are_dropped_by_cause_and_add_up(tmp_path: Path) -> None:
    keys = ("title", "category", "language", "label_quality")
    good = ("funda celular", "FUNDAS", "spanish", "reliable")
    train = [
        *[good] * 3,
        ("funda celular", "FUNDAS", "portuguese", "reliable"),
        ("  ", "FUNDAS", "spanish", "reliable"),
        ("funda", "", "Spanish ", "reliable"),
        ("funda mala", "FUNDAS", "spanish", "unreliable"),
        ("mesa", "MESAS", "spanish", "reliable"),
        *[("silla", f"SILLAS{at % 2}", "spanish", "reliable") for at in range(6)],
    ]
    test = [good, ("nada", "NUNCA", "spanish", "unreliable"), ("silla", "SILLAS0", "spanish", "unreliable")]
    files = {
        part: csv_file(tmp_path / f"{part}.csv", [dict(zip(keys, row, strict=True)) for row in rows])
        for part, rows in {"train": train, "validation": [good], "test": test}.items()
    }
    chosen = {"language": "spanish", "quality": "reliable", "min_rows_per_category": 2}
    dataset = preprocess_into(tmp_path, **files, **chosen)
    accounts = dataset.meta.parts
    assert accounts["train"].dropped == {
        "empty label": 1,
        "empty title": 1,
        "rare category": 1,
        "unreliable": 1,
        "wrong language": 1,
    }
    assert accounts["test"].dropped == {"label unseen in training": 1}
    assert dataset.splits["test"].reliable.tolist() == [1, 0]
    for account in accounts.values():
        assert account.read == sum(account.kept.values()) + sum(account.dropped.values())
    again = preprocess_into(tmp_path, **files, **{**chosen, "deduplicate": True, "min_rows_per_category": 1})
    assert again.meta.parts["train"].dropped["duplicate"] == 2 + 2 + 2
    assert again.meta.parts["test"].kept == {"test": 2}


def test_a_source_is_split_within_each_category_by_seed(tmp_path: Path) -> None:
    rows = [{"title": f"palabra {'ab' * (at % 30 + 1)}", "category": f"C{at % 3}"} for at in range(300)]
    source = csv_file(tmp_path / "a.csv", [*rows, {"title": "solo", "category": "ALONE"}])
    split = {"validation": 0.2, "test": 0.1}
    one = preprocess_into(tmp_path, source=source, split={**split, "seed": 1}, **EVERYTHING)
    two = preprocess_into(tmp_path, source=source, split={**split, "seed": 2}, **EVERYTHING)
    for dataset in (one, two):
        assert {name: len(part) for name, part in dataset.splits.items()} == {
            "train": 211,
            "validation": 60,
            "test": 30,
        }
        assert np.bincount(dataset.splits["test"].labels).tolist() == [0, 10, 10, 10]
        texts = [" ".join(row) for part in dataset.splits.values() for row in decoded(dataset, part)]
        assert len(texts) == 301
    assert contents(one.folder)["test.tokens.bin"] != contents(two.folder)["test.tokens.bin"]


def test_neither_threads_nor_shards_change_a_byte(tmp_path: Path) -> None:
    rows = titles(90)
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(5):
        csv_file(folder / f"{number}.csv", rows[number * 18 : (number + 1) * 18])
    data: dict[str, Any] = {
        "source": str(folder),
        "deduplicate": True,
        "text": {"word_ngrams": 3, "character_ngrams": [2, 4], "subwords": [3, 5]},
        "max_length": 60,
    }
    plain = contents(preprocess_into(tmp_path / "one", cpus=1, **data).folder)
    assert contents(preprocess_into(tmp_path / "two", cpus=3, **data).folder) == plain
    for count in (2, 5, 9):
        storage = Storage(tmp_path / f"shards{count}")
        task = task_of(**data)
        pieces = shards.shard_tasks(task, count)
        assert len({piece.id for piece in pieces} | {task.id}) == min(count, 5) + 1
        for piece in pieces[1:]:  # the first never ran: the task reads its files itself
            preprocess.run(context_of(storage, piece))
        assert len(shards.published_spools(storage, task.id)) == len(pieces) - 1
        preprocess.run(context_of(storage, task))
        assert contents(storage.dataset(task.id)) == plain
        assert shards.published_spools(storage, task.id) == []


def test_no_shards_for_a_single_file(tmp_path: Path) -> None:
    assert shards.shard_tasks(task_of(source=csv_file(tmp_path / "a.csv", titles(9))), 4) == ()


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12),
    of=st.integers(1, 6),
)
def test_every_file_is_in_one_shard(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], of: int) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    for number, size in enumerate(sizes):
        (folder / str(number)).write_bytes(b"x" * size)
    places = {"train": [str(folder / str(number)) for number in range(len(sizes))]}
    found = [at for shard in range(of) for at in shards.shard_files(places, shard, of).get("train", [])]
    assert sorted(found) == list(range(len(sizes)))


_TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
_WORD = st.text(st.characters(categories=["Ll", "Lu", "Nd", "Mn"], codec="utf-8"), min_size=1, max_size=6)


@settings(deadline=None, max_examples=15)
@given(
    lists=st.lists(
        st.lists(st.text(max_size=5, alphabet=st.characters(codec="utf-8")), max_size=6), min_size=1, max_size=30
    )
)
def test_decoding_gives_back_every_token(tmp_path_factory: pytest.TempPathFactory, lists: list[list[str]]) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    rows = [{"words": words, "label": f"L{at % 2}"} for at, words in enumerate(lists)]
    spare = jsonl_file(folder / "b.jsonl", [{"words": ["x"], "label": "L0"}])
    dataset = preprocess_into(
        folder,
        train=jsonl_file(folder / "a.jsonl", rows),
        validation=spare,
        test=spare,
        same_file=True,
        columns={"tokens": "words", "label": "label"},
        vocabulary={"min_count": 1},
    )
    found = decoded(dataset, dataset.splits["train"])
    assert found == [words or ["<UNK>"] for words in lists]


@settings(deadline=None, max_examples=15)
@given(
    rows=st.lists(st.lists(_WORD, max_size=6).map(" ".join), min_size=1, max_size=20),
    order=st.integers(1, 3),
    parts=st.sampled_from([None, (1, 3), (3, 5)]),
    limit=st.integers(1, 40),
)
def test_new_titles_are_encoded_as_the_data_set_is(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], order: int, parts: tuple[int, int] | None, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("titles")
    full = [{"title": row or "vacío", "category": "A"} for row in rows]
    spare = csv_file(folder / "b.csv", [{"title": "otra cosa", "category": "A"}])
    dataset = preprocess_into(
        folder,
        train=csv_file(folder / "a.csv", full),
        validation=spare,
        test=spare,
        same_file=True,
        text={"min_letters": 1, "digits": "keep", "word_ngrams": order, "character_ngrams": parts},
        vocabulary={"min_count": 1},
        max_length=limit,
    )
    kept = [row["title"] for row in full if row["title"].strip()]
    encoded = TitleEncoder(dataset).encode(kept)
    train = dataset.splits["train"]
    assert encoded.tokens.tolist() == train.tokens.tolist()
    assert encoded.offsets.tolist() == train.offsets.tolist()
    assert int(encoded.lengths.min(initial=1)) >= 1


def test_titles_without_a_known_word_are_one_unknown(tmp_path: Path) -> None:
    dataset = preprocess_into(tmp_path, source=csv_file(tmp_path / "a.csv", titles(40)))
    split = TitleEncoder(dataset).encode(["12 34", "", "desconocida", "palabraa nada"])
    assert split.lengths.tolist() == [1, 1, 1, 2]
    assert split.tokens.tolist()[:3] == [UNK] * 3


def test_a_long_title_and_a_large_vocabulary(tmp_path: Path) -> None:
    def word(number: int) -> str:
        return "".join("abcdefghij"[int(digit)] for digit in f"{number:06d}")

    rows = [{"title": " ".join(word(at * 70 + step) for step in range(70)), "category": "A"} for at in range(1000)]
    spare = csv_file(tmp_path / "b.csv", rows[:1])
    dataset = preprocess_into(
        tmp_path,
        train=csv_file(tmp_path / "a.csv", rows),
        validation=spare,
        test=spare,
        same_file=True,
        vocabulary={"min_count": 1, "max_size": 100_000},
        embeddings={"size": 2},
        max_length=50,
    )
    train = dataset.splits["train"]
    assert train.tokens.dtype == np.uint32
    assert set(train.lengths.tolist()) == {50}
    assert decoded(dataset, train)[999][49] == word(999 * 70 + 49)
    assert dataset.meta.vocabulary.words == 70_000


REAL = [
    ("super_ec/combined_products.csv", {"text": "nombre", "label": "categoria"}, {}, 21_027, 73),
    ("instacart/titles_aisles.csv", {}, {}, 49_679, 134),
    ("meli2019/train_first_rows.csv", {"text": "1", "label": "2"}, {"header": False}, 1_260, 787),
    ("meli2019/real_rows_all_columns.csv", {}, {}, 723, None),
]


@needs_shared
@pytest.mark.parametrize(("name", "columns", "more", "rows", "categories"), REAL)
def test_the_real_files(
    tmp_path: Path, name: str, columns: dict[str, str], more: dict[str, Any], rows: int, categories: int | None
) -> None:
    dataset = preprocess_into(tmp_path, source=str(SHARED / name), columns=columns, embeddings={"size": 8}, **more)
    account = dataset.meta.parts["source"]
    assert account.read == rows
    assert rows == sum(account.kept.values()) + sum(account.dropped.values())
    assert account.dropped == {}
    if categories is not None:
        assert len(dataset.classes) == categories
    counted = pl.read_csv(SHARED / name, has_header="header" not in more, infer_schema=False)
    labels = counted.to_series(1) if "header" in more else counted[columns.get("label", "category")]
    found = np.concatenate([split.labels for split in dataset.splits.values()])
    counts = dict(zip(dataset.classes, np.bincount(found).tolist(), strict=True))
    assert counts == dict(labels.value_counts().iter_rows())


@needs_shared
def test_the_real_super_ec_rows_as_the_issue_counts_them(tmp_path: Path) -> None:
    dataset = preprocess_into(
        tmp_path,
        source=str(SHARED / "super_ec/combined_products.csv"),
        columns={"text": "nombre", "label": "categoria"},
        deduplicate=True,
        min_rows_per_category=10,
        embeddings={"size": 8},
    )
    frame = pl.read_csv(SHARED / "super_ec/combined_products.csv", infer_schema=False)
    words = pl.col("nombre").str.to_lowercase().str.replace_all(r"\d", "").str.extract_all(r"\p{L}{3,}").list.join(" ")
    # A title without any word is like no other.
    named = pl.when(words == "").then(pl.int_range(pl.len()).cast(pl.String)).otherwise(words)
    pairs = frame.select(named, pl.col("categoria").str.strip_chars()).unique()
    kept = pairs.filter(pl.len().over("categoria") >= 10)
    dropped = dataset.meta.parts["source"].dropped
    assert dropped == {"duplicate": len(frame) - len(pairs), "rare category": len(pairs) - len(kept)}
    assert len(dataset.classes) == kept["categoria"].n_unique()


@needs_shared
def test_the_real_test_rows_have_no_labels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no column 'category'; the columns there are: id, title, language"):
        preprocess_into(tmp_path, source=str(SHARED / "meli2019/test_first_rows.csv"))
