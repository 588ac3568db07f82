"""Steps of an optimiser over a network, which on a CPU touch only those word vectors that a batch used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn

from jobs.models.layers import WordEmbedding
from jobs.training.optimisers import CatchUp, OptimiserSettings, Rates, Update
from jobs.training.schedules import rates
from jobs.training.settings import TrainingSettings
from sharedfs.errors import InputError

ROWS = 8_192  # word vectors brought up to date at once: few enough for the processor's cache
Rate = float | Tensor
State = dict[str, list[Tensor]]


class OptimiserState(TypedDict):
    """All that an optimiser needs to go on exactly: each part's tensors by name, as a checkpoint has them."""

    parts: list[State]


class Optimiser:
    """One of ``jobs.training.optimisers`` over every parameter that is trained.

    On a CPU a step touches only the vectors of the words in its batch, U x D numbers instead of V x D, wherever the
    optimiser has a closed form for the steps that a word is not in: it then ends where the dense one does. A rate that
    changes lies on a GPU in a tensor, which a captured graph reads.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: OptimiserSettings,
        *,
        rates: Rates,
        weight_decay: float,
        device: torch.device,
    ) -> None:
        embeddings = [module for module in model.modules() if isinstance(module, WordEmbedding) and not module.frozen]
        vectors = {id(module.weight) for module in embeddings}
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._rates = rates
        self._rate: Rate = rates if isinstance(rates, float) else rates[0]
        if not isinstance(rates, float) and device.type == "cuda":
            on = next(iter(trained.values())).device
            self._rate = torch.tensor(rates[0], dtype=torch.float32, device=on)
        highest = rates if isinstance(rates, float) else max(rates)
        lazy = device.type == "cpu" and rule.dense_because(highest, weight_decay) is None
        others = {name: weight for name, weight in trained.items() if id(weight) not in vectors}
        self._lazy: list[_LazyEmbedding] = []
        self._parts: list[_Dense | _LazyEmbedding] = [_Dense(others, rule, weight_decay)]
        for module in embeddings:
            if lazy:
                self._lazy.append(_LazyEmbedding(module, rule, rule.catch_up(rates, weight_decay), weight_decay))
            else:
                self._parts.append(_DenseEmbedding(module, rule, rates, weight_decay))
        self._parts += self._lazy

    def set_rate(self, step: int) -> None:
        """Set the step size of the step that comes, counted from 0 over all epochs; never part of a captured graph."""
        if isinstance(self._rates, float):
            return
        if isinstance(self._rate, Tensor):
            self._rate.fill_(self._rates[step])
        else:
            self._rate = self._rates[step]

    def step(self) -> None:
        """One step along the gradients of the last backward pass."""
        with torch.no_grad():
            for part in self._parts:
                part.step(self._rate)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for part in self._parts:
            for weight in part.weights:
                weight.grad = None

    def flush(self) -> None:
        """Bring every word vector up to date. Before an evaluation only: a checkpoint must not change a bit."""
        with torch.no_grad():
            for part in self._lazy:
                part.flush()

    def tensors(self) -> list[Tensor]:
        """Every tensor that a step changes, weights excepted."""
        return [tensor for part in self._parts for tensors in part.state().values() for tensor in tensors]

    def state_dict(self) -> OptimiserState:
        """Everything needed to resume exactly."""
        return {"parts": [part.state() for part in self._parts]}

    def load_state_dict(self, state: OptimiserState) -> None:
        """Resume from a state, of another kind of device too; the model's weights have been loaded before.

        Raises InputError when it is another model's or another optimiser's.
        """
        fits = len(state["parts"]) == len(self._parts) and all(map(_same_shapes, self._parts, state["parts"]))
        if not fits:
            raise InputError("the optimiser's state is of another model or another optimiser: train again")
        with torch.no_grad():
            for part, saved in zip(self._parts, state["parts"], strict=True):
                part.load(saved)


def make(model: nn.Module, settings: TrainingSettings, device: torch.device, *, steps: int = 1) -> Optimiser:
    """The optimiser of a network on a device, as its settings have it; ``steps`` are those of all epochs together."""
    return Optimiser(
        model,
        settings.optimiser,
        rates=rates(settings.schedule, settings.learning_rate, steps),
        weight_decay=settings.weight_decay,
        device=device,
    )


class _Dense:
    """Parameters of which every number moves at every step."""

    def __init__(self, named: Mapping[str, nn.Parameter], rule: OptimiserSettings, decay: float) -> None:
        self.weights = [*named.values()]
        self._names = [*named]
        self._rule, self._decay = rule, decay
        self._states = [[torch.zeros_like(weight) for weight in self.weights] for _ in rule.state_names()]
        self._steps = [torch.zeros((), device=weight.device) for weight in self.weights]

    def step(self, rate: Rate) -> None:
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        if len(gradients) < len(self.weights):
            missing = [name for name, weight in zip(self._names, self.weights, strict=True) if weight.grad is None]
            raise RuntimeError(f"no gradient for {', '.join(missing)}: every parameter must take part in every step")
        self._rule.step(Update([*self.weights], gradients, self._states, self._steps, rate, self._decay))

    def load(self, saved: State) -> None:
        _copy(self.state(), saved)

    def state(self) -> State:
        return {**dict(zip(self._rule.state_names(), self._states, strict=True)), "steps": self._steps}


class _DenseEmbedding(_Dense):
    """Word vectors (V, D) that all move at every step: on a GPU, whose memory is fast enough; else where they must.

    A lazy update would make a GPU's host wait for the number of distinct words, and its shapes could not be captured.
    """

    def __init__(self, embedding: WordEmbedding, rule: OptimiserSettings, rates: Rates, decay: float) -> None:
        own = rule.decays_used_words_only
        weight: nn.Parameter = embedding.weight  # type: ignore[assignment]
        super().__init__({"the word vectors": weight}, rule, 0.0 if own else decay)
        self._embedding = embedding
        self._used_decay = decay if own else 0.0
        self._rates, self._whole_decay = rates, decay

    def load(self, saved: State) -> None:
        """Resume; rows that a lazy state left behind are brought up to date, on the CPU."""
        if "last" in saved:
            weight = self._embedding.weight.detach()
            copy = WordEmbedding(weight.cpu(), frozen=False, scale=1.0, dropout=0.0)
            catch_up = self._rule.catch_up(self._rates, self._whole_decay)
            lazy = _LazyEmbedding(copy, self._rule, catch_up, self._whole_decay)
            lazy.load(saved)
            lazy.flush()
            weight.copy_(copy.weight)
            saved = lazy.state()
        super().load(saved)

    def step(self, rate: Rate) -> None:
        weight, used = self._embedding.weight, self._embedding.used
        if weight.grad is not None and weight.grad.is_sparse:  # on a CPU: a row for each distinct word
            used = weight.grad._indices()[0]
            weight.grad = weight.grad.to_dense()
        # The L2 term of the batch's words alone: a column (V, 1), the decay at their rows and zero elsewhere.
        if self._used_decay and used is not None and weight.grad is not None:
            share = weight.new_zeros(len(weight), 1).index_fill_(0, used.reshape(-1), self._used_decay)
            weight.grad.addcmul_(weight, share)
        super().step(rate)


class _LazyEmbedding:
    """Word vectors (V, D) on a CPU: a step reads, brings up to date, moves and writes back its batch's rows (U, D).

    Between two uses the dense optimiser still moves a row, by its decaying momentum; a ``CatchUp`` sums that up in
    closed form. So after ``flush`` the vectors are those of the dense one, up to rounding and to Adam's epsilon.

    A step goes: the forward pass calls ``fetch`` for its distinct words, which keeps the rows and their states aside;
    ``step`` moves those and writes them back. Nothing else is written, so a forward pass without a step has no effect.
    """

    def __init__(self, embedding: WordEmbedding, rule: OptimiserSettings, catch_up: CatchUp, decay: float) -> None:
        self._embedding = embedding
        self._rule, self._decay = rule, decay
        self.weights: list[nn.Parameter] = [embedding.weight]  # type: ignore[list-item]
        self._states = [torch.zeros_like(embedding.weight, requires_grad=False) for _ in rule.state_names()]
        self._last = torch.zeros(len(embedding.weight), dtype=torch.int64)  # the step a row is up to date with
        self._steps = torch.zeros((), dtype=torch.int64)
        self._catch_up = catch_up
        self._fetched: tuple[Tensor, Tensor, list[Tensor]] | None = None  # ids (U,); rows, states (U, D)
        embedding.fetch = self.fetch

    def fetch(self, ids: Tensor) -> Tensor:
        """Rows (U, D) as they are after all steps so far; nothing is written, since a step need not follow."""
        rows, states = self._up_to_date(ids)
        self._fetched = ids, rows, states
        return rows

    def step(self, rate: Rate) -> None:
        gradient = self._embedding.weight.grad
        if gradient is None or self._fetched is None:
            raise RuntimeError("no gradient for the word vectors: every step follows a forward and a backward pass")
        ids, rows, states = self._fetched
        self._fetched = None
        # torch's kernels count this step themselves.
        before = self._steps.to(torch.float32)
        values = gradient._values()  # (U, D): the sparse gradient has the rows of ids, in their order
        self._rule.step(Update([rows], [values], [[state] for state in states], [before], rate, self._decay))
        self._steps += 1
        self._write(ids, rows, states)

    def flush(self) -> None:
        now = int(self._steps)
        # Words that no batch has used have no momentum.
        behind = self._last < now if self._catch_up.every_row else (self._last > 0) & (self._last < now)
        for ids in torch.split(behind.nonzero().view(-1), ROWS):
            self._write(ids, *self._up_to_date(ids))

    def load(self, saved: State) -> None:
        """Resume; a dense state has every row up to date."""
        (steps,) = saved["steps"]
        _copy(self.state(), {"last": [self._last.new_full((), int(steps)).expand_as(self._last)], **saved})

    def state(self) -> State:
        states = {name: [state] for name, state in zip(self._rule.state_names(), self._states, strict=True)}
        return {**states, "last": [self._last], "steps": [self._steps]}

    def _up_to_date(self, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
        rows = self._embedding.weight.detach().index_select(0, ids)
        states = [state.index_select(0, ids) for state in self._states]
        last = self._last.index_select(0, ids)
        self._catch_up.apply(rows, states, last=last, now=int(self._steps))
        return rows, states

    def _write(self, ids: Tensor, rows: Tensor, states: Sequence[Tensor]) -> None:
        numbers = ids.numpy()
        # NumPy copies whole rows; torch's index_copy_ takes three times as long.
        self._embedding.weight.detach().numpy()[numbers] = rows.numpy()
        for state, values in zip(self._states, states, strict=True):
            state.numpy()[numbers] = values.numpy()
        self._last.index_fill_(0, ids, int(self._steps))


def _copy(to: State, values: State) -> None:
    for name, tensors in to.items():
        for tensor, value in zip(tensors, values[name], strict=True):
            tensor.copy_(value)


def _same_shapes(part: _Dense | _LazyEmbedding, saved: State) -> bool:
    """Whether a state fits, but for ``last``, which a part of word vectors has on one kind of device alone."""
    shapes = [
        {name: [tensor.shape for tensor in tensors] for name, tensors in state.items() if name != "last"}
        for state in (part.state(), saved)
    ]
    return shapes[0] == shapes[1]
