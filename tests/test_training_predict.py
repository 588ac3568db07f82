"""New titles classified by a trained run, normalised as its data set was."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from data_fixture import csv_file, preprocess_into, titles
from training_fixture import context_of, train_task

from jobs.predict import predict
from jobs.stages import train
from jobs.storage import Storage
from pipeline.predict import print_answers


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module", params=["mlp", "linear"])
def run_folder(root: Path, request: pytest.FixtureRequest) -> Path:
    source = csv_file(root / "titles.csv", [{"text": row["title"], **row} for row in titles(400)])
    dataset = preprocess_into(
        root, source=source, split={"validation": 0.2, "test": 0.1}, embeddings={"size": 8}, vocabulary={"min_count": 1}
    )
    settings = {} if request.param == "linear" else {"epochs": 12, "batch_size": 16, "learning_rate": 0.03}
    context = context_of(train_task(request.param, dataset.folder.name, **settings), Storage(root))
    train.run(context)
    return context.folder


def test_titles_are_classified_whatever_their_spelling(root: Path, run_folder: Path) -> None:
    asked = ["PALABRAA común", "<b>palabrab</b> número 12", "palabrac, palabrac!", "palabrad xyz"]
    answers = list(predict(root, run_folder, asked))
    assert [category for ((category, _),) in answers] == ["CLASS_0", "CLASS_1", "CLASS_2", "CLASS_3"]
    assert all(0.25 < probability <= 1 for ((_, probability),) in answers)


def test_a_title_without_a_known_word_still_gets_an_answer(root: Path, run_folder: Path) -> None:
    assert len(list(predict(root, run_folder, ["", "¡¿?!", "zzzzzz"]))) == 3


def test_an_answer_comes_before_the_next_title_is_asked_for(root: Path, run_folder: Path) -> None:
    taken: list[str] = []

    def typed() -> Iterator[str]:
        for title in ["palabraa", "palabrab", "palabrac"]:
            taken.append(title)
            yield title

    answers = predict(root, run_folder, typed())
    assert next(answers)[0].category == "CLASS_0"
    assert taken == ["palabraa"]


def test_many_titles_keep_their_order(root: Path, run_folder: Path) -> None:
    rows = titles(300)
    answers = list(predict(root, run_folder, [row["title"] for row in rows]))
    right = sum(row["category"] == category for row, ((category, _),) in zip(rows, answers, strict=True))
    assert right >= 0.95 * len(rows)


def test_a_folder_without_a_model_is_reported(root: Path) -> None:
    with pytest.raises(ValueError, match="no trained model here"):
        next(predict(root, root, ["x"]))


def test_the_most_probable_come_first_and_their_chances_add_up(root: Path, run_folder: Path) -> None:
    (answer,) = predict(root, run_folder, ["palabrac"], top=9)
    assert answer[0].category == "CLASS_2" and len(answer) == 4
    chances = [choice.probability for choice in answer]
    assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(1)
    assert next(predict(root, run_folder, ["palabrac"]))[0] == answer[0]


# The command: a line for a line, whatever is in it.

ODD = [
    "palabraa \u2028 x",
    "palabrab\u2029",
    "palabrac \x85 y",
    "palabrad \x0c z",
    "palabraa\x0b",
    "",
    "palabrab\ttab",
    "nul \0",
]


def _printed(capsysbinary: pytest.CaptureFixture[bytes], run_folder: Path, *words: object) -> tuple[list[str], str]:
    from pipeline.cli import app

    app(["predict", str(run_folder), *map(str, words)], standalone_mode=False)
    captured = capsysbinary.readouterr()
    return captured.out.decode().splitlines(), captured.err.decode()


def test_one_line_for_one_line(
    root: Path, run_folder: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "\ufeff".encode() + "\n".join(ODD).encode() + b"\npalabrac c\xe1mara\r\nlast"
    (root / "new.txt").write_bytes(content)
    lines, said = _printed(capsysbinary, run_folder, root / "new.txt")
    assert len(lines) == content.count(b"\n") + 1 == 10
    assert all(line.count("\t") == 2 for line in lines)
    assert [line[:7] for line in lines[:5]] == [f"CLASS_{at}" for at in (0, 1, 2, 3, 0)]
    assert f"{root}/new.txt:9: not UTF-8: 1 title with U+FFFD" in said
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    again, said = _printed(capsysbinary, run_folder)
    assert again == lines and "standard input:9: not UTF-8" in said


def test_answers_as_json_and_the_top_few(
    root: Path, run_folder: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (root / "new.txt").write_text("\n".join(ODD))
    lines, _ = _printed(capsysbinary, run_folder, root / "new.txt", "--json", "--top", 2)
    documents = [json.loads(line) for line in lines]
    assert [document["title"] for document in documents] == ODD
    assert all(len(document["categories"]) == 2 for document in documents)
    (line, *_), _ = _printed(capsysbinary, run_folder, root / "new.txt", "--top", 2)
    first, second, title = documents[0]["categories"][0], documents[0]["categories"][1], "palabraa   x"
    fields = [
        first["category"],
        f"{first['probability']:.3f}",
        second["category"],
        f"{second['probability']:.3f}",
        title,
    ]
    assert line.split("\t") == fields


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "csv.gz", "json"])
def test_any_format_that_training_reads(
    root: Path, run_folder: Path, capsysbinary: pytest.CaptureFixture[bytes], ending: str
) -> None:
    rows = [{"title": "palabrac, una", "id": 1}, {"title": None, "id": 2}, {"title": "palabrab", "id": 3}]
    table, path = pl.DataFrame(rows), root / f"new.{ending}"
    if ending == "csv.gz":
        path.write_bytes(gzip.compress(table.write_csv().encode()))
    else:
        {"csv": table.write_csv, "jsonl": table.write_ndjson, "parquet": table.write_parquet, "json": table.write_json}[
            ending
        ](path)
    lines, _ = _printed(capsysbinary, run_folder, path)
    assert [line.split("\t")[0] for line in (lines[0], lines[2])] == ["CLASS_2", "CLASS_1"] and len(lines) == 3
    assert len(_printed(capsysbinary, run_folder, path, "--column", "id")[0]) == 3
    with pytest.raises(ValueError, match=rf"new\.{ending}.*: no column 'name'"):
        print_answers(run_folder, path, plugins=(), top=1, json=False, column="name")


def test_a_row_that_cannot_be_read_is_no_missing_answer(root: Path, run_folder: Path) -> None:
    (root / "new.csv").write_text("title,category\nuno,dos,tres\n")
    with pytest.raises(ValueError, match=r"new\.csv: rows that can't be read: too many fields 1"):
        print_answers(run_folder, root / "new.csv", plugins=(), top=1, json=False, column=None)
