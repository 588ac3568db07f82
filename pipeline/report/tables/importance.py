"""Which settings mattered in a search: the share of its metric's variance that each explains."""

from __future__ import annotations

from pipeline.report.collect import Collected
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.table import Cell, Column, Table, number, number_text

ORDER = 5


def build(group: Group, collected: Collected, messages: Messages) -> Table | None:
    if group.search is None:
        return None
    found = collected.importance(group.search)
    if not found.shares:
        return None
    metric = group.search.planned.search.metric
    return Table(
        name="importance",
        group=group.name,
        title=f"{group.name}: {messages('importance').lower()}",
        columns=(
            Column(key="setting", title=messages("setting"), number=False),
            Column(key="importance", title=messages("share of variance")),
        ),
        rows=tuple(
            (Cell(label), number(share, 2) if label in found.known else Cell(messages("cannot tell")))
            for label, share in found.shares.items()
        ),
        notes=(
            messages("note importance", metric=messages.name(metric)),
            messages(
                "note importance error" if found.known else "note importance unknown",
                error=number_text(found.error, 2),
                trials=found.trials,
            ),
        ),
    )
