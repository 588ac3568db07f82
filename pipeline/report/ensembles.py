"""What ensembles cost: a row of theirs has what its members took beside its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.models.ensemble import Settings as Ensemble

if TYPE_CHECKING:
    from pipeline.report.collect import Result, SearchResult

SECONDS = "train_seconds"


def with_members_cost(results: Sequence[Result], searches: Sequence[SearchResult]) -> tuple[Result, ...]:
    """The same, each ensemble charged the training time and GPU-hours of all runs that it chooses from.

    Of a search all its trials are charged in GPU-hours, as for its winner.
    """
    return tuple(_charged(result, results, searches) for result in results)


def _charged(result: Result, results: Sequence[Result], searches: Sequence[SearchResult]) -> Result:
    settings = result.row.settings
    if not isinstance(settings, Ensemble):
        return result
    names = frozenset(settings.members)
    members = [one for one in results if not names.isdisjoint((one.row.group, f"{one.row.group}/{one.name}"))]
    hours = [result.gpu_hours, *(member.gpu_hours for member in members if member.row.train is not None)]
    hours += [trial.gpu_hours for search in searches if search.name in names for trial in search.trials]
    known = [value for value in hours if value is not None]
    figures = dict(result.figures)
    if SECONDS in figures:
        figures[SECONDS] += math.fsum(member.figures.get(SECONDS, 0.0) for member in members)
    return replace(result, figures=figures, gpu_hours=math.fsum(known) if known else None)
