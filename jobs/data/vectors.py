"""Word vectors for a vocabulary: found in a file, or random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def random_start(size: int, count: int) -> NDArray[np.float32]:
    """Standard normal vectors (count, size), the padding row zero, the same for the same shape."""
    generator = np.random.Generator(np.random.PCG64(0))
    vectors = generator.standard_normal((count, size), dtype=np.float32)
    vectors[0] = 0
    return vectors
