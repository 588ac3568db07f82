"""The tables of a group, one file each: ``ORDER`` and ``build(group, collected, messages) -> Table | None``."""

from __future__ import annotations

from jobs.plugins import TABLES, left_out_where_it_fails
from pipeline.report.collect import Collected
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.table import Table


def build_all(group: Group, collected: Collected, messages: Messages) -> tuple[Table, ...]:
    """Every table that has something to say of a group, in the order of ORDER; a plugin that fails is left out."""
    built: list[Table | None] = []
    for module in TABLES.modules():
        with left_out_where_it_fails(module):
            built.append(module.build(group, collected, messages))
    return tuple(table for table in built if table is not None)
