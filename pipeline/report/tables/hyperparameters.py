"""Each run's hyperparameters: a column each, those that are equal everywhere in the caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobs.settings import Value
from pipeline.report.collect import Collected
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.results_csv import PUBLISHED, hyperparameters
from pipeline.report.table import Cell, Column, Table, collapse_constant_columns, setting

ORDER = 1


def build(group: Group, collected: Collected, messages: Messages) -> Table | None:
    if not group.entries:
        return None
    settings = [entry.first.settings for entry in group.entries]
    names = [name for name in hyperparameters(collected) if any(name in values for values in settings)]
    columns = (
        Column(key="run", title=messages("run"), number=False),
        Column(key="architecture", title=messages("architecture"), number=False),
        *(Column(key=name, title=name, number=_is_number(name, settings)) for name in names),
    )
    rows = tuple(
        (
            Cell(entry.run, position=entry.position),
            Cell(entry.architecture),
            *(setting(values.get(name)) for name in names),
        )
        for entry, values in zip(group.entries, settings, strict=True)
    )
    table = Table(
        name="hyperparameters",
        group=group.name,
        title=f"{group.name}: {messages('hyperparameters').lower()}",
        columns=columns,
        rows=rows,
    )
    return collapse_constant_columns(table, ("run", "architecture"), messages("equal everywhere"), alone=PUBLISHED)


def _is_number(name: str, settings: Sequence[Mapping[str, Value]]) -> bool:
    values = [values[name] for values in settings if values.get(name) is not None]
    return bool(values) and all(type(value) in (int, float) for value in values)
