"""One LSTM layer over packed titles on a CPU, with its gradient by hand.

The recurrence does nothing but the recurrence: what is the same for all times (the input's share of the gates, the
derivatives of the gates, the gradient of the weights) is one operation over all places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from jobs.models.packed import Packed, sum_by_row
from jobs.models.product import product

# As tensors: a Python number is made into one, and cast, at every use.
ONE, TWO = torch.tensor(1.0), torch.tensor(2.0)


def run_layer(inputs: Tensor, recurrent: Tensor, bias: Tensor, packed: Packed, index: Tensor | None = None) -> Tensor:
    """States (N, H) after each place, from inputs (N, 4H) to the gates (in, forget, cell, out: PyTorch's order).

    With ``index`` (N,) the inputs are rows (U, 4H) and each place's is ``inputs[index]``. ``recurrent`` is (4H, H),
    ``bias`` (4H,).
    """
    states: Tensor = _Layer.apply(inputs, recurrent, bias, packed, index)  # type: ignore[no-untyped-call]
    return states


class _Layer(Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, recurrent: Tensor, bias: Tensor, packed: Packed, index: Tensor | None
    ) -> Tensor:
        gates = inputs + bias if index is None else inputs.index_select(0, index).add_(bias)
        size = recurrent.shape[1]
        cells = gates.new_empty(len(gates), size)
        states = gates.new_empty(len(gates), size)
        before: tuple[Tensor, Tensor] | None = None
        for count, start in zip(packed.counts, packed.starts, strict=True):
            here = slice(start, start + count)
            gate, cell, state = gates[here], cells[here], states[here]
            if before is not None:
                gate += product(before[1][:count], recurrent)
            inner, out = gate[:, 2 * size : 3 * size], gate[:, 3 * size :]
            # tanh(x) = 2 sigmoid(2x) - 1: one vectorised kernel for all gates, where tanh takes eight times as long.
            inner *= TWO
            gate.sigmoid_()
            inner.mul_(TWO).sub_(ONE)
            torch.mul(gate[:, :size], inner, out=cell)
            if before is not None:
                cell.addcmul_(gate[:, size : 2 * size], before[0][:count])
            torch.mul(cell, TWO, out=state).sigmoid_().mul_(TWO).sub_(ONE).mul_(out)
            before = cell, state
        ctx.packed, ctx.index, ctx.rows = packed, index, len(inputs)
        ctx.save_for_backward(gates, cells, states, recurrent)
        return states

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        gates, cells, states, recurrent = ctx.saved_tensors
        packed: Packed = ctx.packed
        size = recurrent.shape[1]
        first = packed.counts[0]
        before = _before(packed)
        factors, through = _factors(gates, cells, before, first)
        forget = gates[:, size : 2 * size]
        to_state, to_cell = gradient.new_zeros(first, size), gradient.new_zeros(first, size)
        across = recurrent.t()
        for count, start in zip(reversed(packed.counts), reversed(packed.starts), strict=True):
            here = slice(start, start + count)
            state, cell = to_state[:count], to_cell[:count]
            state += gradient[here]
            cell.addcmul_(state, through[here])
            factor = factors[here]
            factor[:, :3] *= cell[:, None]
            factor[:, 3] *= state
            cell *= forget[here]
            state.copy_(product(factor.view(count, 4 * size), across))
        to_gates = factors.view(len(gates), 4 * size)
        to_recurrent = product(to_gates[first:].t(), states.index_select(0, before).t())
        to_inputs = to_gates if ctx.index is None else sum_by_row(to_gates, ctx.index, ctx.rows)
        return to_inputs, to_recurrent, to_gates.sum(0), None, None


def _before(packed: Packed) -> Tensor:
    """The place one word earlier in the same title, for every place that has one: (N - first words,)."""
    pieces = [
        torch.arange(start, start + count) for start, count in zip(packed.starts[:-1], packed.counts[1:], strict=True)
    ]
    return torch.cat([torch.empty(0, dtype=torch.int64), *pieces])


def _factors(gates: Tensor, cells: Tensor, before: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """What a gradient at the cell (gates 0 to 2) or the state (gate 3) is multiplied by to reach each gate's input,

    (N, 4, H), and what one at the state is multiplied by to reach the cell, (N, H).
    """
    size = cells.shape[1]
    opened, kept, inner, out = torch.split(gates, size, dim=1)
    tanh = (cells * TWO).sigmoid_().mul_(TWO).sub_(ONE)
    factors = gates.new_empty(len(gates), 4, size)
    factors[:, 0] = inner * opened * (1 - opened)
    factors[:first, 1] = 0.0
    factors[first:, 1] = (cells.index_select(0, before) * kept[first:]) * (1 - kept[first:])
    factors[:, 2] = opened * (1 - inner * inner)
    factors[:, 3] = tanh * out * (1 - out)
    return factors, out * (1 - tanh * tanh)
