"""Two runs, or two reports, side by side: settings and metrics that differ, and whether by more than chance."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jobs.errors import InputError
from jobs.search.summary import winner
from jobs.storage import Storage, read_json
from pipeline.report import records, results_csv, significance
from pipeline.report.i18n import Messages, make_messages
from pipeline.report.insights import verdict
from pipeline.report.table import Cell, Column, Table, number, setting

PLACE = ("group", "run", "architecture", "seed")
FIGURES = (*results_csv.METRICS, "gpu_hours")
BALANCED = "test_balanced_accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One run of a comparison: its line of results.csv and, where storage still has them, its test answers."""

    name: str
    line: Mapping[str, str]
    split: records.Split | None
    predictions: records.Predictions | None

    def figure(self, metric: str) -> float | None:
        text = self.line.get(metric, "")
        return float(text) if text else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Tables to show, and sentences below them."""

    tables: tuple[Table, ...]
    sentences: tuple[str, ...]

    def text(self) -> str:
        """For a terminal: aligned columns, then the sentences."""
        return "\n".join([*(_aligned(table) for table in self.tables), *self.sentences])


def _aligned(table: Table) -> str:
    lines = [[column.title for column in table.columns], *([cell.text for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = [
        "  ".join(
            text.rjust(width) if column.number else text.ljust(width)
            for text, width, column in zip(line, widths, table.columns, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([f"{table.title}:", *(f"  {line}" for line in told), ""])


def compare(first: str, second: str, *, language: str = "en") -> Comparison:
    """Compare two runs (``REPORT:GROUP/RUN``, or with ``:SEED`` at the end) or two reports' folders.

    Raises ValueError saying what would be right for what is not there.
    """
    messages = make_messages(language)
    _evaluations.cache_clear()
    one, other = _Address.read(first), _Address.read(second)
    if (one.run is None) != (other.run is None):
        raise InputError(f"{first} and {second}: give two reports, or two runs as REPORT:GROUP/RUN")
    if one.run is None:
        return _compare_reports(one, other, messages)
    return _compare_runs(_side(one), _side(other), messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    text: str
    report: Path
    run: str | None
    seed: str | None

    @classmethod
    def read(cls, text: str) -> _Address:
        # A folder may hold a colon in its name: what is there as it stands is a report.
        if Path(text).is_dir():
            return cls(text=text, report=Path(text), run=None, seed=None)
        folder, _, rest = text.partition(":")
        run, _, seed = rest.rpartition(":") if rest.count(":") and rest.rpartition(":")[2].isdigit() else (rest, "", "")
        if not Path(folder).is_dir() or not rest:
            raise InputError(f"{text}: no such report; give a folder such as storage/reports/NAME, or that:GROUP/RUN")
        return cls(text=text, report=Path(folder), run=run, seed=seed or None)

    def lines(self) -> list[dict[str, str]]:
        path = self.report / "results.csv"
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except FileNotFoundError as error:
            raise InputError(f"{path}: not there; `tanda report` writes it") from error


def _side(address: _Address) -> Side:
    lines = address.lines()
    found = [
        line
        for line in lines
        if address.run in (line["run"], f"{line['group']}/{line['run']}") and address.seed in (None, line["seed"])
    ]
    if not found:
        known = ", ".join(dict.fromkeys(f"{line['group']}/{line['run']}" for line in lines))
        raise InputError(f"{address.text}: no such run; the report has {known}")
    if len({line["group"] for line in found}) > 1:
        raise InputError(f"{address.text}: several groups have such a run: give it as GROUP/RUN")
    return _read_side(address.report, found[0])


def _read_side(report: Path, line: Mapping[str, str]) -> Side:
    """The answers are in the evaluation task's folder, which the page's link names; without it, none."""
    name = f"{line['group']}/{line['run']}" + (f" (seed {line['seed']})" if line["seed"] not in ("", "0") else "")
    storage = Storage(report.resolve().parent.parent)
    evaluate = _evaluations(storage.root).get(line.get("id", ""))
    try:
        evaluation = records.read_evaluation(f"{storage.runs}/{evaluate}") if evaluate else None
    except ValueError:
        evaluation = None
    if evaluation is None:
        return Side(name=name, line=line, split=None, predictions=None)
    predictions = records.read_predictions(f"{storage.runs}/{evaluate}", "test")
    return Side(name=name, line=line, split=evaluation[1].get("test"), predictions=predictions)


@lru_cache(maxsize=2)
def _evaluations(root: Path) -> dict[str, str]:
    """Evaluate tasks by the train task or trial that they judge; read once for all runs of a report."""
    storage, found = Storage(root), {}
    for path in sorted(storage.runs.glob("*/evaluation.json")):
        try:
            settings = read_json(path.parent / "task.json")["settings"]
            judged = (
                settings.get("train") or winner(storage, settings["search"], settings["trials"], settings["rank"]).name
            )
        except (OSError, ValueError, KeyError):
            continue
        found[judged] = path.parent.name
    return found


def _compare_runs(first: Side, second: Side, messages: Messages) -> Comparison:
    sides = (first, second)
    shown = [name for name in first.line if name not in (*FIGURES, "id", "git_commit", "state", "cause")]
    shown += [name for name in second.line if name not in first.line and name not in FIGURES]
    settings = _table(
        "settings",
        messages("settings that differ"),
        messages("setting"),
        sides,
        [
            (Cell(name), *(setting(side.line.get(name) or None) for side in sides))
            for name in shown
            if first.line.get(name, "") != second.line.get(name, "")
        ],
    )
    rows: list[tuple[Cell, ...]] = []
    for metric in FIGURES:
        one, other = (side.figure(metric) for side in sides)
        if one != other:
            gap = None if one is None or other is None else other - one
            rows.append((Cell(messages.name(metric)), number(one, 4), number(other, 4), number(gap, 4, sign=True)))
    metrics = _table(
        "metrics", messages("metrics that differ"), messages("metric"), sides, rows, messages("difference")
    )
    return Comparison(tables=(settings, metrics), sentences=_verdicts(first, second, messages))


def _verdicts(first: Side, second: Side, messages: Messages) -> tuple[str, ...]:
    one, other = first.figure(BALANCED), second.figure(BALANCED)
    p = chance(first, second)
    if one is None or other is None or p is None:
        return ()
    lead, back = (first, second) if one >= other else (second, first)
    told = messages(
        "ahead", first=lead.name, second=back.name, difference=f"{abs(one - other):.4f}", verdict=verdict(p, messages)
    )
    return (told,)


def chance(first: Side, second: Side) -> float | None:
    """The p value of the difference in test balanced accuracy: paired on the same titles, else not paired."""
    mine, theirs = first.predictions, second.predictions
    if mine is not None and theirs is not None and np.array_equal(mine.label, theirs.label):
        right = [(side.predicted == side.label).astype(np.float64) for side in (mine, theirs)]
        return significance.paired_p(right[0], right[1], mine.label)
    if first.split is not None and second.split is not None:
        return significance.unpaired_p(first.split, second.split)
    return None


def _compare_reports(first: _Address, second: _Address, messages: Messages) -> Comparison:
    """Runs that both have, by group, name and seed; and those that only one has."""
    one, other = (
        {tuple(line[name] for name in PLACE): line for line in address.lines()} for address in (first, second)
    )
    rows: list[tuple[Cell, ...]] = []
    for place in one:
        if place not in other:
            continue
        sides = [_read_side(address.report, lines[place]) for address, lines in ((first, one), (second, other))]
        figures = [side.figure(BALANCED) for side in sides]
        if sides[0].line.get("id") == sides[1].line.get("id") and figures[0] == figures[1]:
            continue
        changed = [name for name in one[place] if _differs(name, one[place], other[place])]
        gap = figures[1] - figures[0] if figures[0] is not None and figures[1] is not None else None
        p = chance(*sides) if gap is not None else None
        rows.append(
            (
                Cell(sides[0].name),
                Cell(", ".join(changed) or messages("no difference")),
                number(figures[0], 4),
                number(figures[1], 4),
                number(gap, 4, sign=True),
                Cell(verdict(p, messages) if p is not None else "–"),
            )
        )
    titles = (messages("run"), messages("settings that differ"), first.text, second.text)
    table = Table(
        name="runs",
        group="",
        title=messages(BALANCED),
        columns=tuple(
            Column(key=title, title=title, number=place in (2, 3, 4))
            for place, title in enumerate((*titles, messages("difference"), messages("verdict")))
        ),
        rows=tuple(rows),
    )
    alone = [messages("only in", report=first.text, runs=_names(one, other)) if set(one) - set(other) else ""]
    alone += [messages("only in", report=second.text, runs=_names(other, one)) if set(other) - set(one) else ""]
    return Comparison(tables=(table,), sentences=tuple(sentence for sentence in alone if sentence))


def _differs(name: str, one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    plain = name not in (*FIGURES, *PLACE, "id", "git_commit", "state", "cause")
    return plain and one.get(name, "") != other.get(name, "")


def _names(one: Mapping[tuple[str, ...], Any], other: Mapping[tuple[str, ...], Any]) -> str:
    return ", ".join(dict.fromkeys(f"{place[0]}/{place[1]}" for place in one if place not in other))


def _table(
    name: str,
    title: str,
    what: str,
    sides: tuple[Side, Side],
    rows: list[tuple[Cell, ...]],
    *more: str,
) -> Table:
    heads = (what, sides[0].name, sides[1].name, *more)
    columns = tuple(Column(key=str(place), title=head, number=place > 0) for place, head in enumerate(heads))
    return Table(name=name, group="", title=title, columns=columns, rows=tuple(rows))
