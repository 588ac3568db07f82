"""Why a run ends before its last epoch: diverged, at chance, or no longer getting better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.context import TaskFailedError
from jobs.data.batches import Batch
from jobs.metrics import metric_of
from jobs.metrics_log import EpochMetrics, figure

EARLY = "early stopping"
SEARCH = "stopped by the search"


def at_chance(balanced_accuracy: float, accuracy: float, support: NDArray[np.int64]) -> bool:
    """Whether a score is no better than guessing: both figures must say so.

    With C categories that have titles, guessing scores a balanced accuracy of 1/C: at chance is up to twice
    that, or 0.05 above it where that is less. Always naming the most common category scores its share in
    accuracy: at chance is up to twice that, or 0.05 above it where that is less.
    """
    # Each figure alone can mislead: one frequent category learnt well lifts accuracy and not balanced accuracy, and
    # with a strong logit adjustment rare categories lift balanced accuracy at the price of accuracy.
    guess = 1 / np.count_nonzero(support)
    share = float(support.max() / support.sum())
    return bool(balanced_accuracy <= guess + min(guess, 0.05) and accuracy <= share + min(share, 0.05))


def never_left_chance(lines: Sequence[EpochMetrics], support: NDArray[np.int64], patience: int) -> bool:
    """Whether the first ``patience`` epochs are over and every epoch so far was at chance level."""
    return len(lines) >= patience and all(
        at_chance(line["validation_balanced_accuracy"], line["validation_accuracy"], support) for line in lines
    )


def better(line: EpochMetrics, other: EpochMetrics, select_by: str) -> bool:
    """Whether an epoch is better than another by the figure that selects; one that lacks it is better than none."""
    sign = metric_of(select_by).sign
    mine, theirs = (figure(each, select_by) for each in (line, other))
    if mine is None or not math.isfinite(mine):
        return False
    return theirs is None or not math.isfinite(theirs) or sign * mine > sign * theirs


def has_stalled(lines: Sequence[EpochMetrics], patience: int | None, select_by: str) -> bool:
    """Whether the last ``patience`` epochs brought nothing better by ``select_by`` than those before them."""
    if patience is None or not lines:
        return False
    best = 0
    for position in range(1, len(lines)):
        if better(lines[position], lines[best], select_by):
            best = position
    return len(lines) - 1 - best >= patience


def diverged(*, epoch: int, step: int, where: str, norm: float | None, before: float | None) -> TaskFailedError:
    """The end of a run whose loss is not finite: the gradient's ``norm`` now, its mean ``before``."""
    message = f"the {where} loss is NaN or infinite at epoch {epoch}, step {step}"
    if norm is not None:
        message += f"; gradient norm {norm:.3g}"
    if before is not None:
        message += f", {before:.3g} on average before that"
    return TaskFailedError(
        "diverged",
        f"{message}; a smaller learning_rate may help",
        epoch=epoch,
        step=step,
        gradient_norm=_json(norm),
        gradient_norm_before=_json(before),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What may be wrong with a network: the gradient norm of each parameter, each layer's share of dead units."""

    gradient_norms: Mapping[str, float]
    dead_units: Mapping[str, float]


def at_chance_error(lines: Sequence[EpochMetrics], diagnosis: Diagnosis) -> TaskFailedError:
    """The end of a run at chance level, with what ``diagnose`` measured."""
    last = lines[-1]
    dead = ", ".join(f"{name} {share:.0%}" for name, share in diagnosis.dead_units.items()) or "none measured"
    norms = ", ".join(f"{name} {value:.2g}" for name, value in diagnosis.gradient_norms.items())
    return TaskFailedError(
        "at chance",
        f"after {len(lines)} epochs the validation balanced accuracy is {last['validation_balanced_accuracy']:.4f}, "
        f"no better than chance; dead units: {dead}; gradient norms: {norms}",
        epochs_run=len(lines),
        train_loss=last["train_loss"],
        validation_loss=last["validation_loss"],
        validation_balanced_accuracy=last["validation_balanced_accuracy"],
        validation_accuracy=last["validation_accuracy"],
        gradient_norms={name: _json(value) for name, value in diagnosis.gradient_norms.items()},
        dead_units=diagnosis.dead_units,
    )


def diagnose(model: nn.Module, batch: Batch) -> Diagnosis:
    """Gradient norm per parameter and share of dead ReLU units per layer, on one batch; overwrites the gradients.

    A unit that is zero for every title of the batch is dead: it has no gradient there.
    """
    model.train()
    model.zero_grad(set_to_none=True)
    with _dead_unit_shares(model) as dead:
        loss = nn.functional.cross_entropy(model(batch).float(), batch.labels)
    torch.autograd.backward(loss)
    norms = {
        name: float(norm_of([parameter.grad]))
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return Diagnosis(gradient_norms=norms, dead_units={name: float(share) for name, share in dead.items()})


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, () float32; sparse ones by their values."""
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(dense)))
    return norm


@contextmanager
def _dead_unit_shares(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Filled by forward passes inside the block: each ReLU's share of units that are zero for the whole batch, ()."""
    dead: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):

            def record(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                units = output.detach().flatten(0, -2) if output.dim() > 1 else output.detach()
                dead[name] = (units <= 0).all(0).float().mean()

            hooks.append(module.register_forward_hook(record))
    try:
        yield dead
    finally:
        for hook in hooks:
            hook.remove()


def _json(value: float | None) -> float | str | None:
    """JSON has no NaN: a number that is not finite is written as a string."""
    return value if value is None or math.isfinite(value) else str(value)
