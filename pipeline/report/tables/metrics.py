"""What each run reached: mean ± deviation over seeds, intervals, the best with its ties, the cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs import gpu_use
from jobs.metrics import all_metrics, metric_of
from jobs.metrics.top5 import TOP
from jobs.provenance import COMPARED as FACTS
from jobs.provenance import compared
from jobs.units import Change
from pipeline.report.answers import COMPARED
from pipeline.report.collect import Collected
from pipeline.report.groups import Entry, Group, choose, runs_text, selected_by
from pipeline.report.i18n import Messages
from pipeline.report.intervals import FEWEST
from pipeline.report.significance import by_titles, seed_spread
from pipeline.report.standings import answers_of, entry_intervals, standings
from pipeline.report.table import (
    EMPTY,
    Cell,
    Column,
    Table,
    collapse_constant_columns,
    mark_bold,
    number,
    number_text,
    rows_of,
    spread,
)
from pipeline.report.tables.data import dropped_notes
from pipeline.report.title_sets import TitleSet

ORDER = 2
BALANCED = "test_balanced_accuracy"
LOSSES = ("test_loss", "validation_loss", "train_loss")
CALIBRATED_LOSS = "test_calibrated_loss"
SHOWN = ("balanced_accuracy", "loss")  # in columns of their own; of any other metric the test's
CHOSEN = "★"


def build(group: Group, collected: Collected, messages: Messages) -> Table | None:
    if not group.entries:
        return None
    entries = group.entries
    judged = _judge(entries, collected)
    cells: dict[str, list[Cell]] = {}
    titles: dict[str, str] = {}

    def add(key: str, title: str, column: list[Cell]) -> None:
        cells[key], titles[key] = column, title

    add("run", messages("run"), [_name(entry, judged) for entry in entries])
    if len(judged.sets) > 1:
        add("titles", messages("test titles"), [_titles(entry, judged) for entry in entries])
    add("seeds", messages("seeds"), [Cell(entry.seeds_text(messages), float(len(entry.done))) for entry in entries])
    for metric in (BALANCED, "validation_balanced_accuracy"):
        add(metric, messages(metric), _plain(entries, metric, judged))
        if metric == BALANCED:
            add("interval", messages("interval"), _interval(entries, judged, "balanced_accuracy", messages))
        if any(entry.reference(metric) is not None for entry in entries):
            add(f"{metric} reference", messages("reference"), [number(entry.reference(metric)) for entry in entries])
            add(f"{metric} difference", messages("difference"), [_difference(entry, metric) for entry in entries])
    add(CALIBRATED_LOSS, messages(CALIBRATED_LOSS), [_spread(entry, CALIBRATED_LOSS) for entry in entries])
    losses = LOSSES if _one_kind_of_loss(entries) else ()
    for metric in (*losses, *(f"test_{name}" for name in all_metrics() if name not in SHOWN)):
        if metric == "test_top5" and all(found.known <= TOP for found in judged.sets):
            continue  # it is 1 by definition
        add(metric, messages(metric), _plain(entries, metric, judged))
        if (name := metric.removeprefix("test_")) in COMPARED and judged.sets:
            title = messages("interval of", metric=messages(metric))
            add(f"{name} interval", title, _interval(entries, judged, name, messages))
    add("epochs_run", messages("epochs_run"), [_average(entry, "epochs_run", 0) for entry in entries])
    add("train_seconds", messages("train_seconds"), [_average(entry, "train_seconds", 1) for entry in entries])
    add(
        "gpu_hours",
        messages("GPU-hours a seed" if group.search is None else "GPU-hours"),
        [number(entry.gpu_hours(), 3) for entry in entries],
    )
    used = [gpu_use.figures(gpu_use.total(result.gpu for result in entry.results)) for entry in entries]
    for name, decimals in (("gpu_use", 0), ("gpu_peak_gb", 1), ("gpu_energy_kwh", 3)):
        if any(figures[name] is not None for figures in used):
            add(name, messages(name), [number(figures[name], decimals) for figures in used])
    text = {"run", "titles", "seeds", *(key for key in cells if key.endswith("interval"))}
    table = Table(
        name="metrics",
        group=group.name,
        title=f"{group.name}: {messages('metrics').lower()}",
        columns=tuple(Column(key=key, title=titles[key], number=key not in text) for key in cells),
        rows=rows_of(cells),
        notes=_notes(entries, judged, collected, messages),
    )
    return collapse_constant_columns(table, ("run", BALANCED), messages("same for all"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """A table's entries by the titles that they were judged on.

    ``letters`` name the sets, ``chosen`` are the entries to choose by validation, ``bold`` those that may be the best
    by a metric, ``ends`` intervals by metric, all by position.
    """

    sets: Mapping[TitleSet, Sequence[Entry]]
    letters: Mapping[int, str]
    chosen: frozenset[int]
    bold: Mapping[str, frozenset[int]]
    ends: Mapping[str, Mapping[int, tuple[float, float]]]
    few: frozenset[int]
    of_settings: bool


def _judge(entries: Sequence[Entry], collected: Collected) -> _Judged:
    sets = by_titles(collected, entries)
    letters: dict[int, str] = {}
    chosen, few = set(), set()
    bold: dict[str, set[int]] = {metric: set() for metric in COMPARED}
    ends: dict[str, dict[int, tuple[float, float]]] = {metric: {} for metric in COMPARED}
    verdicts = []
    for number_, (titles, members) in enumerate(sets.items()):
        letters |= {entry.position: _letter(number_) for entry in members}
        top = choose(members)
        if top is not None and len(members) > 1:
            chosen.add(top.position)
        if titles.too_few:
            few |= {entry.position for entry in members}
        answers = answers_of(collected, members)
        for metric, standing in standings(members, titles, answers).items():
            bold[metric] |= standing.tied
            verdicts.append(standing.of_settings)
        for metric in COMPARED:
            ends[metric] |= entry_intervals(members, titles, answers, metric)
    return _Judged(
        sets=sets,
        letters=letters,
        chosen=frozenset(chosen),
        bold={f"test_{metric}": frozenset(positions) for metric, positions in bold.items()},
        ends=ends,
        few=frozenset(few),
        of_settings=all(verdicts),
    )


def _letter(number_: int) -> str:
    """A, B, .. Z, AA, AB, .."""
    first, last = divmod(number_, 26)
    return (_letter(first - 1) if first else "") + chr(ord("A") + last)


def _name(entry: Entry, judged: _Judged) -> Cell:
    star = f" {CHOSEN}" if entry.position in judged.chosen else ""
    return Cell(f"{entry.run}{star}", position=entry.position)


def _titles(entry: Entry, judged: _Judged) -> Cell:
    letter = judged.letters.get(entry.position)
    return EMPTY if letter is None else Cell(letter)


def _interval(entries: Sequence[Entry], judged: _Judged, metric: str, messages: Messages) -> list[Cell]:
    cells = []
    for entry in entries:
        ends = judged.ends[metric].get(entry.position)
        if ends is not None:
            low, high = ends
            cells.append(Cell(f"[{number_text(low)}, {number_text(high)}]", low))
        else:
            cells.append(Cell(messages("too few titles")) if entry.position in judged.few else EMPTY)
    return cells


def _difference(entry: Entry, metric: str) -> Cell:
    ours, published = entry.mean(metric), entry.reference(metric)
    return number(ours - published if ours is not None and published is not None else None, sign=True)


def _plain(entries: Sequence[Entry], figure: str, judged: _Judged) -> list[Cell]:
    decimals = metric_of(figure).decimals
    cells = [spread(entry.mean(figure), entry.deviation(figure), decimals) for entry in entries]
    bold = judged.bold.get(figure, frozenset())
    return mark_bold(cells, [row for row, entry in enumerate(entries) if entry.position in bold])


def _spread(entry: Entry, figure: str) -> Cell:
    return spread(entry.mean(figure), entry.deviation(figure))


def _one_kind_of_loss(entries: Sequence[Entry]) -> bool:
    """Whether all trained on the same loss: a baseline's is of scaled decisions, an adjusted one of shifted logits."""
    return len({result.settings.get("logit_adjustment") for entry in entries for result in entry.results}) < 2


