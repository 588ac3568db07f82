"""What each run reached: mean ± deviation over seeds, intervals, the best with its ties, the cost."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.metrics import all_metrics, metric_of
from jobs.provenance import COMPARED, compared
from jobs.units import Change
from pipeline.report.collect import Collected
from pipeline.report.groups import Entry, Group, best, runs_text
from pipeline.report.i18n import Messages
from pipeline.report.intervals import intervals
from pipeline.report.significance import best_and_ties
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

ORDER = 2
TESTED = {"test_balanced_accuracy": "test", "validation_balanced_accuracy": "validation"}
LOSSES = ("test_loss", "validation_loss", "train_loss")
SHOWN = ("balanced_accuracy", "loss")  # in columns of their own; of any other metric the test's
CHOSEN = "★"


def build(group: Group, collected: Collected, messages: Messages) -> Table | None:
    if not group.entries:
        return None
    entries = group.entries
    cells: dict[str, list[Cell]] = {}
    titles: dict[str, str] = {}

    def add(key: str, title: str, column: list[Cell]) -> None:
        cells[key], titles[key] = column, title

    chosen = best(entries, "validation_balanced_accuracy")
    add("run", messages("run"), [_name(entry, chosen, len(entries)) for entry in entries])
    add("seeds", messages("seeds"), [Cell(entry.seeds_text(messages), float(len(entry.done))) for entry in entries])
    for metric, split in TESTED.items():
        add(metric, messages(metric), _tested(entries, collected, metric, split))
        if split == "test":
            add("interval", messages("interval"), _interval(entries, collected))
        if any(entry.reference(metric) is not None for entry in entries):
            add(f"{metric} reference", messages("reference"), [number(entry.reference(metric)) for entry in entries])
            add(f"{metric} difference", messages("difference"), [_difference(entry, metric) for entry in entries])
    for metric in (*LOSSES, *(f"test_{name}" for name in all_metrics() if name not in SHOWN)):
        add(metric, messages(metric), _plain(entries, metric))
    add("epochs_run", messages("epochs_run"), [_average(entry, "epochs_run", 0) for entry in entries])
    add("train_seconds", messages("train_seconds"), [_average(entry, "train_seconds", 1) for entry in entries])
    add("gpu_hours", messages("GPU-hours"), [number(entry.gpu_hours(), 3) for entry in entries])
    text = {"run", "seeds", "interval"}
    table = Table(
        name="metrics",
        group=group.name,
        title=f"{group.name}: {messages('metrics').lower()}",
        columns=tuple(Column(key=key, title=titles[key], number=key not in text) for key in cells),
        rows=rows_of(cells),
        notes=_notes(entries, cells, messages),
    )
    return collapse_constant_columns(table, ("run", "test_balanced_accuracy"), messages("same for all"))


def _name(entry: Entry, chosen: Entry | None, count: int) -> Cell:
    star = f" {CHOSEN}" if entry is chosen and count > 1 else ""
    return Cell(f"{entry.run}{star}", position=entry.position)


def _tested(entries: tuple[Entry, ...], collected: Collected, metric: str, split: str) -> list[Cell]:
    cells = [spread(entry.mean(metric), entry.deviation(metric)) for entry in entries]
    comparison = best_and_ties(collected, entries, split)
    if comparison is None or sum(bool(entry.done) for entry in entries) < 2:
        return cells
    return mark_bold(cells, [row for row, entry in enumerate(entries) if entry.position in comparison.tied])


def _interval(entries: tuple[Entry, ...], collected: Collected) -> list[Cell]:
    """Over seeds the mean of their intervals' ends: right if seeds err on the same titles, else too wide."""
    splits, owners = [], []
    for row, entry in enumerate(entries):
        for result in entry.done:
            split = collected.evaluation(result).get("test")
            if split is not None:
                splits.append(split)
                owners.append(row)
    cells = [EMPTY] * len(entries)
    if not splits:
        return cells
    ends = intervals(splits).tolist()
    sums: dict[int, tuple[float, float, int]] = {}
    for row, (low, high) in zip(owners, ends, strict=True):
        lows, highs, count = sums.get(row, (0.0, 0.0, 0))
        sums[row] = (lows + low, highs + high, count + 1)
    for row, (lows, highs, count) in sums.items():
        low, high = lows / count, highs / count
        cells[row] = Cell(f"[{number_text(low)}, {number_text(high)}]", low)
    return cells


def _difference(entry: Entry, metric: str) -> Cell:
    ours, published = entry.mean(metric), entry.reference(metric)
    return number(ours - published if ours is not None and published is not None else None, sign=True)


def _plain(entries: tuple[Entry, ...], figure: str) -> list[Cell]:
    metric = metric_of(figure)
    cells = [spread(entry.mean(figure), entry.deviation(figure), metric.decimals) for entry in entries]
    shown = [
        number_text(mean, metric.decimals) if (mean := entry.mean(figure)) is not None else None for entry in entries
    ]
    means = [
        (mean, text) for entry, text in zip(entries, shown, strict=True) if (mean := entry.mean(figure)) is not None
    ]
    if len(means) < 2:
        return cells
    # Equal as shown is equal: a reader cannot tell them apart either.
    top = max(means, key=lambda pair: metric.sign * pair[0])[1]
    return mark_bold(cells, [row for row, text in enumerate(shown) if text == top])


def _average(entry: Entry, metric: str, decimals: int) -> Cell:
    mean = entry.mean(metric)
    if mean is not None and decimals == 0 and mean != int(mean):
        decimals = 1
    return number(mean, decimals)


def _notes(entries: tuple[Entry, ...], cells: dict[str, list[Cell]], messages: Messages) -> tuple[str, ...]:
    notes = []
    if any(len(entry.results) > 1 for entry in entries):
        notes.append(messages("note spread"))
    if any(cell is not EMPTY for cell in cells["interval"]):
        notes.append(messages("note interval"))
    if len(entries) > 1 and any(entry.done for entry in entries):
        notes += [messages("note bold"), messages("note chosen")]
    return (*notes, *_made_notes(entries, messages))


def _made_notes(entries: tuple[Entry, ...], messages: Messages) -> Iterator[str]:
    """In what the code, the versions or the machines differ that made the rows."""
    done = [(entry.run, result) for entry in entries for result in entry.done]
    for change in sorted({change for _, result in done for change in result.changed}):
        runs = dict.fromkeys(run for run, result in done if change in result.changed)
        yield messages("note changed", change=_change_text(change, messages), runs=runs_text(runs, messages))
    known = [(run, compared(result.about)) for run, result in done]
    for title in COMPARED.values():
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
