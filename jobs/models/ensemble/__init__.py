"""Ensemble: the mean of the calibrated probabilities of runs that are trained already; trains nothing itself.

A manifest asks for it under `ensembles`, and not as an architecture of a run: its members are tasks by their ids.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le

from jobs.settings import ORIGINAL, Doc, ModelSettings, settings

KIND = "estimator"
REVISION = 1


@settings
class Settings(ModelSettings):
    """Whose probabilities are averaged, and which of them.

    ``members`` are train tasks by their ids, and the trials that a search ranks, as ``SEARCH/TRIALS/RANK``.
    """

    members: Annotated[tuple[str, ...], ORIGINAL, Doc("the runs whose probabilities are averaged")] = ()
    top: Annotated[
        Annotated[int, Ge(1), Le(1000)] | None, ORIGINAL, Doc("only so many of them, the best on validation titles")
    ] = None
    greedy: Annotated[
        Annotated[int, Ge(1), Le(1000)] | None,
        ORIGINAL,
        Doc(
            "begin with the best and add, so many times, the member with which the ensemble is best on validation "
            "titles; one may be added again, and then counts more (Caruana et al. 2004)"
        ),
    ] = None
    select_by: Annotated[str, ORIGINAL, Doc("what `top` and `greedy` choose by")] = "validation_balanced_accuracy"
