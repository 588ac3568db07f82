"""Which settings matter: main effects of a functional analysis of variance on a random forest.

Hutter, Hoos and Leyton-Brown, *An Efficient Approach for Assessing Hyperparameter Importance*, ICML 2014. The forest
predicts a trial's value from its draws and the share of its epochs that it ran; predictions at full length over random
points of the space stand for the search's own surface. A dimension's importance is the share of their variance that
lies between its values, the others averaged out: eight equally likely bins of a range, the options of a choice. What is
left over is interaction. The exact integral over the trees that the paper derives is replaced by 4,096 random points,
whose own scatter is subtracted. It takes about a second, most of it scikit-learn's import and the forest's fit: for the
report, never for a task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.metrics import metric_of
from jobs.search.algorithms import random
from jobs.search.next_trial import SETTING_FAILURES
from jobs.search.space import Branch, Choice, Dimension, Range, Space, all_dimensions
from jobs.search.study import Trial, open_study, read_trials
from jobs.storage import Storage

ENOUGH_TRIALS = 10
POINTS = 4096
BINS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Shares of the variance by setting, the largest first, and the share that the forest cannot tell of.

    ``error`` is what the forest leaves unexplained of trials that it was not fitted to, out of bag (Breiman, Machine
    Learning 45, 2001): a smaller share may be chance. Inside a conditional choice a setting is known by its label, as
    in ``depth.1.dropout``.
    """

    shares: Mapping[str, float]
    error: float
    trials: int

    @property
    def known(self) -> dict[str, float]:
        """The shares that are larger than the error."""
        return {label: share for label, share in self.shares.items() if share > self.error}


NOTHING = Importance(shares={}, error=1.0, trials=0)


def importance(storage: Storage, search_id: str) -> Importance:
    """What each dimension explains alone of the variance of the search's metric.

    No shares with fewer than ten trials that have a value or failed by their settings, or when none differs.
    """
    try:
        study = open_study(storage, search_id)
    except FileNotFoundError:
        return NOTHING
    worst = min if metric_of(study.definition.metric).higher_is_better else max
    return main_effects(study.space(), read_trials(study), worst=worst)


def main_effects(
    space: Space, trials: Sequence[Trial], *, worst: Callable[[Iterable[float]], float] = min
) -> Importance:
    """Main effects of all dimensions, seeded: the same trials give the same figures.

    A trial that failed because of its settings before it had a value counts as the ``worst`` of the others.
    """
    values = {trial.number: trial.value for trial in trials if trial.value is not None}
    counted = [trial for trial in trials if trial.number in values or trial.cause in SETTING_FAILURES]
    if len(counted) < ENOUGH_TRIALS or not values or len(set(values.values())) == len(counted) == 1:
        return NOTHING
    lowest = worst(values.values())
    scores = np.array([values.get(trial.number, lowest) for trial in counted], dtype=np.float64)
    if np.ptp(scores) == 0:
        return NOTHING
    return _main_effects(space, counted, scores)


def _main_effects(space: Space, counted: Sequence[Trial], scores: NDArray[np.float64]) -> Importance:
    from sklearn.ensemble import RandomForestRegressor

    dimensions = list(all_dimensions(space.dimensions))
    forest = RandomForestRegressor(n_estimators=200, min_samples_leaf=2, random_state=0, oob_score=True)
    # How much of its epochs a trial ran, and not how many: where `epochs` is searched, that is a dimension of its own.
    whole = [trial.epochs / max(trial.epochs_asked, 1) for trial in counted]
    forest.fit(np.column_stack([_encode(dimensions, [trial.draws for trial in counted]), whole]), scores)
    drawn = _encode(dimensions, [random.propose(space, [], seed) for seed in range(POINTS)])
    predicted = forest.predict(np.column_stack([drawn, np.full(POINTS, max(whole))]))
    total = float(predicted.var())
    if total == 0:
        return NOTHING
    effects = {
        dimension.label: _between(drawn[:, column], predicted, dimension) / total
        for column, dimension in enumerate(dimensions)
    }
    shares = dict(sorted(effects.items(), key=lambda item: (-item[1], item[0])))
    return Importance(shares=shares, error=min(1.0, 1.0 - float(forest.oob_score_)), trials=len(counted))


def _encode(dimensions: Sequence[Dimension], draws: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """(points, dimensions): logarithms where a range is logarithmic, NaN where a dimension was not drawn."""
    rows = [
        [
            _coordinate(dimension, point[dimension.label]) if dimension.label in point else math.nan
            for dimension in dimensions
        ]
        for point in draws
    ]
    return np.array(rows, dtype=np.float64).reshape(len(draws), len(dimensions))


def _coordinate(dimension: Dimension, draw: float) -> float:
    return math.log(draw) if isinstance(dimension, Range) and dimension.log else float(draw)


def _between(column: NDArray[np.float64], predicted: NDArray[np.float64], dimension: Dimension) -> float:
    """The variance of the predictions' mean over a dimension's values, weighted by how often it exists."""
    drawn = ~np.isnan(column)
    if not drawn.any():
        return 0.0
    coordinate, value = column[drawn], predicted[drawn]
    if isinstance(dimension, Choice | Branch):
        groups = coordinate
    else:
        edges = np.quantile(coordinate, np.linspace(0, 1, BINS + 1)[1:-1])
        groups = np.searchsorted(edges, coordinate).astype(np.float64)
    kinds, sizes = np.unique(groups, return_counts=True)
    means = np.array([value[groups == kind].mean() for kind in kinds])
    spread = float(np.average((means - value.mean()) ** 2, weights=sizes))
    # Means of finitely many random points differ a little even where the dimension does nothing: as in an analysis of
    # variance, by (groups - 1) / points of the variance.
    by_chance = float(value.var()) * (len(kinds) - 1) / len(value)
    return max(0.0, spread - by_chance) * float(drawn.mean())
