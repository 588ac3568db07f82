"""What an evaluation says of single titles, of those that training does not have, and of each language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixture import csv_file, preprocess_into
from training_fixture import context_of, train_task

from jobs.stages import evaluate, train
from jobs.storage import Storage
from jobs.task import Task
from pipeline.errors import find_errors
from sharedfs.documents import read_json, write_json

WORDS = ("silla", "mesa", "cama", "sofá", "cuna", "ropero", "lámpara")


def _rows(numbers: range, language: str = "es") -> list[dict[str, str]]:
    return [
        {
            "title": f"{WORDS[at % 7]} {'abcdefghij'[at % 10] * 4}{'abcdefghij'[at // 10] * 3}",
            "category": WORDS[at % 7],
            "language": language,
        }
        for at in numbers
    ]


TEST = [*_rows(range(84, 96)), *_rows(range(10)), *_rows(range(96, 100), "pt")]
TEST[3]["category"], TEST[14]["category"] = "cuna", "ropero"  # so that every model is wrong about something


@pytest.fixture(scope="module", params=["mlp", "linear"])
def evaluated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any, dict[str, Any]]:
    root = tmp_path_factory.mktemp("storage")
    parts = {
        "train": _rows(range(70)),
        "validation": _rows(range(70, 84)),
        "test": TEST,
    }
    files = {name: csv_file(root / f"{name}.csv", rows) for name, rows in parts.items()}
    dataset = preprocess_into(root, **files, vocabulary={"min_count": 1}, embeddings={"size": 8})
    settings = {} if request.param == "linear" else {"epochs": 1, "batch_size": 16}
    task = train_task(request.param, dataset.folder.name, **settings)
    train.run(context_of(task, Storage(root)))
    context = context_of(Task(stage="evaluate", settings={"train": task.id}, needs=(task.id,)), Storage(root))
    outcome = evaluate.run(context)
    return context.folder, dataset, dict(outcome.result)


def test_unseen_titles_and_languages_have_figures_of_their_own(evaluated: tuple[Path, Any, dict[str, Any]]) -> None:
    folder, dataset, result = evaluated
    test = read_json(folder / "evaluation.json")["test"]
    assert test["fingerprint"] == result["test_fingerprint"] == dataset.meta.statement["test"].fingerprint
    assert (result["test_titles"], result["test_unseen_titles"], test["unseen"]["titles"]) == (26, 16, 16)
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        right = arrays["test_label"] == arrays["test_predicted"]
    unseen = np.array([*range(12), *range(22, 26)])
    assert test["unseen"]["accuracy"] == pytest.approx(right[unseen].mean())
    assert result["test_unseen_accuracy"] == test["unseen"]["accuracy"]
    assert {name: figures["titles"] for name, figures in test["languages"].items()} == {"es": 22, "pt": 4}
    assert test["languages"]["pt"]["accuracy"] == pytest.approx(right[22:].mean())
    assert "languages" not in read_json(folder / "evaluation.json")["validation"]


def test_the_most_probable_categories_of_each_title_are_kept(evaluated: tuple[Path, Any, dict[str, Any]]) -> None:
    folder, _, _ = evaluated
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        assert arrays["test_top"].shape == arrays["test_probability"].shape == (26, 5)
        assert arrays["validation_top"].shape == (14, 1)
        for split in ("validation", "test"):
            assert np.array_equal(arrays[f"{split}_top"][:, 0], arrays[f"{split}_predicted"])
            chances = arrays[f"{split}_probability"]
            assert (np.diff(chances, axis=1) <= 0).all() and (chances > 0).all() and (chances.sum(1) <= 1 + 1e-6).all()


def test_a_data_set_of_an_earlier_version_is_evaluated_without(evaluated: tuple[Path, Any, dict[str, Any]]) -> None:
    folder, dataset, result = evaluated
    meta = dataset.folder / "meta.json"
    document = read_json(meta)
    aside = {name for name in document["files"] if name.startswith(("test.seen", "validation.seen"))}
    earlier = {name: value for name, value in document.items() if name not in ("statement", "overlap", "alike")}
    earlier["files"] = {name: value for name, value in document["files"].items() if name not in aside}
    write_json(meta, earlier)
    try:
        storage = Storage(folder.parents[1])
        again = evaluate.run(context_of(Task.read(folder), storage)).result
        assert again["test_accuracy"] == result["test_accuracy"] and "test_fingerprint" not in again
    finally:
        write_json(meta, document)


# `tanda errors`.


def test_the_most_certain_errors_come_first_with_their_text_and_place(
    evaluated: tuple[Path, Any, dict[str, Any]],
) -> None:
    folder, _, result = evaluated
    errors = find_errors(folder, count=100)
    assert (errors.titles, errors.wrong) == (26, len(errors.worst))
    assert errors.wrong == round(26 * (1 - result["test_accuracy"])) > 0, "there is something to look at"
    chances = [worst.choices[0][1] for worst in errors.worst]
    assert chances == sorted(chances, reverse=True)
    for worst in errors.worst:
        path, row = str(worst.place).split(": row ")
        assert path == str(folder.parents[1] / "test.csv")
        of_file = TEST[int(row) - 1]
        assert (worst.title, worst.label, worst.language) == (
            of_file["title"],
            of_file["category"],
            of_file["language"],
        )
        assert worst.label != worst.choices[0][0] and worst.seen == (12 <= int(row) - 1 < 22) and worst.reliable
    train_folder = evaluate.target(Storage(folder.parents[1]), Task.read(folder))
    assert find_errors(train_folder, count=100) == errors
    assert len(find_errors(folder, count=1).worst) == min(1, errors.wrong)


def test_slices_add_up(evaluated: tuple[Path, Any, dict[str, Any]]) -> None:
    folder, _, _ = evaluated
    errors = find_errors(folder)
    kinds = {one.by for one in errors.slices}
    assert {"training has it", "language", "tokens", "category"} <= kinds | {"category"}
    for kind in kinds - {"category"}:
        of_kind = [one for one in errors.slices if one.by == kind]
        assert (sum(one.titles for one in of_kind), sum(one.wrong for one in of_kind)) == (errors.titles, errors.wrong)
    seen = {one.value: one.titles for one in errors.slices if one.by == "training has it"}
    assert seen == {"yes": 10, "no": 16}


def test_the_command_prints_them(
    evaluated: tuple[Path, Any, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.cli import app

    folder, _, _ = evaluated
    app(["errors", str(folder), "--count", "3"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "of 26 test titles are wrong" in printed and "test.csv: row" in printed
    app(["errors", str(folder), "--json", "--split", "validation"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["titles"] == 14
    with pytest.raises(ValueError, match="not a run's folder"):
        find_errors(folder.parents[1] / "nowhere" / "x")


def test_a_file_that_changed_gives_tokens_instead_of_other_rows(evaluated: tuple[Path, Any, dict[str, Any]]) -> None:
    folder, _, _ = evaluated
    path = folder.parents[1] / "test.csv"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"title", b"title", 1) + b"x,y,z\n")
    try:
        worst = find_errors(folder).worst[0]
        assert worst.title.split()[0] in {*WORDS, "<UNK>"} and worst.place is not None
    finally:
        path.write_bytes(content)
