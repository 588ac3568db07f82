"""Linear: TF-IDF of words and word pairs and a linear classifier, the baseline that a network has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.settings import Setting

KIND = "estimator"
SETTINGS = (
    Setting(name="ngrams", type="int", default=2, low=1, high=3, doc="1: words, 2: and pairs, 3: and triples"),
    Setting(name="min_count", type="int", default=1, low=1, doc="titles that an n-gram must be seen in to count"),
    Setting(name="sublinear", type="bool", default=False, doc="1 + log(count) instead of an n-gram's count in a title"),
    Setting(
        name="solver",
        type="str",
        default="liblinear",
        choices=("liblinear", "sgd"),
        doc="liblinear: exact, for up to a few hundred thousand titles; sgd: passes over the titles, for millions",
    ),
    Setting(name="c", type="float", default=1.0, above=0.0, high=1e6, doc="liblinear: the inverse of the L2 penalty"),
    Setting(name="alpha", type="float", default=1e-5, above=0.0, high=10.0, doc="sgd: the L2 penalty"),
    Setting(
        name="loss",
        type="str",
        default="squared_hinge",
        choices=("hinge", "squared_hinge", "modified_huber", "log_loss"),
        doc="of each category against the rest; modified_huber and log_loss with sgd alone",
    ),
    Setting(
        name="class_weights", type="str", default="none", choices=("none", "balanced"), doc="of the titles' losses"
    ),
    Setting(name="max_passes", type="int", default=1_000, low=1, high=1_000_000, doc="over the titles, at most"),
    Setting(name="seed", type="int", default=0, low=0, high=2**31 - 1, doc="of the order in which titles are visited"),
)


def check(settings: Mapping[str, Any], _max_length: int) -> str | None:
    """A loss that its solver does not know."""
    if settings["solver"] == "liblinear" and settings["loss"] not in ("hinge", "squared_hinge"):
        return f"loss: {settings['loss']} needs solver: sgd; liblinear knows hinge and squared_hinge"
    return None
