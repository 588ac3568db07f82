"""What a search of fewer trials could have been expected to reach: its best validation score against its budget."""

from __future__ import annotations

import math

import numpy as np

from jobs.metrics import metric_of
from pipeline.report.collect import Collected
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.table import Column, Table, number

ORDER = 6
FEWEST_TRIALS = 3


def expected_best(values: np.ndarray, trials: int) -> float:
    """The mean of the largest of so many values drawn with repetition from these, (N,).

    Dodge et al., *Show Your Work: Improved Reporting of Experimental Results*, EMNLP 2019, equation 1.
    """
    ranked = np.sort(values)
    places = np.arange(len(ranked) + 1) / len(ranked)
    return float(ranked @ np.diff(places**trials))


def budgets(trials: int) -> list[int]:
    """1, 2, 5, 10, 20, .. trials, and all of them."""
    steps = [step * 10**power for power in range(len(str(trials))) for step in (1, 2, 5)]
    return [*(step for step in steps if step < trials), trials]


def build(group: Group, _collected: Collected, messages: Messages) -> Table | None:
    if group.search is None:
        return None
    metric = group.search.planned.search.metric
    sign, decimals = metric_of(metric).sign, metric_of(metric).decimals
    over = [trial for trial in group.search.trials if trial.state in ("done", "failed")]
    scored = [trial for trial in over if trial.state == "done" and math.isfinite(trial.figures.get(metric, math.nan))]
    if len(scored) < FEWEST_TRIALS:
        return None
    values = [sign * trial.figures[metric] for trial in scored]
    # A trial that failed is part of what a search costs, and reached nothing.
    values += [min(values)] * (len(over) - len(scored))
    epochs = sum(len(trial.epochs) for trial in over) / len(over)
    hours = math.fsum(trial.gpu_hours or 0.0 for trial in over) / len(over)
    return Table(
        name="budget",
        group=group.name,
        title=f"{group.name}: {messages('budget').lower()}",
        columns=(
            Column(key="trials", title=messages("trials drawn")),
            Column(key="epochs", title=messages("epochs spent")),
            Column(key="gpu_hours", title=messages("GPU-hours")),
            Column(key=metric, title=messages("expected best", metric=messages.name(metric))),
        ),
        rows=tuple(
            (
                number(float(count), 0),
                number(count * epochs, 0),
                number(count * hours, 3),
                number(sign * expected_best(np.array(values), count), decimals),
            )
            for count in budgets(len(over))
        ),
        notes=(messages("note budget", trials=len(over)),),
    )
