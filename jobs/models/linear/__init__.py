"""Linear: TF-IDF of words and word pairs and a linear classifier, the baseline that a network has to beat."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from jobs.settings import ORIGINAL, Baseline, DataShape, Doc, ModelSettings, settings

KIND = "estimator"
REVISION = 1
SPACE = {
    "ngrams": {"randint": [1, 3]},
    "min_count": {"randint": [1, 3]},
    "sublinear": {"choice": [False, True]},
    "c": {"loguniform": [1e-2, 1e2]},
    "class_weights": {"choice": ["none", "balanced"]},
}


@settings
class Settings(ModelSettings):
    """Terms, solver, loss."""

    ngrams: Annotated[int, Ge(1), Le(3), ORIGINAL, Doc("1: words, 2: and pairs, 3: and triples")] = 2
    min_count: Annotated[int, Ge(1), ORIGINAL, Doc("titles that an n-gram must be seen in to count")] = 1
    sublinear: Annotated[bool, ORIGINAL, Doc("1 + log(count) instead of an n-gram's count in a title")] = False
    solver: Annotated[
        Literal["liblinear", "sgd"],
        ORIGINAL,
        Doc("liblinear: exact, for up to a few hundred thousand titles; sgd: passes over the titles, for millions"),
    ] = "liblinear"
    c: Annotated[float, Gt(0), Le(1e6), ORIGINAL, Doc("liblinear: the inverse of the L2 penalty")] = 1.0
    alpha: Annotated[float, Gt(0), Le(10), ORIGINAL, Doc("sgd: the L2 penalty")] = 1e-5
    loss: Annotated[
        Literal["hinge", "squared_hinge", "modified_huber", "log_loss"],
        ORIGINAL,
        Doc(
            "of each category against the rest; modified_huber and log_loss with sgd alone, for which squared_hinge is "
            "poor: take hinge"
        ),
    ] = "squared_hinge"
    class_weights: Annotated[Literal["none", "balanced"], ORIGINAL, Doc("of the titles' losses")] = "none"
    max_passes: Annotated[int, Ge(1), Le(1_000_000), ORIGINAL, Doc("over the titles, at most")] = 1_000
    seed: Annotated[int, Ge(0), Le(2**31 - 1), ORIGINAL, Doc("of the order in which titles are visited")] = 0
    max_terms: Annotated[
        Annotated[int, Ge(2), Le(2**28)] | None,
        Baseline(None),
        Doc(
            "for millions of titles: so many terms, which n-grams of several words share by a hash, beside those of "
            "data.text; none: every n-gram of tokens is a term"
        ),
    ] = None
    drop_below: Annotated[
        float, Ge(0), Le(1), Baseline(0.0), Doc("weights nearer to 0 are dropped, and the others stored alone")
    ] = 0.0

    def check(self, _shape: DataShape) -> str | None:
        """A loss that its solver does not know."""
        if self.solver == "liblinear" and self.loss not in ("hinge", "squared_hinge"):
            return f"loss: {self.loss} needs solver: sgd; liblinear knows hinge and squared_hinge"
        return None
