"""Every way a training run can end early, and what it says then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from training_fixture import context_of, train_task

from jobs import entry, metrics_log
from jobs.context import TaskFailedError
from jobs.data.dataset import Dataset
from jobs.stages import train as stage
from jobs.storage import Storage
from jobs.task import read_record
from jobs.training import checkpoint, run, stops, trainer

# Many layers whose weights grow by ten at every step overflow within a few of them.
EXPLODING: dict[str, Any] = {"learning_rate": 10.0, "hidden_layers": [64] * 24, "batch_size": 8}

pytestmark = pytest.mark.usefixtures("one_core")


def trained(storage: Storage, architecture: str, dataset: str, **settings: Any) -> run.TrainResult:
    context = context_of(train_task(architecture, dataset, **settings), storage)
    opened = Dataset.open(storage.dataset(dataset))
    return run.train(context, recipe=stage.recipe_of(storage, context.task), dataset=opened, folder=context.folder)


def test_a_loss_that_is_no_number_stops_the_run_at_once(storage: Storage, dataset: str) -> None:
    with pytest.raises(
        TaskFailedError, match=r"training loss is NaN or infinite at epoch 1, step \d+; gradient norm"
    ) as caught:
        trained(storage, "mlp", dataset, **EXPLODING, patience_chance=99)
    assert caught.value.cause == "diverged"
    assert 1 <= caught.value.details["step"] <= 75
    assert caught.value.details["gradient_norm"] is not None


def test_a_diverged_run_is_a_failed_record_with_step_and_gradient_norm(storage: Storage, dataset: str) -> None:
    task = train_task("mlp", dataset, **EXPLODING)
    folder = task.write(storage)
    assert entry.run(folder) == 1
    record = read_record(folder)
    assert record is not None
    assert (record.state, record.cause) == ("failed", "diverged")
    assert {"epoch", "step", "gradient_norm"} <= record.result.keys()


def test_a_run_at_chance_is_stopped_with_what_was_seen(
    storage: Storage, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_units(model: torch.nn.Module, *_: Any) -> torch.nn.Module:
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.constant_(module.bias, -1e3 if module.out_features == 16 else 0.0)
        return model

    built = trainer.build_network
    monkeypatch.setattr(trainer, "build_network", lambda *words, **named: kill_units(built(*words, **named)))
    with pytest.raises(TaskFailedError, match="no better than chance; dead units: ") as caught:
        trained(storage, "mlp", dataset, epochs=20, patience_chance=2)
    assert caught.value.cause == "at chance"
    details = caught.value.details
    assert details["epochs_run"] == 2
    assert list(details["dead_units"].values()) == [1.0]
    hidden = [norm for name, norm in details["gradient_norms"].items() if "head.0" in name]
    assert hidden
    assert not any(hidden)


def test_a_run_that_learns_is_not_at_chance(storage: Storage, dataset: str) -> None:
    assert trained(storage, "mlp", dataset, epochs=4, patience_chance=1, batch_size=16).figures["stopped"] is None


@pytest.mark.parametrize(
    ("balanced", "accuracy", "support", "expected"),
    [
        (1 / 632, 0.002, np.full(632, 10), True),
        (0.003, 0.003, np.full(632, 10), True),
        (0.003, 0.02, np.full(632, 10), False),  # knows some common categories
        (0.01, 0.003, np.full(632, 10), False),
        (0.5, 0.5, np.array([50, 50]), True),
        (0.6, 0.6, np.array([50, 50]), False),
        (0.5, 0.9, np.array([90, 10]), True),
        (0.25, 0.97, np.array([97, 1, 1, 1, 0]), True),
    ],
)
def test_chance_level_needs_both_figures(balanced: float, accuracy: float, support: np.ndarray, expected: bool) -> None:
    assert stops.at_chance(balanced, accuracy, support) is expected


def lines_of(scores: Sequence[float]) -> list[dict[str, float]]:
    return [{"validation_balanced_accuracy": score} for score in scores]


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ([], 1, False),
        ([0.1, 0.2, 0.3], 1, False),
        ([0.1, 0.3, 0.3], 1, True),
        ([0.3, 0.2, 0.25], 2, True),
        ([0.3, 0.2, 0.31], 2, False),
        ([0.3, 0.2, 0.1], None, False),
    ],
)
def test_patience_counts_epochs_since_the_best(scores: list[float], patience: int | None, expected: bool) -> None:
    assert stops.has_stalled(lines_of(scores), patience, "validation_balanced_accuracy") is expected


def test_patience_and_the_best_go_by_the_figure_that_selects() -> None:
    """The lowest loss is the best, and an epoch that lacks the figure is none."""
    lines = [{"validation_loss": loss} for loss in (1.0, 0.5, 0.7, 0.6)]
    assert stops.has_stalled(lines, 2, "validation_loss") and not stops.has_stalled(lines, 3, "validation_loss")
    assert stops.better(lines[1], lines[0], "validation_loss") and not stops.better(
        lines[2], lines[1], "validation_loss"
    )
    assert stops.better(lines[0], {"validation_loss": float("nan")}, "validation_loss")
    assert not stops.better({}, lines[0], "validation_loss")


@pytest.mark.parametrize("select_by", ["validation_balanced_accuracy", "validation_loss"])
def test_the_epoch_that_is_kept_is_the_best_by_what_selects(storage: Storage, dataset: str, select_by: str) -> None:
    """A search by loss ranked trials by one epoch and kept the weights of another."""
    task = train_task(
        "mlp", dataset, epochs=12, learning_rate=0.03, patience_chance=100, freeze_embeddings=False, select_by=select_by
    )
    assert entry.run(task.write(storage)) == entry.DONE
    record, lines = read_record(storage.run(task.id)), metrics_log.read(storage.run(task.id))
    assert record is not None
    values = [line[select_by] for line in lines]
    wanted = min(values) if select_by == "validation_loss" else max(values)
    assert record.result["kept_epoch"] == values.index(wanted) + 1
    assert record.result[select_by] == wanted


def test_early_stopping_keeps_the_best_epoch(storage: Storage, dataset: str) -> None:
    result = trained(storage, "mlp", dataset, epochs=60, patience=2, batch_size=8, freeze_embeddings=False)
    assert result.figures["stopped"] == stops.EARLY
    scores = [line["validation_balanced_accuracy"] for line in result.lines]
    assert result.figures["best_epoch"] == 1 + int(np.argmax(scores))
    assert result.figures["epochs_run"] == len(scores) == result.figures["best_epoch"] + 2
    assert result.figures["validation_balanced_accuracy"] == max(scores)


def test_keep_last_keeps_the_last_epoch(storage: Storage, dataset: str) -> None:
    settings: dict[str, Any] = {"epochs": 6, "batch_size": 8, "freeze_embeddings": False, "learning_rate": 0.05}
    last = trained(storage, "mlp", dataset, keep="last", **settings)
    best = trained(storage, "mlp", dataset, keep="best", **settings)
    assert last.figures["kept_epoch"] == 6
    assert last.figures["validation_loss"] == last.lines[-1]["validation_loss"]
    without = {"seconds", "titles_per_s", "ended"}
    assert [{k: v for k, v in line.items() if k not in without} for line in last.lines] == [
        {k: v for k, v in line.items() if k not in without} for line in best.lines
    ]


def test_a_search_can_stop_a_run_after_any_epoch(storage: Storage, dataset: str) -> None:
    context = context_of(train_task("mlp", dataset, epochs=9, seed=3), storage)
    result = run.train(
        context,
        recipe=stage.recipe_of(storage, context.task),
        dataset=Dataset.open(storage.dataset(dataset)),
        folder=context.folder,
        stop_callback=lambda lines: "stop" if len(lines) == 2 else None,
    )
    assert (result.figures["stopped"], result.figures["epochs_run"]) == (stops.SEARCH, 2)
    assert [line["epoch"] for line in metrics_log.read(context.folder)] == [1, 2]
    assert (context.folder / checkpoint.MODEL).exists()


def test_a_stopped_run_goes_on_as_if_never_stopped_when_the_search_changes_its_mind(
    storage: Storage, dataset: str
) -> None:
    context = context_of(train_task("mlp", dataset, epochs=4, seed=4, freeze_embeddings=False), storage)
    arguments: dict[str, Any] = {
        "recipe": stage.recipe_of(storage, context.task),
        "dataset": Dataset.open(storage.dataset(dataset)),
    }
    first = run.train(
        context, **arguments, folder=context.folder, stop_callback=lambda lines: "stop" if len(lines) == 2 else None
    )
    asked: list[int] = []
    again = run.train(context, **arguments, folder=context.folder, stop_callback=lambda lines: asked.append(len(lines)))
    alone = run.train(context, **arguments, folder=storage.runs)
    assert first.lines == again.lines[:2]
    assert asked == [2, 3, 4]
    without = {"seconds", "titles_per_s", "ended"}
    assert [{k: v for k, v in line.items() if k not in without} for line in again.lines] == [
        {k: v for k, v in line.items() if k not in without} for line in alone.lines
    ]


def test_bfloat16_learns_too(storage: Storage, dataset: str) -> None:
    result = trained(storage, "mlp", dataset, precision="bfloat16", epochs=4, batch_size=16)
    assert result.lines[-1]["train_loss"] < result.lines[0]["train_loss"]


def test_compile_without_a_gpu_is_reported_once_and_changes_no_bit(
    storage: Storage, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = trained(storage, "cnn", dataset, epochs=2, dropout=0.2, device="cpu")
    result = trained(storage, "cnn", dataset, epochs=2, dropout=0.2, device="cpu", compile=True)
    assert capsys.readouterr().err.count("compile: it takes a GPU, and this run has none") == 1
    assert result.figures["validation_loss"] == plain.figures["validation_loss"]
