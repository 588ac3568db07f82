"""The lazy optimiser against torch's dense Adam."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from jobs.models.layers import WordEmbedding
from jobs.training.optimiser import Optimiser, make
from jobs.training.settings import TrainingSettings

CPU = torch.device("cpu")
ROWS, SIZE, RATE = 40, 6, 0.01


class Toy(nn.Module):
    """Word vectors and one layer; the loss is linear in them, so that rounding is not amplified."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        vectors = torch.randn(ROWS, SIZE)
        vectors[0] = 0
        self.words = WordEmbedding(vectors, frozen=False, scale=1.0, dropout=0.0)
        self.layer = nn.Linear(SIZE, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.words(tokens)


def tokens_at(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    # Some words are used to the end, some only at first, some never.
    high = 30 if step < 100 else 20
    return torch.randint(1, high, (1, 4), generator=generator)


def take(model: nn.Module, read: Callable[[Tensor], Tensor], step: int) -> None:
    tokens = tokens_at(step)
    generator = torch.Generator().manual_seed(step)
    slopes = torch.randn(1, 4, SIZE, generator=generator)
    ((read(tokens) * slopes).sum() + (model.layer(slopes[0]) * slopes[0, :, :3]).sum()).backward()


def run(model: Toy, adam: Optimiser, steps: range) -> None:
    for step in steps:
        adam.zero_grad()
        take(model, model, step)
        adam.step()


def dense(steps: int, *, weight_decay: float = 0.0) -> Toy:
    model = Toy()
    adam = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=weight_decay)
    for step in range(steps):
        adam.zero_grad()
        take(model, lambda tokens: nn.functional.embedding(tokens, model.words.weight, padding_idx=0), step)
        adam.step()
    return model


def lazy(weight_decay: float = 0.0) -> tuple[Toy, Optimiser]:
    model = Toy()
    return model, make(model, TrainingSettings(learning_rate=RATE, weight_decay=weight_decay), CPU)


@pytest.mark.parametrize("steps", [1, 2, 30, 400])
def test_ends_where_dense_adam_does(steps: int) -> None:
    model, adam = lazy()
    run(model, adam, range(steps))
    adam.flush()
    expected = dense(steps)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_flush_ends_at_the_same_vectors_however_often_it_is_called() -> None:
    model, adam = lazy()
    other, often = lazy()
    run(model, adam, range(150))
    for step in range(150):
        run(other, often, range(step, step + 1))
        often.flush()
    adam.flush()
    torch.testing.assert_close(model.words.weight, other.words.weight, rtol=0, atol=1e-5)


def test_flushing_twice_changes_nothing() -> None:
    model, adam = lazy()
    run(model, adam, range(50))
    adam.flush()
    before = model.words.weight.detach().clone()
    adam.flush()
    assert torch.equal(model.words.weight, before)


def test_the_l2_term_counts_where_a_word_is_used() -> None:
    model, adam = lazy(weight_decay=0.1)
    run(model, adam, range(20))
    adam.flush()
    never = ~torch.isin(torch.arange(ROWS), torch.cat([tokens_at(step).view(-1) for step in range(20)]))
    assert torch.equal(model.words.weight[never], Toy().words.weight[never])
    torch.testing.assert_close(model.layer.weight, dense(20, weight_decay=0.1).layer.weight, rtol=0, atol=1e-5)
    # A word in every batch: dense Adam to the letter.
    one, other = lazy(weight_decay=0.1), Toy()
    adam = torch.optim.Adam(other.parameters(), lr=RATE, weight_decay=0.1)
    for _ in range(10):
        for model, optimiser, read in (
            (one[0], one[1], one[0]),
            (other, adam, lambda tokens: nn.functional.embedding(tokens, other.words.weight)),
        ):
            optimiser.zero_grad()
            ((read(torch.tensor([[7]])) ** 2).sum() + model.layer.weight.sum() + model.layer.bias.sum()).backward()
            optimiser.step()
    torch.testing.assert_close(one[0].words.weight[7], other.words.weight[7], rtol=0, atol=1e-6)


def test_word_vectors_on_a_gpu_follow_the_same_rule() -> None:
    """The whole-matrix way of a GPU, run here on a CPU with dense gradients."""
    model, adam = lazy(weight_decay=0.1)
    run(model, adam, range(30))
    adam.flush()
    other = Toy()
    whole = Optimiser(other, learning_rate=RATE, weight_decay=0.1, device=torch.device("cuda"))

    def read(tokens: Tensor) -> Tensor:
        other.words.used = tokens
        return nn.functional.embedding(tokens, other.words.weight, padding_idx=0)

    for step in range(30):
        whole.zero_grad()
        take(other, read, step)
        whole.step()
    torch.testing.assert_close(model.words.weight, other.words.weight, rtol=0, atol=1e-5)


def test_resumes_to_the_bit() -> None:
    model, adam = lazy(weight_decay=0.01)
    run(model, adam, range(60))
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(adam.state_dict())
    run(model, adam, range(60, 90))
    adam.flush()
    other, resumed = lazy(weight_decay=0.01)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    run(other, resumed, range(60, 90))
    resumed.flush()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_pass_without_a_step_leaves_no_trace() -> None:
    model, adam = lazy()
    run(model, adam, range(10))
    before = copy.deepcopy((model.state_dict(), adam.state_dict()))
    model(tokens_at(3)).sum().backward()
    after = (model.state_dict(), adam.state_dict())
    assert torch.equal(before[0]["words.weight"], after[0]["words.weight"])
    for ours, theirs in zip(before[1]["parts"][1].values(), after[1]["parts"][1].values(), strict=True):
        assert torch.equal(ours[0], theirs[0])


def test_the_gradient_has_a_row_for_each_distinct_word() -> None:
    model, _ = lazy()
    model(torch.tensor([[4, 9, 4]])).sum().backward()
    gradient = model.words.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert gradient.to_dense()[[4, 9, 5], 0].tolist() == [2.0, 1.0, 0.0]


def test_the_state_survives_a_weights_only_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, adam = lazy()
    run(model, adam, range(5))
    torch.save(adam.state_dict(), tmp_path / "state.pt")
    _, other = lazy()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.state_dict()["parts"][1]["last"][0], adam.state_dict()["parts"][1]["last"][0])


def test_refuses_another_models_state() -> None:
    _, adam = lazy()
    with pytest.raises(ValueError, match="another model"):
        adam.load_state_dict({"parts": []})
