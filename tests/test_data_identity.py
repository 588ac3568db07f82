"""A data set's identity: the same content is the same data set, wherever its files lie."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from data_fixture import csv_file, task_of, titles

from jobs.data import files, identity
from jobs.data.identity import fingerprint, identify
from jobs.data.settings import Data


def test_paths_are_plumbing_and_contents_are_not(tmp_path: Path) -> None:
    one = csv_file(tmp_path / "a.csv", titles(9))
    (tmp_path / "elsewhere").mkdir()
    two = csv_file(tmp_path / "elsewhere" / "b.csv", titles(9))
    other = csv_file(tmp_path / "c.csv", titles(10))
    assert task_of(source=one).id == task_of(source=two).id
    assert task_of(source=one).id != task_of(source=other).id
    settings, plumbing = identify(Data(source=one))
    assert str(tmp_path) not in str(settings)
    assert plumbing["files"] == {"source": (one,)}


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 5},
        {"deduplicate": True},
        {"min_rows_per_category": 2},
        {"train_rows": 3},
        {"split": {"seed": 1}},
        {"text": {"accents": "strip"}},
        {"text": {"digits": "keep"}},
        {"text": {"min_letters": 2}},
        {"text": {"stop_words": "spanish"}},
        {"text": {"word_ngrams": 2}},
        {"text": {"character_ngrams": [3, 4]}},
        {"vocabulary": {"min_count": 3}},
        {"vocabulary": {"max_size": 3}},
        {"vocabulary": {"max_ngrams": 3}},
        {"embeddings": {"size": 3}},
        {"language": "spanish"},
        {"quality": "reliable"},
        {"header": False},
        {"quotes": "double"},
        {"quotes": "none"},
        {"columns": {"label": "title"}},
    ],
)
def test_every_choice_is_part_of_it(tmp_path: Path, change: dict[str, Any]) -> None:
    path = csv_file(tmp_path / "a.csv", titles(9))
    assert task_of(source=path).id != task_of(source=path, **change).id


def test_a_setting_that_came_later_changes_no_id(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", titles(9))
    assert task_of(source=path).id == task_of(source=path, quotes="checked").id == "f15beac14936af97"
    assert task_of(source=path, header=False, format="tsv", quality="reliable").id == "4a9a2180b8153968"


def test_the_default_split_given_or_not(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", titles(9))
    assert task_of(source=path).id == task_of(source=path, split={}).id


def test_folders_patterns_and_lists_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", ".hidden.csv"):
        csv_file(tmp_path / name, titles(3))
    expected = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert files.find_files(str(tmp_path), "source") == expected
    assert files.find_files(str(tmp_path / "*.csv"), "source") == expected
    assert files.find_files([str(path) for path in expected[::-1]], "source") == expected[::-1]


def test_formats_by_name_and_by_content(tmp_path: Path) -> None:
    for name, content, expected in (
        ("a.csv", b"", "csv"),
        ("a.TSV.gz", gzip.compress(b"x"), "tsv"),
        ("a.ndjson", b"", "jsonl"),
        ("a", b'{"a": 1}\n', "jsonl"),
        ("b", gzip.compress(b"a\tb,c\tx\n"), "tsv"),
        ("c.txt", b"a,b\n", "csv"),
        ("d", b"PAR1....", "parquet"),
    ):
        (tmp_path / name).write_bytes(content)
        assert files.file_format(tmp_path / name) == expected
    (tmp_path / "e").write_bytes(b"nothing here\n")
    with pytest.raises(ValueError, match=r"can't tell its format: set data\.format to one of csv, tsv, jsonl, parquet"):
        files.file_format(tmp_path / "e")


def test_a_large_file_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "WHOLE_BYTES", 1 << 20)
    monkeypatch.setattr(identity, "SAMPLED_BLOCKS", 16)
    monkeypatch.setattr(identity, "BLOCK_BYTES", 1024)
    path = tmp_path / "large"
    content = bytearray(os.urandom(2 << 20))
    path.write_bytes(content)
    first = fingerprint(path)
    assert first.startswith("sampled:")
    content[-1] ^= 1
    path.write_bytes(content)
    assert fingerprint(path) != first


def test_identifying_loads_nothing_heavy() -> None:
    heavy = ("polars", "torch", "pyarrow", "pydantic")
    code = f"import sys, jobs.data.identity; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
