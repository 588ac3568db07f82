"""Files as other programs write them: folders of parts, arrays, what stands before a header, packings, odd JSON."""

from __future__ import annotations

import bz2
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixture import csv_file, decoded, jsonl_file, preprocess_into, titles
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data import csv_text, json_lines
from jobs.data.dataset import Dataset
from jobs.data.files import Source
from jobs.data.meta import Account
from jobs.data.vectors import from_file
from pipeline.init import profile_data

SMALL = {"vocabulary": {"min_count": 1}, "embeddings": {"size": 4}, "split": {"validation": 0.3, "test": 0.3}}
ROWS = "".join(f"funda azul {letter},FUNDAS\n" for letter in "abcdefghij")


def _read(root: Path, path: Path, **data: Any) -> Dataset:
    return preprocess_into(root / "storage", source=str(path), **{**SMALL, **data})


def _account(root: Path, path: Path, **data: Any) -> Account:
    return _read(root, path, **data).meta.parts["source"]


# Folders.


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_folder_as_spark_leaves_it(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    rows = titles(60)
    part = folder / f"part-00000.{ending}"
    {"csv": csv_file, "jsonl": jsonl_file}.get(ending, lambda path, rows: pl.DataFrame(rows).write_parquet(path))(
        part, rows
    )
    for name in ("_SUCCESS", "_committed_17", f".part-00000.{ending}.crc", f"part-00001.{ending}"):
        (folder / name).write_bytes(b"crc" if name.startswith(".") else b"")
    assert _account(tmp_path, folder).read == 60
    assert _account(tmp_path, Path(f"{folder}/*")).read == 60
    (folder / f"part-00002.{ending}.bz2").write_bytes(bz2.compress(b""))  # empty once it is unpacked
    if ending != "parquet":
        assert _account(tmp_path, folder).read == 60


def test_a_folder_of_nothing_but_empty_parts(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for number in range(2):
        (tmp_path / "parts" / f"part-{number}.csv").touch()
    with pytest.raises(ValueError, match="no train rows are left: source: 0 read"):
        _read(tmp_path, tmp_path / "parts")


# JSON arrays.

_VALUES = st.text(st.sampled_from('ab"\\[]{},: ñ\n'), max_size=8)


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(st.tuples(_VALUES, _VALUES), min_size=1, max_size=20),
    block=st.integers(1, 30),
    indent=st.sampled_from([None, 2]),
)
def test_a_json_array_cut_anywhere(rows: list[tuple[str, str]], block: int, indent: int | None) -> None:
    objects = [{"t": text, "x": [{"y": text}, 1], "l": label} for text, label in rows]
    content = json.dumps(objects, indent=indent, ensure_ascii=False).encode()
    source = Source(
        path=Path("x"), format="jsonl", columns={"text": "t", "label": "l"}, required=frozenset({"text", "label"})
    )
    stream = iter([content[at : at + block] for at in range(0, len(content), block)])
    tables = [parse().table for parse in json_lines.parse_jobs(source, stream, 40)]
    assert list(pl.concat(tables).iter_rows()) == rows


def test_a_json_array_is_read_as_pandas_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    pl.DataFrame(titles(60)).to_pandas().to_json(path, orient="records")
    assert _account(tmp_path, path).read == 60
    assert profile_data(path).columns == {"text": "title", "label": "category"}
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match=r"a\.json: the JSON array is not closed"):
        _read(tmp_path, path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"a\.json: element 1: not a JSON object but int"):
        _read(tmp_path, path)
    pl.DataFrame(titles(60)).to_pandas().to_json(path)
    with pytest.raises(ValueError, match=r"a\.json:1: 'title' is an object, not text: .*orient='records'"):
        _read(tmp_path, path)


# What stands before the rows of a csv.


