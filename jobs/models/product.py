"""Matrix products on a CPU.

PyTorch's float32 products go through MKL, which keeps to AVX2 on processors that are not Intel's: there oneDNN, which
is in the same PyTorch, takes half the time with AVX-512. It has no public door but a convolution's, so this module is
the only one that opens it, and it goes by MKL where the door is not there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function


def _has_onednn() -> bool:
    return (
        bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


ONEDNN = _has_onednn()


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.t()``, (N, K) and (M, K) -> (N, M), both float32 on a CPU; any strides; no gradient."""
    if not ONEDNN or left.numel() == 0 or right.numel() == 0:
        return left @ right.t()
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return result


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``inputs @ weight.t() + bias`` with its gradients, for inputs (N, K) on a CPU."""
    outputs: Tensor = _Linear.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]
    return outputs


def by_product(inputs: Tensor) -> bool:
    """Whether ``linear`` is the way to go: a float32 matrix on a CPU, without autocast."""
    return inputs.device.type == "cpu" and inputs.dim() == 2 and not torch.is_autocast_enabled("cpu")


class Linear(nn.Linear):
    """nn.Linear, by ``linear`` where that is the way to go."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, K) -> (N, M)."""
        return linear(inputs, self.weight, self.bias) if by_product(inputs) else super().forward(inputs)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        outputs = product(inputs, weight)
        return outputs if bias is None else outputs.add_(bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        to_inputs = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        to_weight = product(gradient.t(), inputs.t()) if ctx.needs_input_grad[1] else None
        return to_inputs, to_weight, gradient.sum(0) if ctx.needs_input_grad[2] else None
