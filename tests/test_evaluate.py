"""Evaluation: figures equal to scikit-learn's, and the files that the stage leaves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn
from training_fixture import context_of, publish_dataset, train_task

from jobs import entry
from jobs.context import TaskInterruptedError
from jobs.metrics import Pass, pass_figures
from jobs.stages import evaluate
from jobs.storage import Storage
from jobs.task import Record, Task, read_record
from jobs.training.loop import HostMetricAccumulator, MetricAccumulator
from jobs.training.metrics import of_logits
from sharedfs.documents import read_json

pytestmark = pytest.mark.usefixtures("one_core")


@st.composite
def classified(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and logits (N, C); some categories have no title."""
    classes, titles = draw(st.integers(2, 30)), draw(st.integers(1, 200))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    named = generator.choice(classes, draw(st.integers(1, classes)), replace=False)
    logits = generator.standard_normal((titles, classes)).astype(np.float32)
    return generator.choice(named, titles), logits * draw(st.sampled_from([0.1, 1.0, 3.0]))


@settings(deadline=None, max_examples=60)
@given(classified())
def test_figures_equal_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, logits = case
    scores = of_logits(logits, labels)
    predicted = logits.argmax(1)
    classes = np.arange(logits.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predictions of categories that no title has
        assert scores.figures["balanced_accuracy"] == pytest.approx(
            sklearn.balanced_accuracy_score(labels, predicted), abs=1e-9
        )
        assert scores.figures["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, predicted), abs=1e-9)
        assert scores.figures["macro_f1"] == pytest.approx(
            sklearn.f1_score(labels, predicted, average="macro", zero_division=0), abs=1e-9
        )
        chances = torch.softmax(torch.from_numpy(logits).double(), 1).numpy()
        assert scores.figures["loss"] == pytest.approx(
            sklearn.log_loss(labels, chances, labels=classes), abs=1e-5, rel=1e-5
        )
        top = sklearn.top_k_accuracy_score(labels, logits, k=5, labels=classes) if len(classes) > 2 else 1.0
        assert scores.figures["top5"] == pytest.approx(top, abs=1e-9)
        recalls = sklearn.recall_score(labels, predicted, average=None, labels=classes, zero_division=np.nan)
    assert np.array_equal(scores.predicted, predicted)
    np.testing.assert_allclose(scores.recall, recalls, atol=1e-9)
    assert scores.per_category()["support"] == np.bincount(labels, minlength=len(classes)).tolist()


@pytest.mark.parametrize("kind", [MetricAccumulator, HostMetricAccumulator])
@settings(deadline=None, max_examples=30)
@given(case=classified(), batch=st.integers(1, 50))
def test_counts_on_the_device_equal_scikit_learns(
    kind: type[MetricAccumulator], case: tuple[np.ndarray, np.ndarray], batch: int
) -> None:
    labels, logits = case
    classes = logits.shape[1]
    accumulator = kind(classes, torch.device("cpu"))
    for start in range(0, len(labels), batch):
        part = torch.from_numpy(logits[start : start + batch])
        truth = torch.from_numpy(labels[start : start + batch])
        accumulator.add(torch.nn.functional.cross_entropy(part, truth), part, truth)
    sums = accumulator.read()
    support = np.bincount(labels, minlength=classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = sklearn.balanced_accuracy_score(labels, logits.argmax(1))
    figures = pass_figures(Pass(support=support, correct=sums.correct, loss=sums.loss))
    assert figures["balanced_accuracy"] == pytest.approx(expected, abs=1e-9)
    whole = float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
    assert figures["loss"] == pytest.approx(whole, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", [MetricAccumulator, HostMetricAccumulator])
def test_a_loss_is_averaged_over_titles_not_over_batches(kind: type[MetricAccumulator]) -> None:
    accumulator = kind(2, torch.device("cpu"))
    for loss, titles in ((1.0, 3), (5.0, 1)):
        accumulator.add(torch.tensor(loss), torch.zeros(titles, 2), torch.zeros(titles, dtype=torch.int64))
    assert accumulator.read().loss / 4 == 2.0


@pytest.mark.parametrize("kind", [MetricAccumulator, HostMetricAccumulator])
def test_steps_count_as_finite_until_the_first_loss_that_is_not(kind: type[MetricAccumulator]) -> None:
    accumulator = kind(2, torch.device("cpu"))
    for loss in (1.0, 2.0, float("inf"), 1.0, float("nan")):
        accumulator.add(torch.tensor(loss), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    assert int(accumulator.finite) == 2


@pytest.fixture(scope="module")
def dataset(storage: Storage) -> str:
    return publish_dataset(storage, rows=500, classes=8, words=100)


def evaluated(storage: Storage, dataset: str, architecture: str, **changes: Any) -> tuple[Path, Record]:
    train = train_task(architecture, dataset, **changes)
    assert entry.run(train.write(storage)) == 0
    folder = Task(stage="evaluate", settings={"train": train.id}, needs=(dataset, train.id)).write(storage)
    assert entry.run(folder) == 0
    record = read_record(folder)
    assert record is not None
    return folder, record


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "rnn", "linear"])
def test_every_architecture_is_evaluated(storage: Storage, dataset: str, architecture: str) -> None:
    epochs = {} if architecture == "linear" else {"epochs": 4, "batch_size": 16}
    folder, record = evaluated(storage, dataset, architecture, **epochs)
    evaluation = read_json(folder / "evaluation.json")
    assert len(evaluation["classes"]) == 8
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        for split in ("validation", "test"):
            labels, predicted = arrays[f"{split}_label"], arrays[f"{split}_predicted"]
            assert len(labels) == len(predicted) == len(arrays[f"{split}_reliable"]) == 125
            expected = sklearn.balanced_accuracy_score(labels, predicted)
            assert record.result[f"{split}_balanced_accuracy"] == pytest.approx(expected, abs=1e-9)
            assert evaluation[split]["balanced_accuracy"] == record.result[f"{split}_balanced_accuracy"]
            assert sum(evaluation[split]["support"]) == 125
            assert expected > 1.5 / 8
    names = ("loss", "balanced_accuracy", "accuracy", "macro_f1", "top5", "brier", "calibration_error")
    assert record.result.keys() == {
        "temperature",
        *(f"test_calibrated_{name}" for name in ("loss", "brier", "calibration_error")),
        *(f"{split}_{name}" for split in ("validation", "test") for name in names),
    }


def test_the_kept_epoch_is_the_one_evaluated(storage: Storage, dataset: str) -> None:
    settings_ = {"epochs": 12, "batch_size": 4, "learning_rate": 0.1, "freeze_embeddings": False}
    for keep in ("best", "last"):
        folder, record = evaluated(storage, dataset, "mlp", keep=keep, **settings_)
        train = read_record(storage.run(read_json(folder / "task.json")["settings"]["train"]))
        assert train is not None
        assert record.result["validation_balanced_accuracy"] == pytest.approx(
            train.result["validation_balanced_accuracy"], abs=1e-9
        )
        assert record.result["validation_loss"] == pytest.approx(train.result["validation_loss"], abs=1e-5)


def test_a_stop_between_splits_pauses(storage: Storage, dataset: str) -> None:
    folder, _ = evaluated(storage, dataset, "mlp", epochs=2)
    task = Task.read(folder)
    with pytest.raises(TaskInterruptedError, match="before the validation titles"):
        evaluate.run(context_of(task, storage, interrupted=lambda: True))


def test_a_damaged_model_is_an_error_that_names_it(storage: Storage, dataset: str) -> None:
    folder, _ = evaluated(storage, dataset, "mlp", epochs=2, seed=9)
    task = Task.read(folder)
    model = storage.run(task.settings["train"]) / "model.pt"
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.pt: damaged, train the run again"):
        evaluate.run(context_of(task, storage))
