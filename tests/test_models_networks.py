"""What every network must keep to, found by name in jobs/models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from network_fixture import CLASSES, CPU, NETWORKS, build, draw_titles, make_batch, score
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


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 5])
def test_gives_a_logit_for_each_title_and_category(name: str, frozen: bool, count: int) -> None:
    model = build(name, freeze_embeddings=frozen)
    batch = make_batch(draw_titles(count))
    assert model(batch).shape == (count, CLASSES)
    assert score(model, batch).shape == (count, CLASSES)


@pytest.mark.parametrize("name", NETWORKS)
def test_neither_padding_nor_company_changes_a_prediction(name: str) -> None:
    model, titles = build(name, freeze_embeddings=False), draw_titles(20)
    together = score(model, make_batch(titles))
    padded = score(model, make_batch(titles, width=31))
    alone = torch.cat([score(model, make_batch([title])) for title in titles])
    backwards = score(model, make_batch(titles[::-1])).flip(0)
    for other in (padded, alone, backwards):
        torch.testing.assert_close(other, together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_and_evaluation_compute_the_same_without_dropout(name: str, frozen: bool) -> None:
    model, batch = build(name, freeze_embeddings=frozen, dropout=0.0), make_batch(draw_titles(9))
    torch.testing.assert_close(model(batch).detach(), score(model, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_is_on_in_training_alone(name: str) -> None:
    model, batch = build(name, dropout=0.5, embedding_dropout=0.3, word_dropout=0.3), make_batch(draw_titles(9))
    assert not torch.equal(model(batch), model(batch))
    assert torch.equal(score(model, batch), score(model, batch))


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_learns_fifty_titles_by_heart(name: str, frozen: bool) -> None:
    model, batch = build(name, freeze_embeddings=frozen, dropout=0.0), make_batch(draw_titles(50))
    train(model, batch, 60)
    assert score(model, batch).argmax(1).tolist() == batch.labels.tolist()


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_saved_and_loaded_predict_the_same(name: str, frozen: bool) -> None:
    model, batch = build(name, freeze_embeddings=frozen), make_batch(draw_titles(12))
    train(model, batch, 3)
    other = build(name, freeze_embeddings=frozen)
    assert not torch.equal(score(other, batch), score(model, batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(score(other, batch), score(model, batch))


@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_vectors_stay_and_are_not_saved(name: str) -> None:
    model, batch = build(name), make_batch(draw_titles(12))
    before = model.words.weight.clone()
    train(model, batch, 3)
    assert torch.equal(model.words.weight, before)
    assert not any("words" in part for part in model.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_trained_vectors_move_where_a_title_has_the_word_and_padding_stays_zero(name: str) -> None:
    model, batch = build(name, freeze_embeddings=False), make_batch([[5, 6, 7], [8]])
    before = model.words.weight.detach().clone()
    train(model, batch, 2)
    moved = (model.words.weight != before).any(1).nonzero().view(-1).tolist()
    assert moved == [5, 6, 7, 8]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_the_same_to_the_bit_again(name: str) -> None:
    weights = []
    for _ in range(2):
        model = build(name, freeze_embeddings=False, dropout=0.3)
        train(model, make_batch(draw_titles(40)), 5)
        weights.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_hidden_layer_is_allowed(name: str) -> None:
    model = build(name, hidden_layers=[])
    assert sum(isinstance(module, nn.Linear) for module in model.head.modules()) == 1


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
