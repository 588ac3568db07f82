"""A search in numbers: its settings, its trials by score, the best so far over the epochs spent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.metrics_log import EpochMetrics, figure
from jobs.models import all_settings
from jobs.search.across import ARCHITECTURE, own, shared
from jobs.search.space import is_branch
from jobs.search.study import best_so_far, score
from jobs.settings import Setting, named
from pipeline.report.collect import SearchResult, Trial
from sharedfs.typed_json import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchProgress:
    """The epochs of all trials, failed ones included, in the order in which they ended.

    ``best`` holds (epochs spent, best value so far) from the first value on; ``ended_after`` says, by a trial's
    number, how many epochs had been spent when its last one ended.
    """

    best: tuple[tuple[int, float], ...]
    ended_after: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """How a setting is drawn: from ``options``, or as a number from a range, which may be logarithmic."""

    name: str
    options: tuple[Json, ...]
    log: bool


def by_score(search: SearchResult) -> list[Trial]:
    """Trials, the best first; of equals the earlier one. One that failed can't win, whatever it had reached."""
    metric = search.planned.search.metric

    def key(trial: Trial) -> tuple[bool, float, int]:
        return trial.state == "failed", -score(metric, trial.figures.get(metric)), trial.number

    return sorted(search.trials, key=key)


def axes(search: SearchResult) -> list[Axis]:
    """The settings that are searched, those inside conditional choices too, in the order of the space."""
    by_name: dict[str, list[Json]] = {}
    planned = search.planned.search
    names = tuple(planned.fixed)
    spaces = [(names[0], shared(planned.space, names))]
    if len(names) > 1:
        by_name[ARCHITECTURE] = [{"choice": list(names)}]
        spaces += [(name, own(planned.space, name)) for name in names]
    for architecture, space in spaces:
        known = {setting.name: setting for setting in all_settings(architecture)}
        for name, spec in _specs(space, known):
            by_name.setdefault(name, []).append(spec)
    return [_axis(name, specs) for name, specs in by_name.items()]


def search_progress(search: SearchResult) -> SearchProgress:
    """What the search had reached after each epoch of any trial."""
    metric = search.planned.search.metric
    lines = [(trial.number, line) for trial in search.trials for line in trial.epochs]
    lines.sort(key=lambda pair: _finite(pair[1], "ended") or 0.0)
    best = enumerate(best_so_far(metric, [_finite(line, metric) for _, line in lines]), start=1)
    return SearchProgress(
        best=tuple((count, value) for count, value in best if value is not None),
        ended_after={number: count for count, (number, _) in enumerate(lines, start=1)},
    )


def _finite(line: EpochMetrics, name: str) -> float | None:
    """A figure of a metrics log; None where there is none, or a damaged line has no number in its place."""
    value = figure(line, name)
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _specs(space: Mapping[str, Json], settings: Mapping[str, Setting]) -> Iterator[tuple[str, Json]]:
    """Each setting with its distribution, or with the value that a conditional choice gives it; of parts the names."""
    for name, spec in space.items():
        setting = settings.get(name)
        options: Any = spec.get("choice") if isinstance(spec, Mapping) else None
        if setting is not None and setting.room is not None:
            names = [named(option)[0] for option in (options or [spec])]
            yield name, {"choice": [*dict.fromkeys(names)]}
        elif not is_branch(setting, spec):
            yield name, spec
        else:
            for option in options:
                yield from _specs(option, settings)


def _axis(name: str, specs: list[Json]) -> Axis:
    options: list[Json] = []
    kinds = []
    for spec in specs:
        kind, arguments = next(iter(spec.items())) if isinstance(spec, Mapping) else ("choice", [spec])
        kinds.append(kind)
        if kind == "choice" and isinstance(arguments, Sequence):
            options += [one for one in arguments if one not in options]
    numbers = all(type(one) in (int, float) for one in options)
    # Ranges in one branch and a number in another share a scale; a choice alone stays a choice.
    categories = set(kinds) == {"choice"} or not numbers
    return Axis(
        name=name,
        options=tuple(options) if categories else (),
        log=any(kind.startswith(("log", "qlog")) for kind in kinds),
    )
