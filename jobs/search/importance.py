"""Which settings matter: main effects of a functional analysis of variance on a random forest.

Hutter, Hoos and Leyton-Brown, *An Efficient Approach for Assessing Hyperparameter Importance*, ICML 2014. The forest
predicts a trial's value from its draws and its epochs; predictions at full length over random points of the space
stand for the search's own surface. A dimension's importance is the share of their variance that lies between its
values, the others averaged out: eight equally likely bins of a range, the options of a choice. What is left over is
interaction. The exact integral over the trees that the paper derives is replaced by 4,096 random points, whose own
scatter is subtracted. It takes about a second, most of it scikit-learn's import and the forest's fit: for the report,
never for a task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.search.algorithms import random
from jobs.search.space import Branch, Choice, Dimension, Range, Space, all_dimensions
from jobs.search.study import Trial, open_study, read_trials
from jobs.storage import Storage

ENOUGH_TRIALS = 10
POINTS = 4096
BINS = 8


def importance(storage: Storage, search_id: str) -> dict[str, float]:
    """Share of the variance of the search's metric that each dimension explains alone, the largest first.

    Empty with fewer than ten trials that have a value, or when none differs from the others. Inside a conditional
    choice a dimension is known by its label, as in ``depth.1.dropout``.
    """
    try:
        study = open_study(storage, search_id)
    except FileNotFoundError:
        return {}
    return main_effects(study.space(), read_trials(study))


def main_effects(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """Main effects of all dimensions over trials with a value, seeded: the same trials give the same figures."""
    from sklearn.ensemble import RandomForestRegressor

    scored = [trial for trial in trials if trial.value is not None]
    values = np.array([trial.value for trial in scored], dtype=np.float64)
    if len(scored) < ENOUGH_TRIALS or np.ptp(values) == 0:
        return {}
    dimensions = list(all_dimensions(space.dimensions))
    forest = RandomForestRegressor(n_estimators=200, min_samples_leaf=2, random_state=0)
    forest.fit(
        np.column_stack([_encode(dimensions, [trial.draws for trial in scored]), [trial.epochs for trial in scored]]),
        values,
    )
    drawn = _encode(dimensions, [random.propose(space, [], seed) for seed in range(POINTS)])
    longest = np.full(POINTS, max(trial.epochs for trial in scored))
    predicted = forest.predict(np.column_stack([drawn, longest]))
    total = float(predicted.var())
    if total == 0:
        return {}
    effects = {
        dimension.label: _between(drawn[:, column], predicted, dimension) / total
        for column, dimension in enumerate(dimensions)
    }
    return dict(sorted(effects.items(), key=lambda item: (-item[1], item[0])))


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
