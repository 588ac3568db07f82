"""What our own networks keep to beyond the contract of every network, which ``test_plugins`` holds them to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from network_fixture import CPU, NETWORKS, build, draw_titles, make_batch, score
from torch import nn

from jobs import models
from jobs.data.batches import Batch
from jobs.plugins import MODELS
from jobs.settings import DataShape
from jobs.testing import settings_with
from jobs.training import optimiser
from jobs.training.settings import TrainingSettings


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def train(model: nn.Module, batch: Batch, steps: int, **settings: Any) -> optimiser.Optimiser:
    adam = optimiser.make(model, TrainingSettings(**{"learning_rate": 0.01, **settings}), CPU)
    model.train()
    for _ in range(steps):
        adam.zero_grad()
        nn.functional.cross_entropy(model(batch), batch.labels).backward()
        adam.step()
    adam.flush()
    return adam


@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_vectors_stay_and_are_not_saved(name: str) -> None:
    model, batch = build(name), make_batch(draw_titles(12))
    before = model.words.weight.clone()
    train(model, batch, 3)
    assert torch.equal(model.words.weight, before)
    assert not any("words" in part for part in model.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_after_more_training_uses_the_new_weights(name: str) -> None:
    model, batch = build(name), make_batch(draw_titles(12))
    first = score(model, batch)
    train(model, batch, 1)
    fresh = build(name)
    fresh.load_state_dict(model.state_dict())
    assert not torch.equal(first, score(model, batch))
    torch.testing.assert_close(score(fresh, batch), score(model, batch))
    # Weights that are loaded between two evaluations count too.
    model.load_state_dict(build(name).state_dict())
    torch.testing.assert_close(score(model, batch), first)


@pytest.mark.parametrize("name", NETWORKS)
def test_prediction_without_padding_does_not_depend_on_what_lay_in_memory(
    name: str,
) -> None:
    # Deterministic algorithms, on for this module, fill fresh memory with NaN.
    titles = [title[:3] for title in draw_titles(30) if len(title) >= 3]
    expected = score(build(name), make_batch(titles, width=6))
    torch.testing.assert_close(score(build(name), make_batch(titles)), expected)


def test_settings_are_read_without_torch_or_scikit_learn() -> None:
    code = (
        "import sys; from jobs import models, plugins; [models.all_settings(name) for name in plugins.MODELS.names()]; "
        "sys.exit(bool({'torch', 'sklearn', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", MODELS.names())
def test_defaults_are_sound_and_documented(name: str) -> None:
    settings = models.all_settings(name)
    assert len({setting.name for setting in settings}) == len(settings)
    assert all(setting.doc for setting in settings)
    assert settings_with(name).check(DataShape(max_length=32, vector_size=12)) is None
