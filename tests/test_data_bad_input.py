"""Data that can't be used, or only in part: one clear error, or rows dropped and counted; never a surprise."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from data_fixture import csv_file, decoded, jsonl_file, preprocess_into, titles
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.data.files import FORMATS
from jobs.data.meta import Account
from jobs.data.settings import Data
from pipeline.manifest.validation import read


def _accounts(root: Path, path: Path, **data: Any) -> Account:
    data = {"split": {"validation": 0.3, "test": 0.3}, "embeddings": {"size": 4}, **data}
    dataset = preprocess_into(root, source=str(path), **data)
    account = dataset.meta.parts["source"]
    assert account.read == sum(account.kept.values()) + sum(account.dropped.values())
    return account


def _plain(rows: int = 10) -> str:
    return "".join(f"funda azul {at},FUNDAS\n" for at in range(rows))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.source: no such file: .*nothing\.csv"):
        preprocess_into(tmp_path, source=str(tmp_path / "nothing.csv"))


def test_an_empty_folder_and_a_pattern_without_files(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no file in the folder"):
        preprocess_into(tmp_path, source=str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        preprocess_into(tmp_path, source=str(tmp_path / "*.csv"))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_no_label_column_names_the_columns_there_are(tmp_path: Path, ending: str) -> None:
    rows = [{"id": "1", "title": "funda"}] * 3
    path = tmp_path / f"a.{ending}"
    {"csv": csv_file, "jsonl": jsonl_file}.get(ending, lambda at, _: pl.DataFrame(rows).write_parquet(at))(path, rows)
    with pytest.raises(ValueError, match=r"no column 'category'; the columns there are: id, title; set data"):
        preprocess_into(tmp_path, source=str(path))


def test_no_language_or_quality_column_only_where_it_is_asked_for(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", titles(30))
    with pytest.raises(ValueError, match=r"set data\.columns\.language to the right one, or leave out data\.language"):
        preprocess_into(tmp_path, source=path, language="spanish")
    with pytest.raises(ValueError, match=r"leave out data\.quality"):
        preprocess_into(tmp_path, source=path, quality="reliable")
    assert preprocess_into(tmp_path, source=path).splits["train"].reliable.all()


def test_empty_titles_and_labels_are_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("title,category\n" + _plain() + ",FUNDAS\n \t,FUNDAS\nfunda,\nfunda,  \nfunda\n,\n\n")
    account = _accounts(tmp_path, path)
    assert account.dropped == {"empty label": 3, "empty title": 4}
    assert account.read == 17


def test_rows_of_too_many_fields_are_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("title,category\n" + _plain() + "funda, azul,FUNDAS\n" + _plain())
    assert _accounts(tmp_path, path).dropped == {"too many fields": 1}
    path.write_text("title,category\nfunda, azul,FUNDAS\n" + _plain())
    assert _accounts(tmp_path, path).dropped == {"too many fields": 1}


def test_a_quote_inside_a_field_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "title,category\n" + _plain() + 'tv 32" azul,TVS\ntv 40" rojo,TVS\n' + '"tv ""a"" b",TVS\n' + _plain()
    )
    account = _accounts(tmp_path, path)
    assert account.read == 23
    assert account.dropped == {}


def test_a_newline_inside_quotes_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftitle,category\r\n" + b'"funda\nazul",FUNDAS\r\n' * 12)
    dataset = preprocess_into(tmp_path, source=str(path))
    assert dataset.meta.parts["source"].read == 12
    assert decoded(dataset, dataset.splits["train"])[0] == ["funda", "azul"]
    assert dataset.classes == ["FUNDAS"]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_bytes_that_are_not_utf8_are_an_error_or_replaced_and_counted(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "csv":
        path.write_bytes(b"title,category\n" + _plain().encode() + b"c\xe1mara azul,FUNDAS\n")
    else:
        path.write_bytes(
            b'{"title": "funda azul", "category": "F"}\n' * 10 + b'{"title": "c\xe1mara", "category": "F"}\n'
        )
    with pytest.raises(ValueError, match=r"a\.(csv:12|jsonl:11): not UTF-8 \(byte 0xe1\); it looks like cp1252"):
        _accounts(tmp_path, path)
    account = _accounts(tmp_path, path, replace_bytes=True)
    assert account.with_replaced_bytes == 1
    assert account.read == 11


SPANISH = "title,category\n" + "niño año jamón,cañas\n" * 20 + "piñón güero,piñas\n" * 20


@pytest.mark.parametrize("encoding", ["cp1252", "mac_roman", "cp850"])
def test_a_file_of_another_encoding_is_an_error_that_names_it_and_then_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(SPANISH.encode(encoding))
    with pytest.raises(ValueError, match=rf"a\.csv:2: not UTF-8 .*it looks like {encoding}: set data\.encoding"):
        _accounts(tmp_path, path)
    dataset = preprocess_into(tmp_path, source=str(path), encoding=encoding, vocabulary={"min_count": 1})
    assert dataset.classes == ["cañas", "piñas"]
    assert {"niño", "año", "jamón", "piñón", "güero"} <= set(dataset.vocabulary)
    assert dataset.meta.parts["source"].with_replaced_bytes == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ending", ["csv", "txt", "jsonl"])
def test_utf16_is_known_by_its_mark(tmp_path: Path, encoding: str, ending: str) -> None:
    text = SPANISH.replace(",", "\t") if ending == "txt" else SPANISH
    if ending == "jsonl":
        text = '{"title": "niño año jamón", "category": "cañas"}\n{"title": "piñón", "category": "piñas"}\n' * 20
    path = tmp_path / f"a.{ending}"
    path.write_bytes(("\ufeff" * (encoding == "utf-16-be") + text).encode(encoding))
    dataset = preprocess_into(tmp_path, source=str(path))
    assert dataset.classes == ["cañas", "piñas"]
    assert "jamón" in dataset.vocabulary


def test_labels_alone_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"title,category\n" + b"uno dos,ca\xf1a\n" * 20)
    account = _accounts(tmp_path, path, replace_bytes=True)
    assert account.with_replaced_bytes == 20


def test_a_mostly_utf8_file_is_not_taken_for_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(SPANISH.encode() + b"ni\xf1o,ca\xf1as\n" + SPANISH.encode())
    with pytest.raises(ValueError, match=r"a\.csv:42: not UTF-8 \(byte 0xf1\); the rest looks like it, or data\.repl"):
        _accounts(tmp_path, path)


def test_what_is_not_in_the_encoding_asked_for_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(SPANISH.encode("cp1252") + b"uno \x81,B\n")
    with pytest.raises(ValueError, match=r"a\.csv:42: not cp1252: .*set data\.encoding to the right one"):
        _accounts(tmp_path, path, encoding="cp1252")
    assert _accounts(tmp_path, path, encoding="cp1252", replace_bytes=True).with_replaced_bytes == 1
    with pytest.raises(ValueError, match=r"encoding: 'klingon' is none of Python's"):
        _accounts(tmp_path, path, encoding="klingon")


def test_replaced_bytes_are_told_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"title,category\n" + b"ni\xf1o dos,caja\n" * 20)
    _accounts(tmp_path, path, replace_bytes=True)
    assert "source: 20 rows read" in (logged := capsys.readouterr().err)
    assert "20 with U+FFFD in title or label" in logged


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "changed", "head only"])
def test_a_broken_compressed_file_is_named(tmp_path: Path, ending: str, damage: str) -> None:
    text = "".join(f"funda {at * 7919 % 1000003},FUNDAS\n" for at in range(20_000)).encode()
    text = b"title,category\n" + text
    packed = bytearray(
        gzip.compress(text) if ending == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(text)
    )
    if damage == "changed":
        packed[len(packed) // 2] ^= 0xFF
    else:
        del packed[len(packed) - 9 if damage == "cut" else 5 :]
    path = tmp_path / f"a.csv.{ending}"
    path.write_bytes(packed)
    with pytest.raises(ValueError, match=rf"a\.csv\.{ending}: .*(truncated|broken|not UTF-8|not JSON|empty|no column)"):
        preprocess_into(tmp_path, source=str(path))
    assert not list((tmp_path / "datasets").glob("*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", r"a\.jsonl:11: not JSON"),
        ("[1]", r"a\.jsonl:11: not a JSON object but list"),
        ('{"title": "a", "category": "b"', r"a\.jsonl:11: not JSON"),
        ('{"title": "a", "category": "b"} {"title": "a"}', r"a\.jsonl:11: not JSON"),
    ],
)
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"title": "funda azul", "category": "F"}\n' * 10 + line + "\n")
    with pytest.raises(ValueError, match=message):
        preprocess_into(tmp_path, source=str(path))


def test_keys_that_some_lines_lack_are_empty_there(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"title": "funda azul", "category": "F"}] * 10
    odd: list[dict[str, Any]] = [{"title": "x"}, {"category": "F"}, {"title": None, "category": "F"}, {}]
    path = jsonl_file(tmp_path / "a.jsonl", [*odd, *rows, {"title": 12.5, "category": 7, "other": [1, {"a": 2}]}])
    account = _accounts(tmp_path, Path(path))
    assert account.dropped == {"empty label": 1, "empty title": 3}
    assert account.read == 15


def test_a_parquet_column_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"title": [{"a": 1}], "category": ["x"]}).write_parquet(path)
    with pytest.raises(ValueError, match=r"a\.parquet: column 'title' is Struct"):
        preprocess_into(tmp_path, source=str(path))
    path.write_bytes(b"PAR1" + b"\0" * 100)
    with pytest.raises(ValueError, match=r"a\.parquet: broken parquet file"):
        preprocess_into(tmp_path, source=str(path))


def test_an_empty_file_and_one_with_a_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("")
    with pytest.raises(ValueError, match=r"a\.csv: an empty file"):
        preprocess_into(tmp_path, source=str(path))
    path.write_text("title,category\n")
    with pytest.raises(ValueError, match="no train rows are left: source: 0 read"):
        preprocess_into(tmp_path, source=str(path))


def test_a_split_that_ends_up_empty_says_where_its_rows_went(tmp_path: Path) -> None:
    train = csv_file(tmp_path / "a.csv", [{"title": "funda", "category": "A"}] * 3)
    other = csv_file(tmp_path / "b.csv", [{"title": "funda", "category": "B"}] * 2)
    with pytest.raises(ValueError, match=r"no test rows are left: .*test: 2 read, label unseen in training 2"):
        preprocess_into(tmp_path, train=train, validation=train, test=other, same_file=True)


def test_a_file_that_changed_after_planning(tmp_path: Path) -> None:
    from data_fixture import context_of, task_of

    from jobs.stages import preprocess
    from jobs.storage import Storage

    path, embeddings = Path(csv_file(tmp_path / "a.csv", titles(30))), tmp_path / "v.txt"
    embeddings.write_text("funda 1 2\n")
    task = task_of(source=str(path), embeddings={"file": str(embeddings), "size": 2})
    for changed, text in ((embeddings, "funda 3 4\n"), (path, "title,category\nfunda,A\n")):
        changed.write_text(text)
        words = rf"{changed.name}: changed since the manifest was submitted: submit it again"
        with pytest.raises(ValueError, match=words):
            preprocess.run(context_of(Storage(tmp_path), task))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "a", "train": "b"}, "either source with split"),
        ({"train": "b"}, "validation, test missing"),
        ({"train": "a", "validation": "b", "test": "c", "split": {}}, "split belongs to source"),
        ({"source": "a", "split": {"validation": 0.6, "test": 0.5}}, "must be below 1"),
        ({"source": "a", "text": {"stop_words": "auto"}}, "auto needs language"),
        ({"source": "a", "text": {"character_ngrams": [5, 3]}}, "character_ngrams"),
    ],
)
def test_settings_that_contradict_each_other(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(Data, data)


_EXAMPLES = int(os.environ.get("TANDA_FUZZ_EXAMPLES", "80"))
_FUZZ = settings(deadline=None, max_examples=_EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
_BITS = b'title category , \n " ; \t \r { } : [ ] a \xff \xc3\xb1 \0 1e999 null NaN -0.0 &amp; &#0; &#x110000;'.split(
    b" "
)
_LINES = [
    b'{"title":"a","category":"b"}\n', b"a b,c\n", b"\n", b" ", b"sep=;\n", b"# a,b\n", b"\xef\xbb\xbf", b"\xff\xfe",
    b'{"title":"\\ud83d","category":NaN}\n', b'{"title":"a\1","category":1.0}\n', b'[{"title":"a","category":1},',
    b"\xe2\x80\xa8", b"\xe2\x80\x8b", b"\\udc00", b"\\",
]  # fmt: skip
_BODIES = st.lists(st.sampled_from([*_BITS, *_LINES]), max_size=40).map(b"".join)


@_FUZZ
@given(
    body=_BODIES,
    ending=st.sampled_from([*FORMATS, "json", "txt"]),
    head=st.booleans(),
    pack=st.sampled_from([bytes, bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress]),
    encoding=st.sampled_from(["auto", "auto", "cp1252", "utf-16", "utf-16-be", "utf-8-sig", "utf-7", "shift_jis"]),
    replace=st.booleans(),
    share=st.sampled_from([1e-4, 0.5]),
)
def test_any_bytes_end_well_or_in_a_value_error(
    tmp_path_factory: pytest.TempPathFactory,
    body: bytes,
    ending: str,
    head: bool,
    pack: Callable[[bytes], bytes],
    encoding: str,
    replace: bool,
    share: float,
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    start = {"csv": b"title,category\n", "tsv": b"title\tcategory\n"}.get(ending, b'{"title":"a","category":"b"}\n')
    content = (start if head else b"") + body
    path = folder / f"a.{ending}"
    path.write_bytes(pack(content))
    try:
        _accounts(folder, path, encoding=encoding, replace_bytes=replace, bad_lines=share)
    except ValueError as error:
        assert str(path) in str(error) or "rows are left" in str(error)
