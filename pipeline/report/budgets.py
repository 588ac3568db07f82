"""What a search's trials reached against what they cost: its expected best score after any part of its budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jobs.metrics import metric_of
from pipeline.report.collect import Collected, SearchResult

FEWEST_TRIALS = 3


def expected_best(values: np.ndarray, trials: float) -> float:
    """The mean of the largest of so many values drawn with repetition from these, (N,); between whole numbers, between.

    Dodge et al., *Show Your Work: Improved Reporting of Experimental Results*, EMNLP 2019, equation 1.
    """
    ranked = np.sort(values)
    places = np.arange(len(ranked) + 1) / len(ranked)
    return float(ranked @ np.diff(places**trials))


def budgets(trials: int) -> list[int]:
    """1, 2, 5, 10, 20, .. trials, and all of them."""
    steps = [step * 10**power for power in range(len(str(trials))) for step in (1, 2, 5)]
    return [*(step for step in steps if step < trials), trials]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The trials of a search that are over: their scores (N,), larger is better, and what one took on average."""

    name: str
    scores: np.ndarray
    epochs: float
    gpu_hours: float

    def expected(self, epochs: float) -> float | None:
        """The expected best score of so many epochs; None for less than a trial, or more than there were."""
        trials = epochs / self.epochs
        return expected_best(self.scores, trials) if 1 <= trials <= len(self.scores) + 1e-9 else None


def spent(search: SearchResult) -> Spent | None:
    """What a search spent and reached; None for one with too few scores."""
    metric = search.planned.search.metric
    sign = metric_of(metric).sign
    over = [trial for trial in search.trials if trial.state in ("done", "failed")]
    scored = [trial for trial in over if trial.state == "done" and math.isfinite(trial.figures.get(metric, math.nan))]
    epochs = sum(len(trial.epochs) for trial in over)
    if len(scored) < FEWEST_TRIALS or not epochs:
        return None
    values = [sign * trial.figures[metric] for trial in scored]
    # A trial that failed is part of what a search costs, and reached nothing.
    values += [min(values)] * (len(over) - len(scored))
    return Spent(
        name=search.name,
        scores=np.array(values),
        epochs=epochs / len(over),
        gpu_hours=math.fsum(trial.gpu_hours or 0.0 for trial in over) / len(over),
    )


def comparable(search: SearchResult, collected: Collected) -> list[Spent]:
    """The other searches that were judged by the same figure on the same titles."""
    mine = search.planned
    others = [
        other
        for other in collected.searches
        if other.planned.id != mine.id
        and (other.planned.dataset, other.planned.search.metric) == (mine.dataset, mine.search.metric)
    ]
    return [found for other in others if (found := spent(other)) is not None]
