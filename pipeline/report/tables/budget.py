"""What a search of fewer trials could have been expected to reach, beside other searches at the same budget."""

from __future__ import annotations

from jobs.metrics import metric_of
from pipeline.report.budgets import budgets, comparable, expected_best, spent
from pipeline.report.collect import Collected
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.table import Cell, Column, Table, number

ORDER = 6


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
