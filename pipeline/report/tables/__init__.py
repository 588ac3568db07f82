"""The tables of a group, one file each: ``ORDER`` and ``build(group, collected, messages) -> Table | None``."""

from __future__ import annotations

from importlib import import_module

from jobs import module_names
from pipeline.report.collect import Collected
from pipeline.report.groups import Group
from pipeline.report.i18n import Messages
from pipeline.report.table import Table


def names() -> tuple[str, ...]:
    """Every table there is, in the order in which a report shows them."""
    return tuple(sorted(module_names(__name__), key=lambda name: (import_module(f"{__name__}.{name}").ORDER, name)))


def build_all(group: Group, collected: Collected, messages: Messages) -> tuple[Table, ...]:
    """Every table that has something to say of a group."""
    built = (import_module(f"{__name__}.{name}").build(group, collected, messages) for name in names())
    return tuple(table for table in built if table is not None)
