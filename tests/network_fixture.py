"""The architectures that are networks; ``jobs.testing.networks`` has what builds and steps them small."""

from __future__ import annotations

from jobs.plugins import MODELS
from jobs.testing.networks import CLASSES, CPU, SIZE, VOCABULARY, build, draw_titles, make_batch, score

__all__ = [
    "CLASSES", "CPU", "NETWORKS", "OF_WORDS", "SIZE", "VOCABULARY", "build", "draw_titles", "make_batch", "score"
]  # fmt: skip
NETWORKS = [name for name in MODELS.names() if MODELS.load(name).KIND == "network"]
OF_WORDS = [name for name in NETWORKS if not MODELS.settings(name).takes_encoder]