def _average(entry: Entry, metric: str, decimals: int) -> Cell:
    mean = entry.mean(metric)
    if mean is not None and decimals == 0 and mean != int(mean):
        decimals = 1
    return number(mean, decimals)


def _notes(entries: Sequence[Entry], judged: _Judged, collected: Collected, messages: Messages) -> tuple[str, ...]:
    notes = []
    if any(len(entry.results) > 1 for entry in entries):
        notes += [messages("note spread"), *_seed_notes(entries, collected, messages)]
    for number_, titles in enumerate(judged.sets):
        about = {"titles": titles.titles, "categories": titles.categories, "known": titles.known, "rare": titles.rare}
        which = messages("note set", letter=_letter(number_)) if len(judged.sets) > 1 else ""
        notes.append(which + messages("note titles", **about))
    notes += dropped_notes(entries, collected, messages)
    if any(judged.ends.values()):
        notes.append(messages("note interval"))
    if any(entry.mean(CALIBRATED_LOSS) is not None for entry in entries):
        notes.append(messages("note calibrated"))
    if not _one_kind_of_loss(entries):
        notes.append(messages("note loss kinds"))
    if judged.few:
        notes.append(messages("note too few", fewest=FEWEST))
    if any(judged.bold.values()):
        notes.append(messages("note bold settings" if judged.of_settings else "note bold models"))
    if judged.chosen:
        notes.append(messages("note chosen", metric=messages.name(selected_by(entries))))
    if any(entry.search_hours is not None for entry in entries):
        notes.append(messages("note search cost"))
    if any(entry.own_failures and entry.done for entry in entries):
        notes.append(messages("note own failures"))
    return (*notes, *_made_notes(entries, messages))


