"""The made-up data set: the same bytes for the same numbers, and what a real one has."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from data_fixture import contents, preprocess_into

from jobs.data import sample, sample_titles
from jobs.data.sample import write_sample

ROWS = 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, ROWS, categories=30)
    return folder


def test_the_same_bytes_on_any_number_of_threads(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_sample(tmp_path / "again", ROWS, categories=30, threads=1)
    assert contents(tmp_path / "again") == contents(folder)
    assert sorted(files) == sorted((tmp_path / "again").iterdir())
    monkeypatch.setattr(sample, "_BLOCK_ROWS", 1000)
    write_sample(tmp_path / "other", ROWS, seed=1, categories=30, formats=["challenge"])
    assert contents(tmp_path / "other")["train.csv.gz"] != contents(folder)["train.csv.gz"]
    assert len(pl.read_csv(tmp_path / "other/train.csv.gz")) == ROWS


def test_the_challenge_files(folder: Path) -> None:
    train = pl.read_csv(folder / "train.csv.gz")
    assert train.columns == ["title", "label_quality", "language", "category"]
    assert len(train) == ROWS
    assert train["title"].str.len_chars().min() > 0  # type: ignore[operator]
    assert set(train["language"]) == {"spanish", "portuguese"}
    share = (train["label_quality"] == "reliable").mean()
    assert 0.1 < float(share) < 0.3  # type: ignore[arg-type]
    counts = train["category"].value_counts()["count"]
    assert counts.max() > 4 * counts.min()  # type: ignore[operator]
    assert train["title"].str.contains("[áéíóúñãõç]").sum() > ROWS / 4
    assert pl.read_csv(folder / "test.csv").columns == ["id", "title", "language"]


def test_the_university_files(folder: Path) -> None:
    total = 0
    for language in sample.CATEGORIES:
        index = orjson.loads(gzip.decompress((folder / f"{language}_token_to_index.json.gz").read_bytes()))
        assert (index["<PAD>"], index["<UNK>"]) == (0, 1)
        names: dict[int, str] = {}
        for split in ("train", "validation", "test"):
            lines = gzip.decompress((folder / f"{language}.{split}.jsonl.gz").read_bytes()).splitlines()
            rows = [orjson.loads(line) for line in lines]
            total += len(rows) if split != "test" else 0
            for row in rows:
                assert list(row) == [
                    "language",
                    "label_quality",
                    "title",
                    "category",
                    "split",
                    "tokenized_title",
                    "data",
                    "target",
                    "n_labels",
                    "size",
                ]
                assert row["size"] == len(rows)
                assert (row["language"], row["split"], row["n_labels"]) == (language, split, 30)
                assert row["data"] == [index.get(token, 1) for token in row["tokenized_title"]]
                assert names.setdefault(row["target"], row["category"]) == row["category"]
    assert total == ROWS


def test_both_formats_go_through_preprocess(folder: Path, tmp_path: Path) -> None:
    parts = {split: str(folder / f"portuguese.{split}.jsonl.gz") for split in ("train", "validation", "test")}
    vectors = {"file": str(folder / "vectors.txt.gz"), "size": 50}
    dataset = preprocess_into(tmp_path, **parts, language="portuguese", embeddings=vectors)
    assert len(dataset.classes) == 30
    assert 0.5 < dataset.meta.vectors.tokens_share < 0.9
    tokens = preprocess_into(tmp_path, **parts, columns={"tokens": "tokenized_title"})
    assert abs(tokens.meta.splits["train"].tokens / dataset.meta.splits["train"].tokens - 1) < 0.4
    source = preprocess_into(tmp_path, source=str(folder / "train.csv.gz"), language="spanish")
    account = source.meta.parts["source"]
    assert account.read == ROWS
    assert account.dropped["wrong language"] + sum(account.kept.values()) <= ROWS


def test_categories_by_default_and_too_few_rows(tmp_path: Path) -> None:
    languages = sample._Maker(200, 0, None, 1)._languages
    assert [len(language.categories) for language in languages] == [632, 773]
    assert all(len(set(language.categories)) == len(language.categories) for language in languages)
    with pytest.raises(ValueError, match="at least 100"):
        write_sample(tmp_path, 99)


def test_pairs_of_categories_differ_by_order_alone() -> None:
    language = sample._Maker(200, 0, 30, 1)._languages[0]
    generator = np.random.default_rng(0)
    pairs = np.flatnonzero(language.kinds != 0)
    assert len(pairs) == 12
    for category in pairs.tolist():
        words = sample_titles._title_words(language, generator, np.full(200, category))
        half = sample_titles.OWN_WORDS // 2
        first, second = language.own[category][:half], language.own[category][half:]
        both = np.isin(words, first).any(axis=1) & np.isin(words, second).any(axis=1)
        before = np.isin(words, first).argmax(axis=1) < np.isin(words, second).argmax(axis=1)
        assert (before[both] == language.first[category]).all()
        assert both.mean() > 0.8
