"""A search's trials: what each tried, what it reached, what it cost; best first."""

from __future__ import annotations

from jobs.metrics import metric_of
from pipeline.report.collect import Collected, Trial
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.search_summary import axes, by_score
from pipeline.report.table import Cell, Column, Table, collapse_constant_columns, number, setting

ORDER = 4


def build(group: Group, _collected: Collected, messages: Messages) -> Table | None:
    if group.search is None:
        return None
    metric = group.search.planned.search.metric
    decimals = metric_of(metric).decimals
    names = [axis.name for axis in axes(group.search)]
    trials = by_score(group.search)
    top = [trial.number for trial in trials[:1] if trial.state != "failed" and metric in trial.figures]
    columns = (
        Column(key="trial", title=messages("trial")),
        Column(key="state", title=messages("state"), number=False),
        Column(key=metric, title=messages.name(metric)),
        *(Column(key=name, title=name) for name in names),
        Column(key="epochs_run", title=messages("epochs_run")),
        Column(key="gpu_hours", title=messages("GPU-hours")),
    )
    rows = tuple(
        (
            Cell(str(trial.number), float(trial.number)),
            Cell(_state(trial, messages)),
            number(trial.figures.get(metric), decimals, bold=trial.number in top),
            *(setting(trial.point.get(name)) for name in names),
            number(float(len(trial.epochs)) if trial.epochs else None, 0),
            number(trial.gpu_hours, 3),
        )
        for trial in trials
    )
    table = Table(
        name="trials", group=group.name, title=f"{group.name}: {messages('trials').lower()}", columns=columns, rows=rows
    )
    return collapse_constant_columns(table, ("trial", metric), messages("same for all"))


def _state(trial: Trial, messages: Messages) -> str:
    if trial.state == "done" and trial.stopped:
        return messages("stopped early")
    return messages.name(trial.cause or trial.state)