@pytest.mark.parametrize(
    "before",
    [
        "\n\n",
        "\r\n  \r\n",
        "sep=,\r\n",
        '"sep=,"\n',
        "# exported on Monday, by hand\n# twice\n",
        "\ufeff\nsep=,\n#\n\n",
    ],
)
def test_what_stands_before_the_header_is_passed_over(tmp_path: Path, before: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(before + "title,category\n" + ROWS, newline="")
    assert _account(tmp_path, path).read == 10
    path.write_text(before + "title,category\n" + ROWS + 'x,"A\n', newline="")
    with pytest.raises(ValueError, match=rf"a\.csv:{before.count(chr(10)) + 12}: the quote that opens"):
        _read(tmp_path, path)


def test_a_separator_that_the_first_line_names(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sep=;\ntitle;category\n" + ROWS.replace(",", ";") + '"a;b";"C"\n' * 9)
    assert _read(tmp_path, path).classes == ["C", "FUNDAS"]


@pytest.mark.parametrize("header", [True, False])
def test_a_line_break_in_the_first_cell(tmp_path: Path, header: bool) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"title\nof it",category\n' + ROWS, newline="")
    columns = {"text": "title\nof it"} if header else {"text": "1", "label": "2"}
    assert _account(tmp_path, path, header=header, columns=columns).read == 10 + (not header)


def test_a_column_that_a_parquet_file_has_twice_is_named_if_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {"title": [f"uno {number}" for number in range(10)], "category": ["A"] * 10, "price": ["1"] * 10}

    def write(doubled: str) -> None:
        pq.write_table(pa.table([*columns.values(), columns[doubled]], names=[*columns, doubled]), path)

    write("title")
    with pytest.raises(ValueError, match=r"a\.parquet.*'title'"):
        _read(tmp_path, path)
    write("price")
    assert _account(tmp_path, path).read == 10


def test_init_reads_utf16_by_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("title,category\n" + ROWS, encoding="utf-16")
    profile = profile_data(path)
    assert (profile.encoding, profile.columns) == ("auto", {"text": "title", "label": "category"})


@pytest.mark.parametrize("separator", ["\t", ";"])
def test_a_csv_separated_by_tabs_or_semicolons(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.csv"
    rows = ROWS.replace(",", separator) + f'"a{separator}b, c"{separator}C\n' * 9
    path.write_text(f"title{separator}category\n" + rows)
    assert _read(tmp_path, path).classes == ["C", "FUNDAS"]
    path.write_text(rows)
    read = _read(tmp_path, path, header=False, columns={"text": "1", "label": "2"})
    assert read.classes == ["C", "FUNDAS"]
    # A comma in the first line, unless in quotes, makes it a csv as others are.
    path.write_text(f'title{separator},category\n"a",A\n')
    with pytest.raises(ValueError, match="no column 'title'"):
        _read(tmp_path, path)
    path.write_text(f'title{separator}"category, as sold"\n' + rows)
    assert _read(tmp_path, path, columns={"label": "category, as sold"}).classes == ["C", "FUNDAS"]


def test_a_file_of_titles_alone_may_have_semicolons(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("uno; dos\ntres\n")
    source = Source(
        path=path, format="csv", columns={"text": "1"}, required=frozenset({"text"}), header=False, quotes="checked"
    )
    chunks = [parse().table for parse in csv_text.parse_jobs(source, source.blocks(), 1 << 20)]
    assert [title for chunk in chunks for title in chunk["text"].to_list()] == ["uno; dos", "tres"]


def test_a_header_may_begin_with_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("#,title,category\n" + "".join(f"#1,{row}" for row in ROWS.splitlines(keepends=True)))
    assert _account(tmp_path, path, columns={"text": "title"}).read == 10
    path.write_text("# uno dos,A\n" * 10)
    assert _account(tmp_path, path, header=False, columns={"text": "1", "label": "2"}).read == 10


def test_a_header_cell_of_two_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"the\ntitle",category\n' + ROWS)
    assert _account(tmp_path, path, columns={"text": "the\ntitle"}).read == 10


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_column_that_is_there_twice_is_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "csv":
        path.write_text("title,category,title\nuno,A,dos\n")
    else:
        columns = [pa.array(["uno"]), pa.array(["A"]), pa.array(["dos"])]
        pq.write_table(pa.Table.from_arrays(columns, names=["title", "category", "title"]), path)
    with pytest.raises(
        ValueError, match=rf"a\.{ending}: column 'title' is there 2 times, as \[1, 3\]: rename all but one"
    ):
        _read(tmp_path, path)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (",".join(f"c{at}" for at in range(50_000)) + "\n1\n", "c18, c19 and 49,980 more; set"),
        ("k" * 100_000 + ",b\n1,2\n", "k" * 60 + "…, b; set"),
        ("t\0i,\x1b[31mred\n1,2\n", "t\ufffdi, \ufffd[31mred; set"),
    ],
)
def test_a_message_shows_no_more_of_a_header_than_a_person_reads(tmp_path: Path, content: str, shown: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match="the columns there are: ") as raised:
        _read(tmp_path, path)
    assert shown in str(raised.value) and len(str(raised.value)) < 600
    with pytest.raises(ValueError, match="its columns are ") as raised:
        profile_data(path)
    assert shown.removesuffix("; set") in str(raised.value) and len(str(raised.value)) < 600


# Packings.


def test_bzip2_and_xz_are_read_and_zip_is_named(tmp_path: Path) -> None:
    text = ("title,category\n" + ROWS).encode()
    for ending, packed in (("bz2", bz2.compress(text[:30]) + bz2.compress(text[30:])), ("xz", lzma.compress(text))):
        path = tmp_path / f"a.csv.{ending}"
        path.write_bytes(packed)
        assert _account(tmp_path, path).read == 10
        path.write_bytes(packed[:-20])
        with pytest.raises(ValueError, match=rf"a\.csv\.{ending}: .*(truncated|broken)"):
            _read(tmp_path, path)
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("a.csv", text)
    with pytest.raises(ValueError, match=r"a\.csv\.zip: a zip archive or a spreadsheet: unpack it"):
        _read(tmp_path, tmp_path / "a.csv.zip")


def test_a_mark_at_the_start_of_a_vector_file(tmp_path: Path) -> None:
    path = tmp_path / "a.vec"
    for head in ("", "2 2\n"):
        path.write_text("\ufeff" + head + "casa 1 2\nsilla 3 4\n")
        table = from_file(path, ["<PAD>", "<UNK>", "casa", "silla"], 2, threads=1)
        assert table.in_file.tolist() == [False, False, True, True]


# JSON that is none by the letter.


def test_odd_strings_are_replaced_and_counted(tmp_path: Path) -> None:
    odd = [
        rb'{"title": "uno \ud83d dos", "category": "A"}',
        rb'{"title": "uno \udc00 dos", "category": "A"}',
        b'{"title": "uno \x01 dos", "category": "A"}',
        b'{"title": "uno\tdos", "category": "A", "price": NaN}',
    ]
    sound = [
        rb'{"title": "uno \ud83d\ude00 \\ud83d dos", "category": "A"}',
        b'{"title": "uno dos", "category": "A"}',
    ] * 8
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*odd, b'{"title": "uno dos", "category": NaN}', *sound]))
    account = _account(tmp_path, path, text={"digits": "keep"})
    assert (account.read, account.with_replaced_bytes, account.dropped) == (21, 4, {"empty label": 1})


def test_lines_that_cannot_be_read_are_dropped_up_to_a_share(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = '{"title": "funda azul", "category": "F"}\n' * 50
    path.write_text(good + "{broken\n" + good + "[1]\n")
    account = _account(tmp_path, path, bad_lines=0.02)
    assert (account.read, account.dropped) == (102, {"not JSON": 1, "not a JSON object": 1})
    with pytest.raises(
        ValueError, match=r"a\.jsonl:51: not JSON: .*\(2 of 102 lines, more than data\.bad_lines \(0\.0001\)"
    ):
        _account(tmp_path, path)


# Titles.


def test_html_entities_are_decoded(tmp_path: Path) -> None:
    title = "Cami&oacute;n &amp;eacute;lite &lt;b&gt;rojo&lt;/b&gt; A&amp;B &#241;and&#xFA;&nbsp;gris foo&notebook AT&T"
    rows = [{"title": title, "category": "A"}] * 10
    dataset = _read(tmp_path, Path(csv_file(tmp_path / "a.csv", rows)))
    assert decoded(dataset, dataset.splits["train"])[0] == [
        "camión", "élite", "rojo", "ñandú", "gris", "foo", "notebook"
    ]  # fmt: skip