def _seed_notes(entries: Sequence[Entry], collected: Collected, messages: Messages) -> Iterator[str]:
    """How far seeds are apart where that is known from several runs together."""
    for name in dict.fromkeys(entry.architecture for entry in entries):
        pooled = {
            found: None
            for entry in entries
            if entry.architecture == name
            and (found := seed_spread(collected, entry, "balanced_accuracy")) is not None
            and found.runs > 1
        }
        for found in pooled:
            deviation = number_text(math.sqrt(found.variance), 4)
            yield messages(
                "note pooled", architecture=name, deviation=deviation, runs=found.runs, freedom=found.freedom
            )


def _made_notes(entries: Sequence[Entry], messages: Messages) -> Iterator[str]:
    """In what the code, the versions or the machines differ that made the rows."""
    done = [(entry.run, result) for entry in entries for result in entry.done]
    for change in sorted({change for _, result in done for change in result.changed}):
        runs = dict.fromkeys(run for run, result in done if change in result.changed)
        yield messages("note changed", change=_change_text(change, messages), runs=runs_text(runs, messages))
    known = [(run, compared(result.about)) for run, result in done]
    for title in FACTS.values():
        runs_by_value: dict[str, dict[str, None]] = {}
        for run, facts in known:
            if title in facts:
                runs_by_value.setdefault(facts[title], {})[run] = None
        if len(runs_by_value) > 1:
            parts = [f"{messages.name(value)}: {runs_text(runs, messages)}" for value, runs in runs_by_value.items()]
            yield messages("note differs", what=messages.name(title), values="; ".join(parts))


def _change_text(change: Change, messages: Messages) -> str:
    """Which code it was, and how it stands now."""
    if change.now is None:
        return messages("unit gone", unit=change.unit)
    if change.now != change.was:
        return messages("unit revision", unit=change.unit, was=change.was, now=change.now)
    return messages("unit code", unit=change.unit, was=change.was)
