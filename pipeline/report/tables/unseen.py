"""Each run's score on all test titles, and on those that training does not have: where training has some of them."""

from __future__ import annotations

from jobs.metrics import metric_of
from pipeline.report.collect import Collected
from pipeline.report.groups import Entry, Group
from pipeline.report.i18n import Messages
from pipeline.report.results_csv import UNSEEN
from pipeline.report.table import Cell, Column, Table, number, spread

ORDER = 2
ALL = "test_balanced_accuracy"


def build(group: Group, _collected: Collected, messages: Messages) -> Table | None:
    entries = [entry for entry in group.entries if _some_are_seen(entry)]
    if not entries:
        return None
    return Table(
        name="unseen",
        group=group.name,
        title=f"{group.name}: {messages('unseen').lower()}",
        columns=(
            Column(key="run", title=messages("run"), number=False),
            Column(key="all", title=messages.name(ALL)),
            Column(key="unseen", title=messages("on unseen titles")),
            Column(key="titles", title=messages("unseen titles")),
        ),
        rows=tuple(_row(entry) for entry in entries),
        notes=(messages("note unseen"),),
    )


def _some_are_seen(entry: Entry) -> bool:
    return any(
        result.figures.get("test_unseen_titles", 0) < result.figures.get("test_titles", 0) for result in entry.results
    )


def _row(entry: Entry) -> tuple[Cell, ...]:
    decimals = metric_of(ALL).decimals
    return (
        Cell(entry.run, position=entry.position),
        spread(entry.mean(ALL), entry.deviation(ALL), decimals),
        spread(entry.mean(UNSEEN), entry.deviation(UNSEEN), decimals),
        number(entry.mean("test_unseen_titles"), 0),
    )
