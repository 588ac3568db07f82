"""Optimisers against torch's own dense ones, lazy or not; schedules against their formulas; clipping."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from jobs.models.layers import WordEmbedding
from jobs.plugins import OPTIMISERS as OPTIMISERS_ROOM
from jobs.plugins import SCHEDULES as SCHEDULES_ROOM
from jobs.training.loop import clip
from jobs.training.optimiser import Optimiser, make
from jobs.training.optimisers import OptimiserSettings, adam, adamw, sgd
from jobs.training.schedules import ScheduleSettings, constant, one_cycle, rates, warmup_cosine
from jobs.training.schedules import step as steps_down
from jobs.training.settings import TrainingSettings

CPU = torch.device("cpu")
ROWS, SIZE, RATE = 40, 6, 0.01
WHEN_USED = adam.Settings(vector_decay="when_used")


class Toy(nn.Module):
    """Word vectors and one layer; the loss is linear in them, so that rounding is not amplified."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        vectors = torch.randn(ROWS, SIZE) * scale
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
        adam.set_rate(step)
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
    return model, make(model, TrainingSettings(optimiser=WHEN_USED, learning_rate=RATE, weight_decay=weight_decay), CPU)


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
    whole = Optimiser(other, WHEN_USED, rates=RATE, weight_decay=0.1, device=torch.device("cuda"))

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


# Every optimiser and every schedule against torch's dense one.

STEPS = 1_000
SCHEDULES: tuple[ScheduleSettings, ...] = (
    constant.Settings(),
    warmup_cosine.Settings(warmup=0.2, final=0.05),
    one_cycle.Settings(),
    steps_down.Settings(parts=4, multiplier=0.3),
)
# Ours, its decay, torch's, and whether ours is lazy on a CPU.
OPTIMISERS: tuple[tuple[OptimiserSettings, float, Callable[..., torch.optim.Optimizer], bool], ...] = (
    (adam.Settings(), 0.0, torch.optim.Adam, True),
    (adam.Settings(), 0.01, torch.optim.Adam, False),
    (adam.Settings(beta1=0.8, beta2=0.99), 0.0, lambda *a, **k: torch.optim.Adam(*a, betas=(0.8, 0.99), **k), True),
    (adamw.Settings(), 0.01, torch.optim.AdamW, True),
    (adamw.Settings(), 3.0, torch.optim.AdamW, True),
    (adamw.Settings(), 50.0, torch.optim.AdamW, False),
    (sgd.Settings(), 0.0, lambda *a, **k: torch.optim.SGD(*a, momentum=0.9, **k), True),
    (sgd.Settings(momentum=0.8, nesterov=True), 0.0,
     lambda *a, **k: torch.optim.SGD(*a, momentum=0.8, nesterov=True, **k), True),
    (sgd.Settings(), 0.01, lambda *a, **k: torch.optim.SGD(*a, momentum=0.9, **k), False),
    (sgd.Settings(momentum=0.0), 0.0, torch.optim.SGD, True),
)  # fmt: skip


def sparse_tokens(step: int) -> Tensor:
    """Words 1 to 7 by chance; 8 to 11 for 100 steps and in the last ones; 12 once, long before the end; 13 never."""
    generator = torch.Generator().manual_seed(step)
    high = 12 if step < 100 or step > STEPS - 30 else 8
    tokens = torch.randint(1, high, (1, 4), generator=generator)
    if step == 300:
        tokens[0, 0] = 12
    return tokens


def take_sparse(model: Toy, step: int, *, dense: bool) -> None:
    tokens = sparse_tokens(step)
    slopes = torch.randn(1, 4, SIZE, generator=torch.Generator().manual_seed(step))
    rows = nn.functional.embedding(tokens, model.words.weight, padding_idx=0) if dense else model(tokens)
    ((rows * slopes).sum() + (model.layer(slopes[0]) * slopes[0, :, :3]).sum()).backward()


def train_ours(model: Toy, ours: Optimiser, steps: range) -> None:
    for number in steps:
        ours.set_rate(number)
        ours.zero_grad()
        take_sparse(model, number, dense=False)
        ours.step()


def settings_of(rule: OptimiserSettings, schedule: ScheduleSettings, decay: float) -> TrainingSettings:
    return TrainingSettings(optimiser=rule, schedule=schedule, learning_rate=RATE, weight_decay=decay)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__module__.rpartition(".")[2])
@pytest.mark.parametrize(("rule", "decay", "theirs", "is_lazy"), OPTIMISERS)
def test_ends_where_torchs_dense_one_does(
    rule: OptimiserSettings,
    decay: float,
    theirs: Callable[..., torch.optim.Optimizer],
    is_lazy: bool,
    schedule: ScheduleSettings,
) -> None:
    # Of the size of word vectors: decaying a number 1,000 times, torch's float32 is off by 2e-5 of it.
    model, expected = Toy(scale=0.2), Toy(scale=0.2)
    ours = make(model, settings_of(rule, schedule, decay), CPU, steps=STEPS)
    assert bool(ours._lazy) == is_lazy
    train_ours(model, ours, range(STEPS))
    ours.flush()
    dense_one = theirs(expected.parameters(), lr=RATE, weight_decay=decay)
    for number in range(STEPS):
        dense_one.param_groups[0]["lr"] = RATE * schedule.factor(number, STEPS)
        dense_one.zero_grad()
        take_sparse(expected, number, dense=True)
        dense_one.step()
    for mine, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES[:2])
