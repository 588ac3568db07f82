"""New titles classified by a trained run, normalised as its data set was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from data_fixture import csv_file, preprocess_into, titles
from training_fixture import context_of, train_task

from jobs.predict import predict
from jobs.stages import train
from jobs.storage import Storage


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
    assert [category for category, _ in answers] == ["CLASS_0", "CLASS_1", "CLASS_2", "CLASS_3"]
    assert all(0.25 < probability <= 1 for _, probability in answers)


def test_a_title_without_a_known_word_still_gets_an_answer(root: Path, run_folder: Path) -> None:
    assert len(list(predict(root, run_folder, ["", "¡¿?!", "zzzzzz"]))) == 3


def test_an_answer_comes_before_the_next_title_is_asked_for(root: Path, run_folder: Path) -> None:
    taken: list[str] = []

    def typed() -> Iterator[str]:
        for title in ["palabraa", "palabrab", "palabrac"]:
            taken.append(title)
            yield title

    answers = predict(root, run_folder, typed())
    assert next(answers)[0] == "CLASS_0"
    assert taken == ["palabraa"]


def test_many_titles_keep_their_order(root: Path, run_folder: Path) -> None:
    rows = titles(300)
    answers = list(predict(root, run_folder, [row["title"] for row in rows]))
    right = sum(row["category"] == category for row, (category, _) in zip(rows, answers, strict=True))
    assert right >= 0.95 * len(rows)


def test_a_folder_without_a_model_is_reported(root: Path) -> None:
    with pytest.raises(ValueError, match="no trained model here"):
        next(predict(root, root, ["x"]))
