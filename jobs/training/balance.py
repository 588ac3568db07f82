"""Training for balanced accuracy where categories are of very different sizes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def shift(support: NDArray[np.int64], strength: float, device: torch.device) -> Tensor | None:
    """What is added to the logits inside the training loss, (C,); None for strength 0.

    ``strength`` times the logarithm of each category's share of the training titles (logit adjustment: Menon and
    others, 2021). At 1 the network's own logits, without the shift, aim at the least balanced error. A category
    without training titles counts as if it had one.
    """
    if strength == 0.0:
        return None
    shares = np.maximum(support, 1) / max(int(support.sum()), 1)
    return torch.from_numpy((strength * np.log(shares)).astype(np.float32)).to(device)
