"""Word vectors that stay as they were read for some epochs, and are trained from then on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_optimiser import ROWS, SIZE, Toy, take
from torch import nn
from training_fixture import context_of, publish_dataset, train_task

from jobs.context import TaskInterruptedError
from jobs.data.dataset import Dataset
from jobs.settings import DataShape, deciding
from jobs.stages import train
from jobs.storage import Storage
from jobs.testing import settings_with
from jobs.training import checkpoint
from jobs.training.optimiser import Optimiser
from jobs.training.optimisers import adam, adamw, sgd

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "epochs": 4, "batch_size": 32, "freeze_embeddings": False, "keep": "last", "patience_chance": 50
}  # fmt: skip


def run(storage: Storage, architecture: str, dataset: str, **settings: Any) -> Path:
    task = train_task(architecture, dataset, **{**SETTINGS, **settings})
    train.run(context_of(task, storage))
    return storage.run(task.id)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "rnn"])
def test_vectors_are_frozen_first_and_trained_then(tmp_path: Path, architecture: str) -> None:
    storage = Storage(tmp_path)
    dataset = publish_dataset(storage)
    read = torch.from_numpy(Dataset.open(storage.dataset(dataset)).vectors().copy())
    frozen = run(storage, architecture, dataset, freeze_embeddings=True)
    whole, half = (run(storage, architecture, dataset, freeze_epochs=epochs) for epochs in (4, 2))
    assert losses(whole) == pytest.approx(losses(frozen), abs=1e-6)
    assert losses(half)[:2] == losses(whole)[:2] and losses(half)[3] < losses(whole)[3]
    (kept,), (moved,) = (
        [value for name, value in checkpoint.read_model(folder / checkpoint.MODEL).items() if name == "words.weight"]
        for folder in (whole, half)
    )
    assert torch.equal(kept, read)
    # Each word but the padding's, and none by much: two epochs.
    assert (moved != read).any(1).tolist() == [False] + [True] * (len(read) - 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.2},
        {"optimiser": "adamw", "weight_decay": 0.1, "schedule": "warmup_cosine", "gradient_clip": 0.5},
        {"optimiser": {"sgd": {"nesterov": True}}, "learning_rate": 0.05},
    ],
)
def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path: Path, settings: dict[str, Any]) -> None:
    ended = []
    for stops in ((), (5, 19, 16, 14)):  # before, at the end of, and after the epochs of frozen vectors
        storage = Storage(tmp_path / str(len(stops)))
        dataset = publish_dataset(storage)
        task = train_task("mlp", dataset, **{**SETTINGS, "freeze_epochs": 2, **settings})
        for after in stops:
            asked = iter(range(after))
            with pytest.raises(TaskInterruptedError):
                train.run(context_of(task, storage, interrupted=lambda asked=asked: next(asked, None) is None))
        train.run(context_of(task, storage))
        ended.append(checkpoint.read_model(storage.run(task.id) / checkpoint.MODEL))
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])


@pytest.mark.parametrize(
    ("rule", "reference", "decay", "tolerance"),
    [
        (adam.Settings(), torch.optim.Adam, 0.0, 2e-6),
        (adamw.Settings(), torch.optim.AdamW, 0.05, 2e-6),
        (sgd.Settings(momentum=0.9), lambda *a, **k: torch.optim.SGD(*a, momentum=0.9, **k), 0.0, 2e-6),
    ],
)
@pytest.mark.parametrize("lazy", [True, False])
def test_they_begin_as_those_of_a_dense_optimiser_that_is_made_then(
    rule: Any, reference: Any, decay: float, tolerance: float, lazy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, start = 90, 30
    rates = [0.01 * (1 - step / steps) for step in range(steps)]
    if not lazy:
        monkeypatch.setattr(type(rule), "dense_because", lambda *_: "is asked to be dense here")
    model, plain = Toy(), Toy()
    model.words.waits = True
    ours = Optimiser(model, rule, rates=rates, weight_decay=decay, device=CPU, start=start)
    layer = reference(plain.layer.parameters(), lr=0.01, weight_decay=decay)
    words: Any = None
    for step in range(steps):
        model.words.hold(held=step < start)
        ours.set_rate(step)
        ours.zero_grad()
        take(model, model, step)
        ours.step()
        if step == start:
            words = reference([plain.words.weight], lr=0.01, weight_decay=decay)
        plain.zero_grad()
        take(plain, lambda tokens: nn.functional.embedding(tokens, plain.words.weight, padding_idx=0), step)
        for optimiser in (layer, words):
            if optimiser is not None:
                optimiser.param_groups[0]["lr"] = rates[step]
                optimiser.step()
    ours.flush()
    assert model.words.weight.shape == (ROWS, SIZE)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=tolerance)


def test_the_setting_is_in_no_id_where_it_does_nothing() -> None:
    assert "freeze_epochs" not in deciding(settings_with("cnn", freeze_embeddings=False))
    assert "freeze_epochs" not in deciding(settings_with("cnn", freeze_epochs=2))
    assert deciding(settings_with("cnn", freeze_epochs=2, freeze_embeddings=False))["freeze_epochs"] == 2
    varied = deciding(settings_with("cnn", freeze_epochs=2), varied=frozenset({"freeze_embeddings"}))
    assert varied["freeze_epochs"] == 2


def test_it_is_refused_where_it_could_not_be_done() -> None:
    words, tokens = (DataShape(max_length=32, vector_size=8, encoder=encoder) for encoder in (False, True))
    assert "with compile: true" in str(settings_with("cnn", freeze_epochs=1, compile=True).problem(words))
    assert "an encoder is frozen or trained" in str(settings_with("encoder", freeze_epochs=1).problem(tokens))
    assert settings_with("cnn", freeze_epochs=1).problem(words) is None
