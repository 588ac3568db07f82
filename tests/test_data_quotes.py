"""Quotes in csv and tsv: rows are Python's strict reader's, and none of them vanishes into a quoted field."""

from __future__ import annotations

import csv
import gzip
import io
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from data_fixture import preprocess_into
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from jobs.data import csv_text
from jobs.data.csv_quotes import each_line_is_a_row
from jobs.data.files import Quotes, Source
from pipeline.cli import app
from pipeline.init import profile_data, starting_manifest

_SIZES = [(1, 1), (7, 3), (40, 16), (1 << 20, 1 << 20)]
_CLOSE = "the quote that opens a field is closed before the end of its field"
_OPEN = "the quote that opens a field is not closed"
_LINES = "and each of these lines would be a row by itself"


def _read(
    content: bytes,
    *,
    quotes: Quotes = "checked",
    kind: str = "csv",
    chunk: int = 1 << 20,
    block: int = 1 << 20,
    **more: Any,
) -> tuple[list[tuple[str, str]], int]:
    """The rows read and the number dropped."""
    header = more.get("header", True)
    columns = {"text": "t", "label": "l"} if header else {"text": "1", "label": "2"}
    source = Source(
        path=Path("x"), format=kind, columns=columns, required=frozenset(columns), header=header, quotes=quotes
    )
    stream = iter([content[at : at + block] for at in range(0, len(content), block)])
    chunks = [parse() for parse in csv_text.parse_jobs(source, stream, chunk)]
    rows = [(text or "", label or "") for part in chunks for text, label in part.table.iter_rows()]
    return rows, sum(sum(part.dropped.values()) for part in chunks)


@pytest.mark.parametrize(
    ("row", "width", "expected"),
    [
        ('"Tubo 3/4,A\nuno,B\ndos 1/2",A\n', 2, True),  # a quote for inches swallows rows up to the next one
        ('"Tubo 3/4,A\r\nuno,B\r\ndos 1/2",A\r\n', 2, True),
        ('tubo,"A\nuno,B\ndos,"\n', 2, True),  # a quote that a line leaves open is a character of it
        ('tubo,"A\nuno,B"\n', 2, True),
        ('"tubo,A\nuno,B"\n', 2, True),
        ('"tubo,A\n\nuno,B"\n', 2, True),  # blank lines are no sign of anything
        ('"tubo,A\nuno\ndos,B"\n', 2, False),
        ('"tubo,A\nuno,dos,tres\ndos,B"\n', 2, False),
        ('"Funda\nazul",A\n', 2, False),
        ('"Funda\n",A\n', 2, False),
        ('"Funda, azul\npara celular, nueva",A\n', 2, False),
        ('"Funda, azul\npara celular",A\n', 2, True),  # cannot be distinguished from swallowed rows
        ('"Funda, azul, roja\nde cuero, nueva\n",A,1\n', 3, False),
        ('1,"tubo,A\n2,uno,B\n3,dos 1/2",A\n', 3, True),
        ('"x, y","tubo,A\nuno,B,""\ndos,C,"\n', 3, True),
        ('"tubo,A\n""uno"" x,B\ndos",C\n', 2, False),  # a line with text after a closing quote is no row
        ('"tubo,A\nuno ""x"",B\ndos",C\n', 2, True),
        ('"a\nb",A\n', 1, False),
        ('"a\nb"\n', 1, False),  # with one column every line would be a row
        ('"tubo,A\nuno,B"\n', None, True),
        ('"Precio\n(USD)",title\n', None, False),
    ],
)
def test_when_each_line_of_a_row_would_be_one(row: str, width: int | None, expected: bool) -> None:
    assert each_line_is_a_row(row.encode(), ",", width) is expected
    assert each_line_is_a_row(row.replace(",", "\t").encode(), "\t", width) is expected


