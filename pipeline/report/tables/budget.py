"""What a search of fewer trials could have been expected to reach, beside other searches at the same budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jobs.metrics import metric_of
from pipeline.report.collect import Collected, SearchResult
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.table import Cell, Column, Table, number

ORDER = 6
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


def build(group: Group, collected: Collected, messages: Messages) -> Table | None:
    if group.search is None or (own := spent(group.search)) is None:
        return None
    metric = group.search.planned.search.metric
    sign, decimals = metric_of(metric).sign, metric_of(metric).decimals
    others = comparable(group.search, collected)

    def row(count: int) -> tuple[Cell, ...]:
        beside = [other.expected(count * own.epochs) for other in others]
        return (
            number(float(count), 0),
            number(count * own.epochs, 0),
            number(count * own.gpu_hours, 3),
            number(sign * expected_best(own.scores, count), decimals),
            *(number(None if score is None else sign * score, decimals) for score in beside),
        )

    notes = [messages("note budget", trials=len(own.scores))]
    if others:
        notes.append(messages("note budgets"))
    return Table(
        name="budget",
        group=group.name,
        title=f"{group.name}: {messages('budget').lower()}",
        columns=(
            Column(key="trials", title=messages("trials drawn")),
            Column(key="epochs", title=messages("epochs spent")),
            Column(key="gpu_hours", title=messages("GPU-hours")),
            Column(key=metric, title=messages("expected best", metric=messages.name(metric))),
            *(Column(key=f"search {other.name}", title=messages("same epochs", search=other.name)) for other in others),
        ),
        rows=tuple(row(count) for count in budgets(len(own.scores))),
        notes=tuple(notes),
    )
