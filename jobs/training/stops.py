"""Why a run ends before its last epoch: diverged, at chance, or no longer getting better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.context import TaskFailedError

EARLY = "early stopping"
SEARCH = "stopped by the search"


def at_chance(balanced_accuracy: float, accuracy: float, support: NDArray[np.int64]) -> bool:
    """Whether a score is no better than guessing: both figures must say so.

    With C categories that have titles, guessing scores a balanced accuracy of 1/C: at chance is up to twice
    that, or 0.05 above it where that is less. Always naming the most common category scores its share in
    accuracy: at chance is up to twice that, or 0.05 above it where that is less.
    """
    guess = 1 / np.count_nonzero(support)
    share = float(support.max() / support.sum())
    return bool(balanced_accuracy <= guess + min(guess, 0.05) and accuracy <= share + min(share, 0.05))


def never_left_chance(journal: Sequence[Mapping[str, Any]], support: NDArray[np.int64], patience: int) -> bool:
    """Whether the first ``patience`` epochs are over and every epoch so far was at chance level."""
    return len(journal) >= patience and all(
        at_chance(line["validation_balanced_accuracy"], line["validation_accuracy"], support) for line in journal
    )


def has_stalled(journal: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    """Whether so many epochs went by without a better validation balanced accuracy than before them."""
    if patience is None or not journal:
        return False
    scores = [line["validation_balanced_accuracy"] for line in journal]
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def diverged(*, epoch: int, step: int, where: str, norm: float | None, before: float | None) -> TaskFailedError:
    """The end of a run whose loss is no number: ``norm`` is the gradient's now, ``before`` that of a sound look."""
    words = f"the {where} loss is NaN or infinite at epoch {epoch}, step {step}"
    if norm is not None:
        words += f"; gradient norm {norm:.3g}"
    if before is not None:
        words += f", {before:.3g} on average before that"
    return TaskFailedError(
        "diverged",
        f"{words}; a smaller learning_rate may help",
        epoch=epoch,
        step=step,
        gradient_norm=_json(norm),
        gradient_norm_before=_json(before),
    )


def at_chance_error(journal: Sequence[Mapping[str, Any]], seen: Mapping[str, Any]) -> TaskFailedError:
    """The end of a run at chance level, with what ``diagnose`` saw."""
    last = journal[-1]
    dead = ", ".join(f"{name} {share:.0%}" for name, share in seen["dead_units"].items()) or "none measured"
    norms = ", ".join(f"{name} {value:.2g}" for name, value in seen["gradient_norms"].items())
    return TaskFailedError(
        "at chance",
        f"after {len(journal)} epochs the validation balanced accuracy is {last['validation_balanced_accuracy']:.4f}, "
        f"no better than chance; dead units: {dead}; gradient norms: {norms}",
        epochs_run=len(journal),
        train_loss=last["train_loss"],
        validation_loss=last["validation_loss"],
        validation_balanced_accuracy=last["validation_balanced_accuracy"],
        validation_accuracy=last["validation_accuracy"],
        gradient_norms={name: _json(value) for name, value in seen["gradient_norms"].items()},
        dead_units=seen["dead_units"],
    )


def diagnose(model: nn.Module, batch: Any) -> dict[str, dict[str, float]]:
    """Gradient norm per parameter and share of dead ReLU units per layer, on one batch; spends its gradients.

    A unit is dead that is zero for every title of the batch.
    """
    model.train()
    model.zero_grad(set_to_none=True)
    with _watching_relus(model) as dead:
        loss = nn.functional.cross_entropy(model(batch).float(), batch.labels)
    torch.autograd.backward(loss)
    norms = {
        name: float(norm_of([parameter.grad]))
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return {"gradient_norms": norms, "dead_units": {name: float(share) for name, share in dead.items()}}


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, () float32; sparse ones by their values."""
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(dense)))
    return norm


@contextmanager
def _watching_relus(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    dead: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):

            def note(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                units = output.detach().flatten(0, -2) if output.dim() > 1 else output.detach()
                dead[name] = (units <= 0).all(0).float().mean()

            hooks.append(module.register_forward_hook(note))
    try:
        yield dead
    finally:
        for hook in hooks:
            hook.remove()


def _json(value: float | None) -> float | str | None:
    """JSON has no NaN: what is not finite is written as a word."""
    return value if value is None or math.isfinite(value) else str(value)
