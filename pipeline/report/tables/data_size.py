"""Each run's score beside the rows that it has learnt from, where runs differ in nothing else."""

from __future__ import annotations

from jobs.metrics import metric_of
from pipeline.report.collect import Collected
from pipeline.report.data_sizes import SCORE, data_sizes
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.table import Cell, Column, Table, number, spread

ORDER = 3


def build(group: Group, collected: Collected, messages: Messages) -> Table | None:
    decimals = metric_of(SCORE).decimals
    rows = [
        (
            Cell(point.entry.run, position=point.entry.position),
            number(point.rows, 0),
            spread(point.score, point.deviation, decimals),
            number(None if before is None else point.score - before, decimals, sign=True),
        )
        for series in data_sizes(group, collected)
        for before, point in zip((None, *(each.score for each in series.points)), series.points, strict=False)
    ]
    if not rows:
        return None
    return Table(
        name="data_size",
        group=group.name,
        title=f"{group.name}: {messages('data sizes').lower()}",
        columns=(
            Column(key="run", title=messages("run"), number=False),
            Column(key="rows", title=messages("training rows")),
            Column(key="score", title=messages.name(SCORE)),
            Column(key="gain", title=messages("more than before")),
        ),
        rows=tuple(rows),
        notes=(messages("note data sizes"),),
    )
