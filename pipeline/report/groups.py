"""Results as the tables show them: a group of entries, each entry one run over its seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import islice

from jobs.metrics import metric_of
from jobs.training.settings import BALANCED
from pipeline.report.collect import Collected, Result, SearchResult
from pipeline.report.i18n import Messages

RUNS_NAMED = 6  # in a sentence
# A seed with such a cause says something of its settings; one that the cluster lost says nothing, and is missing.
OWN_FAULTS = frozenset({"diverged", "at chance", "out of memory", "GPU out of memory"})
SHARES = frozenset(
    {"balanced_accuracy", "accuracy", "macro_f1"}
)  # metrics of which guessing is worth about 1 / classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One run over its seeds; ``position`` counts the entries of the whole manifest and gives the colour."""

    group: str
    run: str
    architecture: str
    position: int
    results: tuple[Result, ...]
    search_hours: float | None = None  # GPU-hours of all trials of the search whose winner it is
    chance: float | None = None  # what guessing scores, where a seed failed by its own fault
    # Figures that are asked for often, computed once.
    _values: dict[str, list[float]] = field(init=False, default_factory=dict, compare=False, repr=False)
    _means: dict[str, float | None] = field(init=False, default_factory=dict, compare=False, repr=False)

    @property
    def done(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.done)

    @property
    def first(self) -> Result:
        return self.results[0]

    @property
    def label(self) -> str:
        return f"{self.group} / {self.run}"

    def values(self, metric: str) -> list[float]:
        """The finished seeds' values of a metric; a seed that lacks it is not in the list."""
        if metric not in self._values:
            figures = (result.figures.get(metric) for result in self.results if result.done)
            self._values[metric] = [float(value) for value in figures if value is not None]
        return self._values[metric]

    def mean(self, metric: str) -> float | None:
        if metric not in self._means:
            values = self.values(metric)
            self._means[metric] = math.fsum(values) / len(values) if values else None
        return self._means[metric]

    def deviation(self, metric: str) -> float | None:
        """The sample standard deviation over seeds (n - 1); None for fewer than two."""
        values = self.values(metric)
        if len(values) < 2:
            return None
        mean = self.mean(metric) or 0.0
        return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))

    @property
    def own_failures(self) -> int:
        """How many seeds failed by what they are and not by what happened to them: they count as guessing."""
        return sum(result.state == "failed" and result.cause in OWN_FAULTS for result in self.results)

    def judged(self, metric: str) -> list[float]:
        """What a choice or a comparison goes by: the finished seeds' values, and guessing for those that failed.

        Without them a run would be the better the more of its seeds had diverged.
        """
        values = self.values(metric)
        if self.chance is None or not values or metric.partition("_")[2] not in SHARES:
            return values
        return [*values, *[self.chance] * self.own_failures]

    def judged_mean(self, metric: str) -> float | None:
        values = self.judged(metric)
        return math.fsum(values) / len(values) if values else None

    def gpu_hours(self) -> float | None:
        """The mean of its seeds, as its scores are; of a search's winner what its whole search took."""
        if self.search_hours is not None:
            return self.search_hours
        hours = [result.gpu_hours for result in self.results if result.gpu_hours is not None]
        return math.fsum(hours) / len(hours) if hours else None

    def reference(self, metric: str) -> float | None:
        return self.first.row.reference.get(metric)

    def seeds_text(self, messages: Messages) -> str:
        """``5``, or what is missing and why: ``4/5, 1 out of memory``."""
        done, total = len(self.done), len(self.results)
        return str(total) if done == total else f"{done}/{total}, {reasons_text(self.results, messages)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What becomes a table: an experiment's group, or a search."""

    name: str
    entries: tuple[Entry, ...]
    search: SearchResult | None

    @property
    def results(self) -> tuple[Result, ...]:
        return tuple(result for entry in self.entries for result in entry.results)


def reasons_text(results: Iterable[Result], messages: Messages) -> str:
    """How many of some results have no final figures, by reason: ``1 out of memory, 2 waiting``."""
    reasons = Counter(reason for result in results if (reason := result.reason()) is not None)
    return ", ".join(f"{count} {messages.name(reason)}" for reason, count in sorted(reasons.items()))


def runs_text(runs: Collection[str], messages: Messages) -> str:
    """Some runs by name; of many the first few, and how many more there are."""
    text = ", ".join(islice(runs, RUNS_NAMED))
    return text if len(runs) <= RUNS_NAMED else messages("and others", runs=text, count=len(runs) - RUNS_NAMED)


def make_groups(collected: Collected) -> tuple[Group, ...]:
    """The groups in the manifest's order, each with its entries in order."""
    members: dict[str, dict[str, list[Result]]] = {}
    for result in collected.results:
        members.setdefault(result.row.group, {}).setdefault(result.row.run, []).append(result)
    searches = {search.name: search for search in collected.searches}
    groups, position = [], 0
    for name in [*members, *(name for name in searches if name not in members)]:
        entries = []
        for run, results in members.get(name, {}).items():
            entries.append(
                Entry(
                    group=name,
                    run=run,
                    architecture=results[0].row.architecture,
                    position=position,
                    results=tuple(results),
                    search_hours=_search_hours(searches.get(name)),
                    chance=guessing(results, collected),
                )
            )
            position += 1
        groups.append(Group(name=name, entries=tuple(entries), search=searches.get(name)))
    return tuple(groups)


def _search_hours(search: SearchResult | None) -> float | None:
    hours = [trial.gpu_hours for trial in search.trials if trial.gpu_hours is not None] if search is not None else []
    return math.fsum(hours) if hours else None


def guessing(results: Iterable[Result], collected: Collected) -> float | None:
    """What guessing scores on the data set of a run of which a seed failed by its own fault."""
    results = tuple(results)
    if not any(result.state == "failed" and result.cause in OWN_FAULTS for result in results):
        return None
    classes = max(len(collected.classes(result)) for result in results)
    return 1 / classes if classes else None


def selected_by(entries: Iterable[Entry]) -> str:
    """What the best of some entries is chosen by: their ``select_by`` where all that have one agree."""
    given = {value for entry in entries if isinstance(value := entry.first.settings.get("select_by"), str)}
    return given.pop() if len(given) == 1 else BALANCED


def choose(entries: Iterable[Entry]) -> Entry | None:
    """The entry to choose without looking at the test titles; None when none has a validation figure."""
    entries = tuple(entries)
    return best(entries, selected_by(entries))


def best(entries: Iterable[Entry], metric: str) -> Entry | None:
    """The entry with the best mean of a metric, the first of equals; None when no entry has one."""
    sign = metric_of(metric).sign
    means = ((entry, entry.judged_mean(metric)) for entry in entries)
    scored = [(sign * mean, -entry.position, entry) for entry, mean in means if mean is not None]
    return max(scored, key=lambda item: item[:2])[2] if scored else None
