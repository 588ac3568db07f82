"""A small search with the real engine: what is stopped and continued ends as if it had never stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from search_fixture import trials
from training_fixture import publish_dataset, train_task

from jobs import attempt, entry, metrics_log
from jobs.search.study import Study
from jobs.search.summary import summary, winner
from jobs.storage import Storage
from jobs.task import Task, read_record
from jobs.testing import definition_with
from sharedfs.documents import read_json

TIMING = ("seconds", "titles_per_s", "ended", "attempt")
TRIALS = 6


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A finished search of six trials, one after the other."""
    storage = Storage(tmp_path_factory.mktemp("storage"))
    dataset = publish_dataset(storage)
    definition = definition_with(
        "mlp",
        dataset,
        {
            "hidden_layers": {"choice": [[8], [16, 8]]},
            "dropout": {"uniform": [0.0, 0.5]},
            "learning_rate": {"loguniform": [1e-3, 1e-1]},
        },
        stopping={"asha": {"grace_epochs": 1, "reduction": 3}},
        seed=1,
        settings={"epochs": 5, "patience_chance": 100, "freeze_embeddings": False},
    )
    study = Study(storage, definition)
    kept = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)}
    folders = [study.task(number).write(storage) for number in range(TRIALS)]
    assert [entry.run(folder) for folder in folders] == [entry.DONE] * TRIALS
    yield study
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_every_trial_has_a_result_and_a_model(searched: Study) -> None:
    found = trials(searched.storage, searched.id)
    assert [trial.state in ("done", "stopped") for trial in found] == [True] * TRIALS
    assert all((trial.folder / "model.pt").exists() for trial in found)
    assert all((trial.folder / "checkpoint.pt").exists() for trial in found if trial.state == "stopped")
    glance = summary(searched.storage, searched.id)
    assert glance is not None and glance.states["stopped"] >= 3 and glance.epochs_saved > 0


def test_a_continued_trial_is_bit_for_bit_one_that_was_never_stopped(searched: Study) -> None:
    continued = [
        trial
        for trial in trials(searched.storage, searched.id)
        if trial.state == "done" and len(attempt.numbers(trial.folder)) > 1
    ]
    assert continued, "no trial was stopped and continued to its end: take another seed"
    for trial in continued:
        settings = {**searched.definition.settings, **trial.point}
        plain = train_task("mlp", searched.definition.dataset, **settings).write(searched.storage)
        assert entry.run(plain) == entry.DONE
        assert timeless(metrics_log.read(trial.folder)) == timeless(metrics_log.read(plain))
        assert (trial.folder / "model.pt").read_bytes() == (plain / "model.pt").read_bytes()


def test_the_winner_is_evaluated_and_trained_again(searched: Study) -> None:
    dataset = searched.definition.dataset
    best = winner(searched.storage, searched.id, TRIALS, 1)
    place = {"search": searched.id, "trials": TRIALS}
    evaluate = Task(stage="evaluate", settings={**place, "rank": 1}, needs=(dataset,)).write(searched.storage)
    assert entry.run(evaluate) == entry.DONE
    record, trained = read_record(evaluate), read_record(best)
    assert record is not None and trained is not None
    metric = "validation_balanced_accuracy"
    assert record.result[metric] == pytest.approx(trained.result[metric], abs=1e-6)
    assert record.result["train"] == best.name
    again = Task(stage="train", settings={**place, "dataset": dataset, "seed": 7}, needs=(dataset,))
    folder = again.write(searched.storage)
    assert entry.run(folder) == entry.DONE
    used, point = read_json(folder / "settings.json"), read_json(best / "settings.json")
    assert {name for name in used if used[name] != point.get(name)} <= {"seed", "vectors_seed"}


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]
