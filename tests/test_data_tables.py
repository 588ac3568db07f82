"""Files in chunks: wherever they are cut, the rows are those that a plain reader finds."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data import csv_text, dataset, json_lines
from jobs.data.files import Parse, Source

_FIELD = st.text(st.sampled_from('ab,"\n\t ñ€'), max_size=6)
_KINDS = st.sampled_from(["csv", "tsv"])
_ROWS = st.lists(st.tuples(_FIELD, _FIELD), min_size=1, max_size=30)


def _source(format_: str) -> Source:
    return Source(
        path=Path("x"),
        format=format_,
        columns={"text": "t", "label": "l"},
        required=frozenset({"text", "label"}),
        quotes="double",
    )


def _all(parses: list[Parse]) -> tuple[list[tuple[str, str]], int]:
    chunks = [parse() for parse in parses]
    table = pl.concat([chunk.table for chunk in chunks]) if chunks else pl.DataFrame()
    rows = [(text or "", label or "") for text, label in table.iter_rows()]
    return rows, sum(sum(chunk.dropped.values()) for chunk in chunks)


def _blocks(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


@settings(deadline=None, max_examples=150)
@given(
    rows=_ROWS,
    chunk=st.integers(1, 60),
    block=st.integers(1, 40),
    every=st.booleans(),
    kind=st.sampled_from(["csv", "tsv"]),
)
def test_csv_cut_anywhere(rows: list[tuple[str, str]], chunk: int, block: int, every: bool, kind: str) -> None:
    text = io.StringIO()
    writer = csv.writer(
        text,
        delimiter=csv_text.SEPARATORS[kind],
        lineterminator="\n",
        quoting=csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL,
    )
    writer.writerows([("t", "l"), *rows])
    stream = iter(_blocks(text.getvalue().encode(), block))
    found, dropped = _all(list(csv_text.parse_jobs(_source(kind), stream, chunk)))
    assert dropped == 0
    assert [row for row in found if row != ("", "")] == [row for row in rows if row != ("", "")]


@settings(deadline=None, max_examples=80)
@given(rows=_ROWS, chunk=st.integers(1, 60), block=st.integers(1, 40), ending=st.booleans())
def test_json_lines_cut_anywhere(rows: list[tuple[str, str]], chunk: int, block: int, ending: bool) -> None:
    content = b"\n".join(orjson.dumps({"l": label, "t": text}) for text, label in rows) + (b"\n" if ending else b"")
    found, _ = _all(list(json_lines.parse_jobs(_source("jsonl"), iter(_blocks(content, block)), chunk)))
    assert found == rows


_LISTS = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=12)
_INNER = st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=10, max_size=10)


def _ragged(rows: list[list[int]]) -> dataset.Ragged:
    flat = pl.Series([item for row in rows for item in row], dtype=pl.Int64).to_numpy()
    return dataset.Ragged(flat, pl.Series([len(row) for row in rows], dtype=pl.Int64).to_numpy())


def _lists(rows: dataset.Ragged) -> list[list[int]]:
    starts = dataset.offsets(rows.lengths)
    return [rows.values[low:high].tolist() for low, high in itertools.pairwise(starts)]


@settings(deadline=None, max_examples=80)
@given(
    rows=_LISTS,
    limit=st.integers(1, 4),
    inner=st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=10, max_size=10),
)
def test_rows_of_unequal_length(rows: list[list[int]], limit: int, inner: list[list[int]]) -> None:
    made = _ragged(rows)
    assert _lists(made) == rows
    assert _lists(made.head(limit)) == [row[:limit] for row in rows]
    assert _lists(made.fill_empty(7)) == [row or [7] for row in rows]
    assert _lists(made.expand(_ragged(inner))) == [[item for at in row for item in inner[at]] for row in rows]
    assert _lists(dataset.join([made, made.head(limit)])) == [row + row[:limit] for row in rows]
    order = pl.Series(range(len(rows)), dtype=pl.Int64).to_numpy()[::-1]
    assert _lists(made.take(order)) == rows[::-1]
    assert _lists(made.keep_rows(made.lengths > 1)) == [row for row in rows if len(row) > 1]
    assert _lists(made.keep_items(made.values > 4)) == [[item for item in row if item > 4] for row in rows]


def test_a_header_that_is_no_header() -> None:
    with pytest.raises(ValueError, match=r"data\.header: false when the first line is a row"):
        list(csv_text.parse_jobs(_source("csv"), iter([b"funda azul,FUNDAS\n"]), 100))
