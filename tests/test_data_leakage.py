"""Titles that stand in more than one part: counted whatever differs beside their words, kept apart by the split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from data_fixture import csv_file, decoded, jsonl_file, preprocess_into
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data.dataset import Dataset, Ragged
from jobs.data.identity import identify
from jobs.data.meta import Overlap
from jobs.data.settings import Data, Split
from jobs.data.split_assignment import TEST, TRAIN, VALIDATION, Part, assign_splits
from jobs.data.title_keys import PieceKeys, word_keys
from pipeline.manifest.validation import read

SMALL = {"vocabulary": {"min_count": 1}, "embeddings": {"size": 4}}
WORDS = ("silla", "mesa", "roja", "azul", "grande", "chica", "lámpara", "cama")


def _rows(*titles: str, category: str = "A") -> list[dict[str, str]]:
    return [{"title": title, "category": category} for title in titles]


def _parts(root: Path, parts: Mapping[str, list[dict[str, str]]], **data: Any) -> Dataset:
    files = {name: csv_file(root / f"{name}.csv", rows) for name, rows in parts.items()}
    return preprocess_into(root / "storage", **files, **SMALL, **data)


PLANTED = {
    "train": [
        *_rows("Silla roja grande", "Mesa azul", "lámpara CHICA", "cama doble", "cuna blanca"),
        *_rows("mesa azul", "ropero alto", category="B"),
    ],
    "validation": _rows("Nada de esto", "silla roja grande"),
    "test": [
        *_rows(
            "silla roja grande",
            "SILLA  roja, GRANDE 12",
            "lampara chica",
            "grande silla roja",
            "mesa azul",
            "otra cosa",
        ),
        *_rows("cama doble", category="B"),
    ],
}


def test_planted_leaks_are_counted(tmp_path: Path) -> None:
    dataset = _parts(tmp_path, PLANTED, text={"accents": "strip"})
    assert dataset.meta.overlap["test"] == Overlap(titles=7, exact=5, same_words=6, other_label=2, no_same_label=1)
    assert dataset.meta.overlap["validation"] == Overlap(
        titles=2, exact=1, same_words=1, other_label=0, no_same_label=0
    )
    kept = _parts(tmp_path, PLANTED)
    assert kept.meta.overlap["test"].exact == 4, "with its accent it is another word"


def test_overlap_is_dropped_from_training_or_an_error(tmp_path: Path) -> None:
    dataset = _parts(tmp_path, PLANTED, text={"accents": "strip"}, overlap="drop")
    account = dataset.meta.parts
    assert account["train"].dropped == {"title also in validation or test": 5}
    assert account["validation"].dropped == {"title also in validation or test": 1}
    assert {count.exact for count in dataset.meta.overlap.values()} == {0}
    with pytest.raises(
        ValueError, match=r"1 of 2 validation titles, 5 of 7 test titles are in training too \(data\.overlap"
    ):
        _parts(tmp_path, PLANTED, text={"accents": "strip"}, overlap="error")


def test_one_file_twice_is_an_error_unless_it_is_meant(tmp_path: Path) -> None:
    parts = {
        "train": _rows("silla roja", "mesa azul"),
        "validation": _rows("cama doble"),
        "test": _rows("mesa azul", "silla roja"),
    }
    files = {name: csv_file(tmp_path / f"{name}.csv", rows) for name, rows in parts.items()}
    files["test"] = csv_file(tmp_path / "copy.csv", parts["train"])
    with pytest.raises(
        ValueError, match=r"data\.test: .*copy\.csv has the content of data\.train's .*train\.csv: name an"
    ):
        preprocess_into(tmp_path / "storage", **files, **SMALL)
    dataset = preprocess_into(tmp_path / "storage", **files, **SMALL, same_file=True)
    assert dataset.meta.overlap["test"].exact == 2


def test_duplicates_are_compared_after_normalisation(tmp_path: Path) -> None:
    rows = [
        *_rows("Silla roja", "silla, ROJA!", "silla  roja 7", "roja silla", "12", "13"),
        *_rows("silla roja", category="B"),
    ]
    source = csv_file(tmp_path / "a.csv", [*rows, *_rows(*map(" ".join, zip(WORDS, WORDS[::-1], strict=True)))])
    dataset = preprocess_into(tmp_path / "storage", source=source, deduplicate=True, **SMALL)
    assert dataset.meta.parts["source"].dropped["duplicate"] == 2


# The split of a source.


def _made(root: Path, rows: list[dict[str, Any]], **split: Any) -> dict[str, list[tuple[str, ...]]]:
    source = jsonl_file(root / "a.jsonl", rows)
    text = {"min_letters": 1, "digits": "keep"}
    dataset = preprocess_into(root / "storage", source=source, split=split, text=text, **SMALL, max_length=64)
    return {name: [*map(tuple, decoded(dataset, part))] for name, part in dataset.splits.items()}


def test_equal_titles_go_to_one_part(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    titles = [" ".join(generator.choice(WORDS, 2)) for _ in range(600)]
    rows = [{"title": title.upper() if at % 2 else title, "category": "AB"[at % 2]} for at, title in enumerate(titles)]
    parts = _made(tmp_path, rows, by="title", validation=0.25, test=0.25)
    assert sum(map(len, parts.values())) == 600
    assert not any(
        set(parts[one]) & set(parts[other])
        for one, other in (("train", "test"), ("train", "validation"), ("validation", "test"))
    )
    assert all(90 <= len(parts[name]) <= 210 for name in ("validation", "test"))
    parts = _made(tmp_path, rows, by="random", validation=0.25, test=0.25)
    assert set(parts["train"]) & set(parts["test"])


def test_rows_of_one_group_go_to_one_part(tmp_path: Path) -> None:
    rows = [{"title": f"t{at} s{at % 30}", "category": "AB"[at % 2], "seller": at % 30} for at in range(600)]
    rows += [{"title": f"t{at} none", "category": "A", "seller": None} for at in range(600, 700)]
    split = {"by": "seller", "validation": 0.2, "test": 0.2}
    dataset = preprocess_into(tmp_path / "s", source=jsonl_file(tmp_path / "b.jsonl", rows), split=split, **SMALL)
    of_part = {}
    for name in ("validation", "test"):
        facts = dataset.facts(name)
        assert facts is not None
        of_part[name] = {rows[at]["seller"] for at in facts.rows.tolist()}
        assert None in of_part[name], "a row without one is alone"
        chosen = [at for at in range(len(rows)) if rows[at]["seller"] in of_part[name] - {None}]
        assert set(chosen) <= set(facts.rows.tolist())
    assert of_part["validation"] & of_part["test"] == {None}
    with pytest.raises(ValueError, match=r"no column 'shop'; .*set data\.split\.by to the right one"):
        _made(tmp_path, rows, by="shop")


@pytest.mark.parametrize("form", ["{:05d}", "2024-01-01 00:{:02d}:00", "2024-01-01T00:{:02d}:00Z"])
def test_the_latest_rows_are_test(tmp_path: Path, form: str) -> None:
    order = np.random.default_rng(1).permutation(60)
    rows = [{"title": f"t{at}", "category": "A", "day": form.format(at)} for at in order.tolist()]
    rows.append({"title": "t99", "category": "A", "day": None})
    parts = _made(tmp_path, rows, time="day", validation=0.2, test=0.1)
    days = {
        name: sorted(int(title[0][1:]) for title in titles if title != ("<UNK>",)) for name, titles in parts.items()
    }
    assert (days["train"], len(parts["validation"]), len(parts["test"])) == ([*range(42)], 12, 6)


def test_folds_are_each_test_once(tmp_path: Path) -> None:
    rows = [{"title": f"t{at}", "category": "AB"[at % 2]} for at in range(100)]
    source = jsonl_file(tmp_path / "a.jsonl", rows)
    tests, validations = [], []
    for fold in range(5):
        dataset = preprocess_into(
            tmp_path / "s", source=source, split={"folds": 5, "fold": fold, "by": "title"}, **SMALL
        )
        for name, found in (("test", tests), ("validation", validations)):
            facts = dataset.facts(name)
            assert facts is not None
            found.append(set(facts.rows.tolist()))
        assert [len(dataset.splits[name]) for name in ("train", "validation", "test")] == [60, 20, 20]
    assert set().union(*tests) == set(range(100)) and sum(map(len, tests)) == 100
    assert validations[0] == tests[1] and validations[4] == tests[0]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"folds": 2}, "greater than or equal to 3"),
        ({"folds": 5, "fold": 5}, "fold must be below folds"),
        ({"time": "day", "by": "seller"}, "time belongs alone"),
    ],
)
def test_splits_that_make_no_sense(split: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(Data, {"source": "a", "split": split})


def test_by_title_is_the_default_and_by_random_keeps_its_id(tmp_path: Path) -> None:
    source = csv_file(tmp_path / "a.csv", _rows("silla roja", "mesa azul"))
    ids = {
        str(identify(read(Data, {"source": source, **data}))[0]["split"])
        for data in ({}, {"split": {}}, {"split": {"by": "title"}})
    }
    assert len(ids) == 1 and "title" in ids.pop()
    assert "by" not in identify(read(Data, {"source": source, "split": {"by": "random"}}))[0]["split"]


@settings(deadline=None, max_examples=60)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), seed=st.integers(0, 3), data=st.data())
def test_without_equal_titles_the_split_is_that_of_single_rows(
    labels: list[int], seed: int, data: st.DataObject
) -> None:
    shares = {
        "validation": data.draw(st.sampled_from([0.1, 0.3, 0.45])),
        "test": data.draw(st.sampled_from([0.1, 0.3, 0.5])),
    }

    def split(by: str, keys: np.ndarray[Any, np.dtype[np.uint64]]) -> list[int]:
        part = Part(
            name="source", labels=np.array(labels, np.int32), reliable=np.ones(len(labels), np.uint8), keys=keys
        )
        assigned = assign_splits([part], Data(source="x", split=Split(by=by, seed=seed, **shares)))
        return assigned["source"].split.tolist()

    distinct = np.random.default_rng(seed).permutation(len(labels)).astype(np.uint64) + np.uint64(1)
    assert split("title", distinct) == split("random", distinct) == split("title", np.zeros(len(labels), np.uint64))
    keys = np.array(data.draw(st.lists(st.integers(1, 9), min_size=len(labels), max_size=len(labels))), np.uint64)
    parts: dict[int, set[int]] = {}
    for key, part in zip(keys.tolist(), split("title", keys), strict=True):
        if part in (TRAIN, VALIDATION, TEST):  # and not dropped, as no training row has its label
            parts.setdefault(key, set()).add(part)
    assert all(len(found) == 1 for found in parts.values())


# Keys.

_TITLES = st.lists(st.lists(st.lists(st.sampled_from(WORDS), max_size=3), max_size=4), min_size=2, max_size=12)


@settings(deadline=None, max_examples=100)
@given(titles=_TITLES)
def test_keys_are_equal_where_words_are(titles: list[list[list[str]]]) -> None:
    """However a title is cut into pieces of words."""
    pieces = [piece for title in titles for piece in title]
    at = {word: number for number, word in enumerate(WORDS)}
    words = Ragged(
        np.array([at[word] for piece in pieces for word in piece], np.int64),
        np.array([len(p) for p in pieces], np.int64),
    )
    keys = PieceKeys.of(words, word_keys(pl.Series(WORDS)))
    rows = Ragged(np.arange(len(pieces)), np.array([len(title) for title in titles], np.int64))
    ordered, bag = keys.of_titles(rows)
    flat = [[word for piece in title for word in piece] for title in titles]
    for one in range(len(titles)):
        assert (ordered[one] == 0) == (bag[one] == 0) == (not flat[one])
        for other in range(one):
            assert (ordered[one] == ordered[other]) == (flat[one] == flat[other])
            assert (bag[one] == bag[other]) == (sorted(flat[one]) == sorted(flat[other]))


# Where a title is from, and what a test set is.


def test_each_title_that_is_evaluated_says_where_it_is_from(tmp_path: Path) -> None:
    rows = [
        {
            "title": f"uno{'abcdefghij'[at % 10]} dos{'abcdefghij'[at // 10]}",
            "category": "A",
            "language": "es" if at % 3 else "pt",
        }
        for at in range(100)
    ]
    rows[7]["title"] = ""
    for number in range(2):
        csv_file(tmp_path / f"{number}.csv", rows[50 * number : 50 * number + 50])
    with (tmp_path / "0.csv").open("a") as file:
        file.write("too,many,fields,here\nlast row,A,es\n")
    dataset = preprocess_into(tmp_path / "s", source=[str(tmp_path / f"{number}.csv") for number in range(2)], **SMALL)
    facts = dataset.facts("test")
    assert facts is not None and len(facts.rows) == len(dataset.splits["test"]) > 5
    for tokens, row, file, language in zip(
        decoded(dataset, dataset.splits["test"]), facts.rows, facts.files, facts.languages, strict=True
    ):
        if (file, row) == (0, 51):
            continue
        assert (
            " ".join(tokens) == rows[50 * file + row]["title"]
            and facts.names[language] == rows[50 * file + row]["language"]
        )


def test_a_test_set_has_one_fingerprint_in_whatever_order_and_however_it_is_normalised(tmp_path: Path) -> None:
    def fingerprint(test: list[dict[str, str]], **data: Any) -> str | None:
        parts = {
            "train": _rows("Ropero alto", "cuna") + _rows("x", category="B"),
            "validation": _rows("sofá"),
            "test": test,
        }
        return _parts(tmp_path, parts, **data).meta.statement["test"].fingerprint

    test = [*_rows("Silla roja", "mesa AZUL", "mesa AZUL"), *_rows("cama", category="B")]
    whole = fingerprint(test)
    assert whole is not None and whole.endswith("-4")
    assert fingerprint(test[::-1]) == fingerprint(test, text={"accents": "strip", "digits": "keep"}) == whole
    others = [test[1:], [*test[:3], *_rows("cama")], [*test, *_rows("cama")], [*_rows("silla roja"), *test[1:]]]
    assert len({fingerprint(other) for other in others} | {whole}) == 5
    assert whole == "1438cb9ffed539bb52c5102e79e02319-4", "the same in every version, everywhere"


def test_the_statement_says_what_the_titles_are(tmp_path: Path) -> None:
    rows = [
        {"title": "uno dos tres", "category": "A", "language": "es", "label_quality": "reliable"},
        {"title": "cuatro", "category": "B", "language": "pt", "label_quality": "unreliable"},
        {"title": "cinco seis", "category": "B", "language": "", "label_quality": "unreliable"},
    ]
    dataset = _parts(tmp_path, {"train": rows, "validation": rows[:2], "test": rows[1:]})
    statement = dataset.meta.statement["train"]
    assert (statement.supports, statement.unreliable, statement.fingerprint) == ((1, 2), 2, None)
    assert (statement.languages, statement.lengths) == ({"": 1, "es": 1, "pt": 1}, (1, 1, 2, 3, 3))
    assert dataset.meta.statement["test"].supports == (0, 2)
