"""What every optimiser must keep to; see ``contracts``, which names these checks without importing torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jobs.models.layers import WordEmbedding
from jobs.plugins import OPTIMISERS
from jobs.testing.contracts import require
from jobs.training.optimiser import Optimiser
from jobs.training.optimisers import OptimiserSettings, Update

ROWS, SIZE, STEPS, RATE, DECAY = 40, 6, 60, 0.01, 0.01
CPU = torch.device("cpu")


class Toy(nn.Module):
    """Word vectors and one layer; its loss is linear in both, so that rounding is not amplified."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        vectors = torch.randn(ROWS, SIZE) / 4
        vectors[0] = 0
        self.words = WordEmbedding(vectors, frozen=False, scale=1.0, dropout=0.0)
        self.layer = nn.Linear(SIZE, 3)

    def loss(self, step: int) -> Tensor:
        """Of a batch that is the same for a step; most words are left out of most steps."""
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(1, ROWS, (1, 4), generator=generator)
        slopes = torch.randn(1, 4, SIZE, generator=generator)
        total: Tensor = (self.words(tokens) * slopes).sum() + self.layer(slopes[0]).sum()
        return total


def _rule(name: str) -> OptimiserSettings:
    made = OPTIMISERS.settings(name)()
    require(isinstance(made, OptimiserSettings), "Settings does not inherit jobs.training.optimisers.OptimiserSettings")
    rule: OptimiserSettings = made
    return rule


def _trained(name: str, steps: int, *, cut: int | None = None, decay: float = DECAY) -> list[Tensor]:
    """The weights after some steps; with ``cut``, those of a run that was saved there and goes on in another."""
    model = Toy()

    def make(of: Toy) -> Optimiser:
        # Of new settings each: another process goes on, which has nothing but what was saved.
        return Optimiser(of, _rule(name), rates=RATE, weight_decay=decay, device=CPU)

    optimiser = make(model)
    for step in range(steps):
        if step == cut:
            weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimiser.state_dict())
            model = Toy()
            optimiser = make(model)
            model.load_state_dict(weights)
            optimiser.load_state_dict(state)
        optimiser.set_rate(step)
        optimiser.zero_grad()
        model.loss(step).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    optimiser.flush()
    return [weight.detach().clone() for weight in model.parameters()]


def moves_weights(name: str) -> None:
    """See ``contracts.OPTIMISER_CHECKS``, as for all below."""
    rule = _rule(name)
    weight, slope = torch.ones(3), torch.tensor([1.0, -1.0, 2.0])
    states: Sequence[list[Tensor]] = [[torch.zeros(3)] for _ in rule.state_names()]
    before, address = weight.clone(), weight.data_ptr()
    for step in range(20):
        rule.step(Update([weight], [slope.clone()], states, [torch.tensor(float(step))], RATE, 0.0))
    require(weight.data_ptr() == address and bool(weight.isfinite().all()), "weights are not moved in place")
    require(bool(((weight - before) * slope < 0).all()), "weights do not move against their gradients")
    require(all(state[0].shape == weight.shape for state in states), "a state has not its weight's shape")


def goes_on_to_the_bit(name: str) -> None:
    whole, resumed = _trained(name, STEPS), _trained(name, STEPS, cut=STEPS // 2)
    require(all(map(torch.equal, whole, resumed)), "a run that was saved and goes on ends with other bits")


def lazy_is_dense(name: str) -> None:
    for decay in (0.0, DECAY):
        rule = _rule(name)
        if rule.dense_because(RATE, decay) is not None:
            continue
        lazy = _trained(name, STEPS, decay=decay)
        model = Toy()
        states = [[torch.zeros_like(weight) for weight in model.parameters()] for _ in rule.state_names()]
        counts = [torch.zeros(()) for _ in model.parameters()]
        for step in range(STEPS):
            model.zero_grad()
            model.loss(step).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                weights = [weight.data for weight in model.parameters()]
                slopes = [weight.grad.to_dense() for weight in model.parameters() if weight.grad is not None]
                rule.step(Update(weights, slopes, states, counts, RATE, decay))
        off = max(
            float((one - other.detach()).abs().max()) for one, other in zip(lazy, model.parameters(), strict=True)
        )
        require(off <= 1e-4, f"word vectors that were caught up are off by {off:.2g} from those moved in every step")
