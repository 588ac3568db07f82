"""A run's optimiser on another kind of device: the state of a CPU's lazy vectors and of a GPU's dense ones."""

from __future__ import annotations

import copy

import pytest
import torch
from test_optimiser import CPU, OPTIMISERS, RATE, STEPS, Toy, run, settings_of, train_ours
from torch import Tensor

from jobs.training.optimiser import Optimiser, OptimiserState, make
from jobs.training.optimisers import OptimiserSettings
from jobs.training.schedules import warmup_cosine
from jobs.training.settings import TrainingSettings
from sharedfs.errors import InputError

# Of the type alone: the model and its states stay on the CPU, and the word vectors are a GPU's dense ones.
GPU = torch.device("cuda")


def begin(device: torch.device, decay: float = 0.0) -> tuple[Toy, Optimiser]:
    model = Toy()
    return model, make(model, TrainingSettings(learning_rate=RATE, weight_decay=decay), device)


def saved(model: Toy, adam: Optimiser) -> tuple[dict[str, Tensor], OptimiserState]:
    return copy.deepcopy(model.state_dict()), copy.deepcopy(adam.state_dict())


@pytest.mark.parametrize("devices", [(CPU, GPU), (GPU, CPU), (CPU, GPU, CPU), (GPU, CPU, GPU)])
@pytest.mark.parametrize("cut", [1, 7, 130])  # from 100 on, words of before are used no more
def test_a_run_that_changes_devices_ends_where_one_that_stays_does(devices: tuple[torch.device, ...], cut: int) -> None:
    model, adam = begin(GPU)
    run(model, adam, range(cut * len(devices)))
    moved, mover = begin(devices[0])
    for number, device in enumerate(devices):
        if number:
            weights, state = saved(moved, mover)
            moved, mover = begin(device)
            moved.load_state_dict(weights)
            mover.load_state_dict(state)
        run(moved, mover, range(number * cut, (number + 1) * cut))
    mover.flush()
    for ours, expected in zip(moved.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("devices", [(CPU, GPU, CPU), (GPU, CPU, GPU)])
@pytest.mark.parametrize(("rule", "decay"), [(rule, decay) for rule, decay, _, is_lazy in OPTIMISERS if is_lazy])
def test_every_optimiser_with_a_schedule_changes_devices(
    rule: OptimiserSettings, decay: float, devices: tuple[torch.device, ...]
) -> None:
    settings = settings_of(rule, warmup_cosine.Settings(warmup=0.2), decay)
    expected, moved = Toy(scale=0.2), Toy(scale=0.2)
    train_ours(expected, make(expected, settings, GPU, steps=STEPS), range(330))
    mover = make(moved, settings, devices[0], steps=STEPS)
    # Cut while words 8 to 11 still move by their momentum, and once they are at rest.
    for number, steps in enumerate((range(105), range(105, 310), range(310, 330))):
        if number:
            weights, state = saved(moved, mover)
            moved = Toy(scale=0.2)
            mover = make(moved, settings, devices[number], steps=STEPS)
            moved.load_state_dict(weights)
            mover.load_state_dict(state)
        train_ours(moved, mover, steps)
    mover.flush()
    for ours, other in zip(moved.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)


def test_a_state_that_moves_there_and_back_is_the_flushed_one() -> None:
    model, adam = begin(CPU)
    run(model, adam, range(130))
    there, there_adam = begin(GPU)
    there.load_state_dict(copy.deepcopy(model.state_dict()))
    there_adam.load_state_dict(copy.deepcopy(adam.state_dict()))
    adam.flush()
    assert all(torch.equal(one, other) for one, other in zip(there.parameters(), model.parameters(), strict=True))
    back, back_adam = begin(CPU)
    back.load_state_dict(copy.deepcopy(there.state_dict()))
    back_adam.load_state_dict(copy.deepcopy(there_adam.state_dict()))
    for one, other in zip(back_adam.state_dict()["parts"], adam.state_dict()["parts"], strict=True):
        assert all(
            torch.equal(a, b) for name in one if name != "last" for a, b in zip(one[name], other[name], strict=True)
        )


@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_state_of_another_model_is_still_refused(device: torch.device) -> None:
    _, adam = begin(device)
    state = copy.deepcopy(adam.state_dict())
    state["parts"][1]["means"][0] = torch.zeros(3, 3)
    with pytest.raises(InputError, match="of another model or another optimiser"):
        adam.load_state_dict(state)
