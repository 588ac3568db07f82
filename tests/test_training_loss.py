"""The loss of a training step: smoothed labels, weights of categories and of titles whose labels are unreliable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from network_fixture import CLASSES, draw_titles, make_batch
from training_fixture import context_of, train_task

from jobs.data.dataset import Dataset, Split
from jobs.settings import deciding
from jobs.stages import train
from jobs.storage import Storage
from jobs.testing import settings_with
from jobs.training.loss import PLAIN, Loss, make
from jobs.training.settings import TrainingSettings

LABELS = np.array([0, 0, 0, 0, 1, 2], np.uint16)  # one category of four titles, two of one
SUPPORT = np.array([4, 1, 1])
BASELINES = ("label_smoothing", "class_weights", "unreliable_weight")


def split(reliable: list[int]) -> Split:
    """A training split of six titles of one token each."""
    return Split(
        name="train",
        tokens=np.full(6, 2, np.uint16),
        offsets=np.arange(7),
        labels=LABELS,
        reliable=np.array(reliable, np.uint8),
    )


def weights(reliable: list[int], **given: object) -> list[float] | None:
    """The weights of the six titles, as a share of all."""
    settings = settings_with("mlp", **given)
    assert isinstance(settings, TrainingSettings)
    made = make(settings, split(reliable), SUPPORT, torch.device("cpu")).weights
    if made is None:
        return None
    assert float(made.mean()) == pytest.approx(1)
    return [round(share, 5) for share in (made / made.sum()).tolist()]


@pytest.mark.parametrize(
    ("given", "reliable", "expected"),
    [
        ({}, [1, 1, 0, 1, 1, 1], None),
        ({"unreliable_weight": 0.5}, [1] * 6, None),
        ({"unreliable_weight": 0.5}, [1, 1, 0, 0, 1, 1], [0.2, 0.2, 0.1, 0.1, 0.2, 0.2]),
        ({"unreliable_weight": 0.0}, [1, 1, 0, 0, 1, 1], [0.25, 0.25, 0, 0, 0.25, 0.25]),
        ({"unreliable_weight": 0.0}, [0] * 6, None),
        ({"class_weights": "balanced"}, [1] * 6, [0.08333] * 4 + [0.33333] * 2),
        ({"class_weights": "square_root"}, [1] * 6, [0.125] * 4 + [0.25] * 2),
        ({"class_weights": "balanced", "unreliable_weight": 0.5}, [1] * 5 + [0], [0.1] * 4 + [0.4, 0.2]),
    ],
)
def test_what_each_title_weighs(given: dict[str, object], reliable: list[int], expected: list[float] | None) -> None:
    assert weights(reliable, **given) == expected


def test_a_weighted_loss_is_the_mean_of_weighted_losses() -> None:
    batch, logits = make_batch(draw_titles(6)), torch.randn(6, CLASSES)
    each = -torch.log_softmax(logits, 1)[torch.arange(6), batch.labels]
    assert torch.allclose(PLAIN(logits, batch), each.mean())
    light = torch.tensor([0.5, 2.0, 1.0, 0.0, 1.5, 1.0])
    assert torch.allclose(Loss(weights=light)(logits, batch), (each * light).mean())
    # By the titles' rows, not by their places in the batch.
    turned = replace(batch, rows=batch.rows.flip(0))
    assert torch.allclose(Loss(weights=light)(logits, turned), (each * light.flip(0)).mean())


@pytest.mark.parametrize("weighted", [False, True])
def test_smoothing_spreads_a_share_of_the_target_over_all_categories(weighted: bool) -> None:
    batch, logits = make_batch(draw_titles(6)), torch.randn(6, CLASSES)
    log_chance = torch.log_softmax(logits, 1)
    expected = -(0.8 * log_chance[torch.arange(6), batch.labels] + 0.2 * log_chance.mean(1)).mean()
    loss = Loss(smoothing=0.2, weights=torch.ones(6) if weighted else None)
    assert torch.allclose(loss(logits, batch), expected)


def test_none_of_them_is_in_an_id_until_it_is_used() -> None:
    plain = deciding(settings_with("cnn"))
    assert not any(name in plain for name in BASELINES)
    used = deciding(settings_with("cnn", label_smoothing=0.1, class_weights="balanced", unreliable_weight=0.5))
    assert {name: used[name] for name in BASELINES} == {
        "label_smoothing": 0.1,
        "class_weights": "balanced",
        "unreliable_weight": 0.5,
    }


@pytest.mark.parametrize(
    "given", [{"label_smoothing": 0.1}, {"class_weights": "square_root"}, {"unreliable_weight": 0.2}]
)
def test_a_run_is_trained_by_it(storage: Storage, dataset: str, given: dict[str, object]) -> None:
    losses = []
    for settings in ({}, given):
        task = train_task("mlp", dataset, epochs=1, freeze_embeddings=False, patience_chance=9, **settings)
        losses.append(train.run(context_of(task, storage)).result["train_loss"])
    assert losses[0] != losses[1]
    assert (np.asarray(Dataset.open(storage.dataset(dataset)).splits["train"].reliable) == 0).any()