@pytest.mark.parametrize(("rule", "decay", "_theirs", "_is_lazy"), OPTIMISERS[::3])
def test_every_optimiser_resumes_to_the_bit(
    rule: OptimiserSettings, decay: float, _theirs: object, _is_lazy: bool, schedule: ScheduleSettings
) -> None:
    settings = settings_of(rule, schedule, decay)
    model, other = Toy(), Toy()
    ours = make(model, settings, CPU, steps=STEPS)
    train_ours(model, ours, range(90))
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(ours.state_dict())
    train_ours(model, ours, range(90, 120))
    other.load_state_dict(weights)
    resumed = make(other, settings, CPU, steps=STEPS)
    resumed.load_state_dict(state)
    train_ours(other, resumed, range(90, 120))
    for each in (ours, resumed):
        each.flush()
    for mine, again in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, again)


def test_a_rate_that_changes_lies_on_a_gpu_in_one_tensor() -> None:
    """A captured graph reads it from there: it is written in place, and a constant one stays a number."""
    schedule = warmup_cosine.Settings()
    model, expected = Toy(), Toy()
    ours = Optimiser(
        model, sgd.Settings(), rates=rates(schedule, RATE, 50), weight_decay=0.0, device=torch.device("cuda")
    )
    tensor = ours._rate
    theirs = torch.optim.SGD(expected.parameters(), lr=RATE, momentum=0.9)
    for number in range(50):
        ours.set_rate(number)
        theirs.param_groups[0]["lr"] = RATE * schedule.factor(number, 50)
        for each, optimiser in ((model, ours), (expected, theirs)):
            optimiser.zero_grad()
            take_sparse(each, number, dense=True)
            optimiser.step()
    assert ours._rate is tensor and isinstance(tensor, Tensor)
    for mine, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def test_one_cycle_is_torchs() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1.0, total_steps=200)
    for number in range(200):
        assert one_cycle.Settings().factor(number, 200) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        if number < 199:
            theirs.step()


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        (constant.Settings(), 3, [1, 1, 1]),
        (warmup_cosine.Settings(warmup=0.3, final=0.2), 10, {0: 0.25, 2: 0.75, 3: 1, 6: 0.6, 9: 0.2}),
        (steps_down.Settings(parts=3, multiplier=0.5), 7, [1, 1, 1, 0.5, 0.5, 0.25, 0.25]),
        (warmup_cosine.Settings(), 1, [1]),
        (one_cycle.Settings(), 1, [1]),
    ],
)
def test_schedules(schedule: ScheduleSettings, steps: int, expected: list[float] | dict[int, float]) -> None:
    wanted = dict(enumerate(expected)) if isinstance(expected, list) else expected
    assert {number: schedule.factor(number, steps) for number in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("largest", [0.5, 1e6])
def test_clipping_is_torchs_with_sparse_gradients_too(largest: float) -> None:
    ours, theirs = Toy(), Toy()
    take_sparse(ours, 5, dense=False)
    take_sparse(theirs, 5, dense=True)
    gradients = [weight.grad for weight in ours.parameters() if weight.grad is not None]
    assert any(gradient.is_sparse for gradient in gradients)
    clip(gradients, largest)
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), largest)
    for mine, other in zip(gradients, theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.to_dense(), other.grad)


def test_a_parameter_without_a_gradient_is_named() -> None:
    model = Toy()
    ours = make(model, TrainingSettings(), CPU)
    model(torch.tensor([[3]])).sum().backward()
    with pytest.raises(RuntimeError, match=r"no gradient for layer\.weight, layer\.bias"):
        ours.step()


# Contracts that every file of the two rooms is held to, found by its name.


@pytest.mark.parametrize("name", SCHEDULES_ROOM.names())
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_every_schedule_gives_shares(name: str, steps: int) -> None:
    schedule = SCHEDULES_ROOM.settings(name)()
    found = rates(schedule, 2.0, steps)
    assert found == 2.0 or (isinstance(found, list) and len(found) == steps and max(found) > 0)
    assert found == rates(schedule, 2.0, steps), "the same function of the step whenever it is asked"


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("name", OPTIMISERS_ROOM.names())
def test_every_optimiser_resumes_and_does_on_a_cpu_what_it_does_on_a_gpu(name: str, decay: float) -> None:
    rule = OPTIMISERS_ROOM.settings(name)()
    settings = settings_of(rule, constant.Settings(), decay)
    model, again, whole = Toy(), Toy(), Toy()
    ours, resumed = make(model, settings, CPU), make(again, settings, CPU)
    train_ours(model, ours, range(30))
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed.load_state_dict(copy.deepcopy(ours.state_dict()))
    on_a_gpu = Optimiser(whole, rule, rates=RATE, weight_decay=decay, device=torch.device("cuda"))
    for number in range(60):
        on_a_gpu.zero_grad()
        take_sparse(whole, number, dense=True)
        on_a_gpu.step()
    for each, optimiser in ((model, ours), (again, resumed)):
        train_ours(each, optimiser, range(30, 60))
        optimiser.flush()
    for mine, second, other in zip(model.parameters(), again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, second)
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