_GOOD = 'uno dos,A\n"tres, ""cuatro""",B\n"cinco\nseis",A\n'  # three rows on four lines
_STRAY = 'tv 32" azul,A\n'  # sends what is read with it to Python's reader


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (_GOOD + '"tubo,A\n' + _GOOD, 6, _CLOSE),  # the next quoted field closes it
        (_GOOD + '"tubo,A\nuno,B\ndos,A\n', 6, _OPEN),
        (_GOOD + '"tubo,A\n', 6, _OPEN),
        (_GOOD + '"tubo,A', 6, _OPEN),
        (_GOOD + 'tubo,"A', 6, _OPEN),
        (_GOOD + 'tubo,"', 6, _OPEN),
        (_GOOD + '"uno\ndos","A\n', 7, _OPEN),  # the line of the quote, not of the row
        (_GOOD + '"3/4" tubo,A\n' + _GOOD, 6, _CLOSE),
        (_GOOD + '"uno\ndos","A" x\n', 7, _CLOSE),
        (_GOOD + '"tubo 3/4,A\nuno,B\ndos 1/2",A\n' + _GOOD, 6, _LINES),
        (_GOOD + 'tubo,"A\nuno,B"\n' + _GOOD, 6, _LINES),
        (_GOOD + '"tubo 3/4,A\nuno,B\ndos 1/2",A\n"tubo,A', 6, _LINES),  # the first mistake is the one that is reported
    ],
)
@pytest.mark.parametrize(("chunk", "block"), _SIZES)
@pytest.mark.parametrize("stray", ["none", "before", "behind"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_quote_that_swallows_is_an_error_that_names_its_line(
    content: str, line: int, message: str, chunk: int, block: int, stray: str, ending: str
) -> None:
    if stray == "before":
        content, line = _STRAY + content, line + 1
    elif stray == "behind" and message is not _OPEN and content.endswith("\n"):
        content += _STRAY
    packed = ("t,l\n" + content).replace("\n", ending).encode()
    with pytest.raises(ValueError, match=rf"^x:{line}: .*{message}.*data\.quotes: none"):
        _read(packed, chunk=chunk, block=block)
    rows, _ = _read(packed, quotes="none", chunk=chunk, block=block)
    assert len(rows) + _ == packed.count(b"\n") - packed.endswith(b"\n")


@pytest.mark.parametrize(
    ("content", "line"),
    [('"tubo,A', 1), ('"tubo,A\nuno,B\ndos,A\n', 1), ('"tubo,A\nuno,B\ndos 1/2",A\n', 1), ('uno,B\n"tubo,A\n', 2)],
)
@pytest.mark.parametrize(("chunk", "block"), _SIZES)
@pytest.mark.parametrize("header", [True, False])
def test_the_first_row_is_looked_at_too(content: str, line: int, chunk: int, block: int, header: bool) -> None:
    with pytest.raises(ValueError, match=rf"^x:{line}: .*quote"):
        _read(content.replace("uno,B", "t,l").encode(), chunk=chunk, block=block, header=header)


@pytest.mark.parametrize(("chunk", "block"), _SIZES)
def test_a_first_row_of_several_lines(chunk: int, block: int) -> None:
    sizes = {"chunk": chunk, "block": block}
    expected = [("funda\nazul", "A"), ("uno", "B")]
    assert _read(b'"funda\nazul",A\nuno,B\n', header=False, **sizes)[0] == expected
    assert _read(b't,l,"precio\r\n(USD)"\r\n"funda\nazul",A,1\r\nuno,B\r\n', **sizes)[0] == expected
    with pytest.raises(ValueError, match=r"^x:5: .*is not closed"):
        _read(b'"precio\n(USD)",t,l\n1,"a\nb",A\n2,"a,A', **sizes)


def test_a_row_without_end_is_not_gathered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_text, "LONGEST_ROW", 1000)
    rows = b"uno dos tres,A\n" * 20
    for content, message in (
        (rows + b'"' + rows * 100, r"^x:22: .*is not closed"),
        (rows + b"x" * 9999, "^x:22: a line of"),
    ):
        taken = 0

        def stream(content: bytes = content) -> Any:
            nonlocal taken
            for at in range(0, len(content), 64):
                taken += 64
                yield content[at : at + 64]

        source = Source(path=Path("x"), format="csv", columns={"text": "t"}, required=frozenset())
        with pytest.raises(ValueError, match=message):
            for parse in csv_text.parse_jobs(source, iter([b"t,l\n", *stream()]), 256):
                parse()


_TEXT = st.text(st.sampled_from('aab,,"""\n\n\r ñ'), max_size=40)
_PIECES = ['"', "a,b\n", '"a","b"\r\n', '"a\nb",c\n', 'x"', '""', ",", "\n", "\r", "a", '"a,b\n', 'c",d\n']
_CONTENTS = st.one_of(_TEXT, st.lists(st.sampled_from(_PIECES), max_size=14).map("".join))


def _python(content: str, quotes: Quotes) -> tuple[list[list[str]], bool] | None:
    """Rows by Python's strict reader, and whether one has several lines; None when it refuses.

    What we do otherwise: a carriage return alone is a character, and a blank line a row, as docs/data.md says. One at
    a field's end may be lost, which nothing sees: titles are cut at white space, labels stripped of it.
    """
    content = content if content.endswith("\n") else content.removesuffix("\r") + "\n"
    lines = io.StringIO(re.sub(r"\r(?!\n)", "\x01", content), newline="\n")
    quoting = csv.QUOTE_NONE if quotes == "none" else csv.QUOTE_MINIMAL
    try:
        rows = list(reader := csv.reader(lines, quoting=quoting, strict=True))
    except csv.Error:
        return None
    return [[field.replace("\x01", "\r") for field in row] for row in rows], reader.line_num > len(rows)


@settings(deadline=None, max_examples=400)
@given(
    body=_CONTENTS,
    chunk=st.integers(1, 60),
    block=st.integers(1, 40),
    quotes=st.sampled_from(["checked", "double", "none"]),
)
@example(body='"a"\rb,c\n', chunk=9, block=1, quotes="double")
@example(body='"a"\r\nb,c\n', chunk=4, block=4, quotes="double")
@example(body='"a"\r\n"b"\rc', chunk=60, block=40, quotes="double")
@example(body="\n\n\na,b\n", chunk=1, block=9, quotes="checked")
def test_rows_are_those_of_pythons_strict_reader(body: str, chunk: int, block: int, quotes: Quotes) -> None:
    content = "t,l\n" + body
    sizes = {"chunk": chunk, "block": block}
    expected = _python(content, quotes)
    try:
        rows, dropped = _read(content.encode(), quotes=quotes, **sizes)
    except ValueError as error:
        with pytest.raises(ValueError, match=f"^{re.escape(str(error))}$"):
            _read(content.encode(), quotes=quotes)  # the same mistake, however the file is cut
        line = re.match(r"x:(\d+): .*quote", str(error))
        assert line is not None
        assert '"' in content.split("\n")[int(line[1]) - 1]
        assert expected is None or (quotes == "checked" and expected[1] and _LINES in str(error))
        return
    assert expected is not None
    good = [(*row, "", "")[:2] for row in expected[0][1:] if len(row) <= 2]
    assert [(text.rstrip("\r"), label.rstrip("\r")) for text, label in rows] == [
        (text.rstrip("\r"), label.rstrip("\r")) for text, label in good
    ]
    assert dropped == len(expected[0]) - 1 - len(good)


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_through_preprocess_and_init(tmp_path: Path, kind: str, ending: str) -> None:
    rows = [f"producto {'xyz'[at % 3]},{'AB'[at % 2]}\n" for at in range(1000)]
    for at in (100, 300, 301, 700):
        rows[at] = '"' + rows[at]
    content = ("title,category\n" + "".join(rows)).replace(",", csv_text.SEPARATORS[kind]).encode()
    path = tmp_path / f"a.{kind}{ending}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[ending](content))
    message = rf"a\.{kind}{ending}:102: {_CLOSE}; .*set data\.quotes: none \(tanda init --quotes none\)"
    with pytest.raises(ValueError, match=message):
        preprocess_into(tmp_path, source=str(path), embeddings={"size": 4})
    with pytest.raises(ValueError, match=message):
        profile_data(path)
    dataset = preprocess_into(tmp_path, source=str(path), embeddings={"size": 4}, quotes="none")
    account = dataset.meta.parts["source"]
    assert (account.read, sum(account.kept.values()), account.dropped) == (1000, 1000, {})
    assert (profile_data(path, "none").rows, profile_data(path, "none").categories) == (1000, 2)
    assert "\n  quotes: none\n" in starting_manifest(path, tmp_path / "m.yaml", "none")


def test_init_says_it_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('title,category\nuno,A\n"dos,B\n' + "uno,A\ndos,B\n" * 20)
    result = CliRunner().invoke(app, ["init", str(path), str(tmp_path / "m.yaml")])
    assert result.exit_code == 2 and result.output.startswith(f"tanda: {path}:3: {_OPEN}")
    assert not (tmp_path / "m.yaml").exists()
    result = CliRunner().invoke(app, ["init", "--quotes", "none", str(path), str(tmp_path / "m.yaml")])
    assert result.exit_code == 0, result.output


def test_init_cuts_a_large_file_between_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.data.formats.CHUNK_BYTES", 1000)
    monkeypatch.setattr("pipeline.init.LOOK_BYTES", 3000)
    monkeypatch.setattr("jobs.data.files._READ", 256)
    path = tmp_path / "a.csv"
    pl.DataFrame({"title": ["uno\ndos"] * 999, "category": ["A", "B", "C"] * 333}).write_csv(path)
    path.write_bytes(path.read_bytes() + b'"never,A\n')
    seen = profile_data(path)
    assert (seen.complete, seen.categories) == (False, 3)
    assert seen.rows < 999
