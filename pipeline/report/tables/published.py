"""Every published figure beside ours with the difference: a line a run and metric."""

from __future__ import annotations

from jobs.metrics import metric_of
from pipeline.report.collect import Collected
from pipeline.report.groups import Entry, Group
from pipeline.report.i18n import Messages
from pipeline.report.table import Cell, Column, Table, number, spread

ORDER = 3


def build(group: Group, _collected: Collected, messages: Messages) -> Table | None:
    rows = tuple(row for entry in group.entries for row in _rows(entry, messages))
    if not rows:
        return None
    return Table(
        name="published",
        group=group.name,
        title=f"{group.name}: {messages('published').lower()}",
        columns=(
            Column(key="run", title=messages("run"), number=False),
            Column(key="metric", title=messages("metric"), number=False),
            Column(key="ours", title=messages("ours")),
            Column(key="reference", title=messages("reference")),
            Column(key="difference", title=messages("difference")),
        ),
        rows=rows,
    )


def _rows(entry: Entry, messages: Messages) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for metric, published in entry.first.row.reference.items():
        ours, decimals = entry.mean(metric), metric_of(metric).decimals
        rows.append(
            (
                Cell(entry.run, position=entry.position),
                Cell(messages.name(metric)),
                spread(ours, entry.deviation(metric), decimals),
                number(published, decimals),
                number(None if ours is None else ours - published, decimals, sign=True),
            )
        )
    return rows
