"""Tree-structured Parzen estimators by hyperopt, rebuilt from the history at each call, so that no state is kept.

Bergstra, Bardenet, Bengio and Kegl, *Algorithms for Hyper-Parameter Optimization*, NIPS 2011: n trials are split
into the best sqrt(n) / 4 and the rest; each dimension gets a density from the first and one from the others; of 24
draws from the first density the one is taken at which it exceeds the second most, where improvement is likeliest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.search.algorithms import Observation, random
from jobs.search.space import Choice, Dimension, Draws, Range, Space, all_dimensions
from sharedfs.typed_json import Json

REVISION = 2
DEFAULT_STARTUP = 5
BASELINE_STARTUP = 10
"""Of searches that do not say, as before they could: with ten trials, the usual number, none was ever proposed.
hyperopt's own 20 leaves a search of 30 mostly random."""


def propose(space: Space, history: Sequence[Observation], seed: int, startup: int = BASELINE_STARTUP) -> Draws:
    """Random draws until ``startup`` trials have a result, then hyperopt's; running ones count as the worst there are.

    That is the pessimistic constant liar (Ginsbourger et al. 2010): without it, parallel workers would all be sent to
    the same good region; beside 16 running trials, proposals spread twice as wide. A proposal takes 0.6 s, nearly all
    of it hyperopt's import, and 0.1 s more with 1,000 trials.
    """
    if sum(trial.loss is not None and math.isfinite(trial.loss) for trial in history) < startup:
        return random.propose(space, history, seed)
    # Here, so that a plan, a page or a random search never waits the second that this takes.
    import hyperopt
    from hyperopt import tpe

    domain = hyperopt.base.Domain(lambda _: 0.0, _mapping(space.dimensions))
    names = [dimension.label for dimension in all_dimensions(space.dimensions)]
    documents = [_document(number, trial, names) for number, trial in enumerate(history)]
    trials = hyperopt.base.trials_from_docs(documents)
    (new,) = tpe.suggest([len(documents)], domain, trials, seed, n_startup_jobs=0, verbose=False)
    return {name: _plain(values[0]) for name, values in new["misc"]["vals"].items() if len(values)}


def _mapping(dimensions: Iterable[Dimension]) -> dict[str, Any]:
    return {dimension.label: _expression(dimension) for dimension in dimensions}


def _expression(dimension: Dimension) -> Any:
    from hyperopt import hp

    if isinstance(dimension, Range):
        if dimension.log:
            return hp.loguniform(dimension.label, math.log(dimension.low), math.log(dimension.high))
        return hp.uniform(dimension.label, dimension.low, dimension.high)
    if isinstance(dimension, Choice):
        return hp.choice(dimension.label, list(range(len(dimension.options))))
    return hp.choice(dimension.label, [_mapping(option.dimensions) for option in dimension.options])


def _document(number: int, trial: Observation, names: Sequence[str]) -> dict[str, Json]:
    """hyperopt's own form of a trial that is over; a running one has an infinite loss, as a failed one has."""
    values: Mapping[str, list[float]] = {name: [trial.draws[name]] if name in trial.draws else [] for name in names}
    loss = math.inf if trial.loss is None else trial.loss
    return {
        "tid": number,
        "spec": None,
        "exp_key": None,
        "owner": None,
        "version": 0,
        "book_time": None,
        "refresh_time": None,
        "state": 2,  # JOB_STATE_DONE
        "result": {"status": "ok", "loss": loss},
        "misc": {
            "tid": number,
            "cmd": ("domain_attachment", "FMinIter_Domain"),
            "workdir": None,
            "idxs": {name: [number] if value else [] for name, value in values.items()},
            "vals": values,
        },
    }


def _plain(value: Any) -> float:
    return int(value) if float(value).is_integer() and not isinstance(value, float) else float(value)
