"""Runs that differ in nothing but how many rows they have learnt from: what more data is worth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from jobs.data.dataset import Dataset
from jobs.data.meta import Meta
from jobs.data.settings import ALL
from pipeline.report.collect import Collected
from pipeline.report.groups import Entry, Group

SCORE = "test_balanced_accuracy"
_DIFFER = ("seed", "train_rows")
_AXIS = re.compile(r"train_rows=[^,]*,?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A run with its training rows, and the mean and deviation of its score over seeds."""

    entry: Entry
    rows: int
    score: float
    deviation: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Runs alike but for ``data.train_rows``, from the fewest rows to the most."""

    label: str
    points: tuple[Point, ...]


def data_sizes(group: Group, collected: Collected) -> tuple[Series, ...]:
    """The series of a group that have more than one number of rows; none of data sets that are not there."""
    metas = _metas(group, collected)
    if len({meta.splits["train"].rows for meta in metas.values()}) < 2:
        return ()
    series: dict[str, list[Point]] = {}
    for entry in group.entries:
        meta, score = metas.get(entry.first.row.dataset), entry.mean(SCORE)
        if meta is None or score is None:
            continue
        settings = {name: value for name, value in entry.first.settings.items() if name not in _DIFFER}
        alike = repr((entry.architecture, settings, replace(meta.settings, train_rows=ALL)))
        point = Point(entry=entry, rows=meta.splits["train"].rows, score=score, deviation=entry.deviation(SCORE))
        series.setdefault(alike, []).append(point)
    curves = [points for points in series.values() if len({point.rows for point in points}) > 1]
    architectures = [points[0].entry.architecture for points in curves]
    return tuple(
        Series(
            label=name if architectures.count(name) == 1 else _name(points[0].entry),
            points=tuple(sorted(points, key=lambda point: point.rows)),
        )
        for name, points in zip(architectures, curves, strict=True)
    )


def _name(entry: Entry) -> str:
    """A run's name without its number of rows."""
    return _AXIS.sub("", entry.run).strip(",") or entry.run


def _metas(group: Group, collected: Collected) -> Mapping[str, Meta]:
    """What is known of the group's data sets, where they are several."""
    names = dict.fromkeys(entry.first.row.dataset for entry in group.entries)
    metas: dict[str, Meta] = {}
    for name in names if len(names) > 1 else ():
        try:
            metas[name] = Dataset.open(collected.storage.dataset(name)).meta
        except (OSError, ValueError):  # not made yet, or damaged: its own task's row says so
            continue
    return metas
