"""Two runs, or two reports, side by side: settings and metrics that differ, and whether by more than chance."""

from __future__ import annotations

import csv
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from jobs.provenance import compared
from jobs.stages.evaluate import target
from jobs.storage import Storage
from jobs.task import Task, read_record
from jobs.training.metrics import EVALUATION
from jobs.units import Made
from pipeline.report import records, results_csv, significance
from pipeline.report.answers import make_answers
from pipeline.report.groups import OWN_FAULTS, runs_text
from pipeline.report.i18n import Messages, make_messages
from pipeline.report.insights import verdict
from pipeline.report.seeds import own_spread, pooled_spread
from pipeline.report.table import NOTHING, Cell, Column, Table, aligned, number, setting
from pipeline.report.title_sets import TitleSet, labels_key, make_title_set
from sharedfs.errors import InputError

OF_RUN = ("group", "run", "architecture")
RUN_KEY = (*OF_RUN, "seed")
NO_SETTINGS = frozenset({"id", "git_commit", "state", "cause", *results_csv.OF_TEST})
BALANCED = "test_balanced_accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One run of a comparison over its seeds: their lines of results.csv and, where storage has them, test answers.

    ``titles`` are the test titles it was judged on, ``made`` the units of code that made it, ``compared`` what
    ``jobs.provenance`` knows of its training, both of its first seed.
    """

    name: str
    lines: Sequence[Mapping[str, str]]
    titles: TitleSet | None = None
    predictions: Sequence[records.Predictions] = ()
    made: Mapping[str, Made] = field(default_factory=dict)
    compared: Mapping[str, str] = field(default_factory=dict)

    @property
    def line(self) -> Mapping[str, str]:
        return self.lines[0]

    @property
    def own_failures(self) -> int:
        """How many seeds failed by their own fault: each counts as one that guesses."""
        return sum(line.get("state") == "failed" and line.get("cause") in OWN_FAULTS for line in self.lines)

    def figures(self, metric: str) -> list[float]:
        """The finished seeds' values."""
        return [float(text) for line in self.lines if (text := line.get(metric, ""))]

    def figure(self, metric: str) -> float | None:
        """Their mean."""
        values = self.figures(metric)
        return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Tables to show, and sentences below them."""

    tables: tuple[Table, ...]
    sentences: tuple[str, ...]

    def text(self) -> str:
        """For a terminal: aligned columns, then the sentences."""
        return "\n".join([*(aligned(table) for table in self.tables), *self.sentences])


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
        path = self.report / results_csv.CSV
        try:
            with path.open(newline="", encoding="utf-8") as file:
                lines = list(csv.DictReader(file, strict=True))
        except FileNotFoundError as error:
            raise InputError(f"{path}: not there; `tanda report` writes it") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: not a report's table: {error}; `tanda report` writes it again") from error
        for row, line in enumerate(lines, start=1):
            _check_line(line, f"{path}: row {row}")
        return lines


def _check_line(line: Mapping[str, str | None], where: str) -> None:
    """Raise InputError where a row of results.csv lacks what names a run, or has a figure that is no number."""
    if None in line or None in line.values() or any(name not in line for name in RUN_KEY):
        raise InputError(f"{where}: must have as many values as there are columns, and {', '.join(RUN_KEY)} among them")
    for name in results_csv.figures_of(line):
        text = line.get(name)
        try:
            float(text or 0)
        except ValueError as error:
            raise InputError(f"{where}: {name}: must be a number, not {text!r}") from error


def _side(address: _Address) -> Side:
    lines = address.lines()
    matching = [
        line
        for line in lines
        if address.run in (line["run"], f"{line['group']}/{line['run']}") and address.seed in (None, line["seed"])
    ]
    if not matching:
        runs = ", ".join(dict.fromkeys(f"{line['group']}/{line['run']}" for line in lines))
        raise InputError(f"{address.text}: no such run; the report has {runs}")
    if len({line["group"] for line in matching}) > 1:
        raise InputError(f"{address.text}: several groups have such a run: give it as GROUP/RUN")
    return _read_side(address.report, matching)


def _read_side(report: Path, lines: Sequence[Mapping[str, str]]) -> Side:
    """The answers are in the evaluation tasks' folders, which the page's links name; without them, none."""
    name = f"{lines[0]['group']}/{lines[0]['run']}"
    if len(lines) > 1:
        name += f" ({len(lines)} seeds)"
    elif lines[0]["seed"] not in ("", "0"):
        name += f" (seed {lines[0]['seed']})"
    storage = Storage(report.resolve().parent.parent)
    origin: tuple[dict[str, Made], dict[str, str]] | None = None
    titles, predictions = None, []
    for line in lines:
        train = line.get("id", "")
        evaluate = _evaluations(storage.root).get(train)
        if evaluate is None:
            continue
        origin = origin or _read_origin(storage, train, evaluate)
        try:
            evaluation = records.read_evaluation(f"{storage.runs}/{evaluate}")
        except ValueError:
            evaluation = None
        found = evaluation and records.read_predictions(f"{storage.runs}/{evaluate}", "test", len(evaluation[0]))
        if evaluation is not None and found is not None and "test" in evaluation[1]:
            predictions.append(found)
            titles = make_title_set(labels_key(evaluation[0], found.label), evaluation[1]["test"].support)
    made, facts = origin or ({}, {})
    return Side(name=name, lines=lines, titles=titles, predictions=predictions, made=made, compared=facts)


def _read_origin(storage: Storage, train: str, evaluate: str) -> tuple[dict[str, Made], dict[str, str]]:
    """The units that made a run, its data set and its evaluation, and what is known of its training; none if broken."""
    try:
        needs = Task.read(storage.run(train)).needs
        found = [read_record(storage.run(task)) for task in (*needs, evaluate, train)]
    except (OSError, ValueError):
        return {}, {}
    made = {name: unit for record in found if record is not None for name, unit in record.made.items()}
    return made, compared(found[-1].about) if found[-1] is not None else {}


@lru_cache(maxsize=2)
def _evaluations(root: Path) -> dict[str, str]:
    """Evaluate tasks by the train task or trial that they judge; read once for all runs of a report."""
    storage, evaluations = Storage(root), {}
    for path in sorted(storage.runs.glob(f"*/{EVALUATION}")):
        try:
            judged = target(storage, Task.read(path.parent)).name
        except (OSError, ValueError, KeyError):
            continue
        evaluations[judged] = path.parent.name
    return evaluations


def _compare_runs(first: Side, second: Side, messages: Messages) -> Comparison:
    sides = (first, second)
    columns = dict.fromkeys((*first.line, *second.line))
    figures = dict.fromkeys((*results_csv.figures_of(first.line), *results_csv.figures_of(second.line)))
    settings = [
        (Cell(name), *(setting(side.line.get(name) or None) for side in sides))
        for name in columns
        if name not in NO_SETTINGS and name not in figures and first.line.get(name, "") != second.line.get(name, "")
    ]
    metrics = []
    for metric in figures:
        one, other = first.figure(metric), second.figure(metric)
        if one != other:
            metrics.append((Cell(messages.name(metric)), *_figures(one, other)))
    names = (first.name, second.name)
    tables = [
        _table(messages("settings that differ"), (messages("setting"), *names), settings),
        _table(messages("metrics that differ"), (messages("metric"), *names, messages("difference")), metrics),
    ]
    origins = [tuple(map(Cell, line)) for line in _origins_that_differ(first, second, messages)]
    if origins:
        tables.append(_table(messages("made differently"), (messages("made with"), *names), origins, numbers=()))
    return Comparison(tables=tuple(tables), sentences=_verdicts(first, second, messages))


def _origins_that_differ(first: Side, second: Side, messages: Messages) -> Iterator[tuple[str, str, str]]:
    """In what two runs were not made alike, as far as both say it: what, and how the one and the other was made."""
    for unit, one in first.made.items():
        other = second.made.get(unit, one)
        if not one.is_like(other):
            key = "unit made" if one.revision != other.revision else "unit source"
            texts = [messages(key, revision=each.revision, source=each.source[:8]) for each in (one, other)]
            yield unit, texts[0], texts[1]
    for title, value in first.compared.items():
        theirs = second.compared.get(title, value)
        if value != theirs:
            yield messages.name(title), messages.name(value), messages.name(theirs)


def _verdicts(first: Side, second: Side, messages: Messages) -> tuple[str, ...]:
    one, other = first.figure(BALANCED), second.figure(BALANCED)
    if one is None or other is None:
        return ()
    if first.titles is not None and second.titles is not None and first.titles.key != second.titles.key:
        return (_other_titles(first, second, messages),)
    ahead, behind = (first, second) if one >= other else (second, first)
    text = verdict(chance(ahead, behind), messages)
    difference = f"{abs(one - other):.4f}"
    return (messages("ahead", first=ahead.name, second=behind.name, difference=difference, verdict=text),)


def _other_titles(first: Side, second: Side, messages: Messages) -> str:
    """That two runs were judged on different titles, and on which: neither is ahead."""
    counts = [
        messages("title counts", name=side.name, titles=side.titles.titles, categories=side.titles.categories)
        for side in (first, second)
        if side.titles is not None
    ]
    return messages("other titles", sides="; ".join(counts))


def chance(first: Side, second: Side) -> significance.Verdict | None:
    """Whether the difference in test balanced accuracy is more than chance; None where the titles are not the same."""
    if first.titles is None or second.titles is None or first.titles.key != second.titles.key or first.titles.too_few:
        return None
    alike = first.line.get("architecture") == second.line.get("architecture")
    alike = alike and not first.own_failures + second.own_failures
    pooled = pooled_spread([first.figures(BALANCED), second.figures(BALANCED)]) if alike else None
    samples = []
    for side in (first, second):
        guess, failed = 1 / first.titles.known, side.own_failures
        scores = (*side.figures(BALANCED), *[guess] * failed)
        answers = make_answers(side.predictions, guesses=failed, chance=guess, f1=False)
        if answers is None or len(scores) != len(side.predictions) + failed:
            return None
        own = own_spread(scores)
        samples.append(significance.Sample(scores=scores, spread=own and (pooled or own), answers=answers))
    return significance.difference(samples[0], samples[1])


def _compare_reports(first: _Address, second: _Address, messages: Messages) -> Comparison:
    """Runs that both have, by group, name and seed; and those that only one has."""
    one, other = _runs_of(first), _runs_of(second)
    rows: list[tuple[Cell, ...]] = []
    runs_by_origin: dict[tuple[str, str, str], dict[str, None]] = {}
    for key in (key for key in one if key in other):
        sides = _read_side(first.report, one[key]), _read_side(second.report, other[key])
        rows += _compare_lines(*sides, messages)
        for differing in _origins_that_differ(*sides, messages):
            runs_by_origin.setdefault(differing, {})[f"{key[0]}/{key[1]}"] = None
    titles = (
        messages("run"),
        messages("settings that differ"),
        first.text,
        second.text,
        messages("difference"),
        messages("verdict"),
    )
    table = _table(messages(BALANCED), titles, rows, numbers=range(2, 5))
    alone = ((first, _names(one, other)), (second, _names(other, one)))
    sentences = [messages("only in", report=address.text, runs=runs) for address, runs in alone if runs]
    reports = {"first": first.text, "second": second.text}
    for (what, mine, theirs), runs in runs_by_origin.items():
        named = runs_text(runs, messages)
        sentences.append(messages("runs differ", what=what, one=mine, other=theirs, runs=named, **reports))
    return Comparison(tables=(table,), sentences=tuple(sentences))


def _runs_of(address: _Address) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """A report's lines by run, those of its seeds together."""
    runs: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for line in address.lines():
        runs.setdefault(tuple(line[name] for name in OF_RUN), []).append(line)
    return runs


def _compare_lines(first: Side, second: Side, messages: Messages) -> list[tuple[Cell, ...]]:
    """One run in two reports, in a row; none where it is the same tasks with the same score."""
    one, other = first.figure(BALANCED), second.figure(BALANCED)
    ids = [[line.get("id") for line in side.lines] for side in (first, second)]
    if ids[0] == ids[1] and one == other:
        return []
    # A setting that one of the reports has no column for is none that is known to differ.
    others = (*NO_SETTINGS, *RUN_KEY, *results_csv.figures_of(first.line))
    names = [name for name in first.line if name in second.line and name not in others]
    changed = [name for name in names if first.line[name] != second.line[name]]
    known = one is not None and other is not None
    row = (
        Cell(first.name),
        Cell(", ".join(changed) or messages("no difference")),
        *_figures(one, other),
        Cell(verdict(chance(first, second), messages) if known else NOTHING),
    )
    return [row]


def _figures(one: float | None, other: float | None) -> tuple[Cell, Cell, Cell]:
    """Both, and by how much the second is above the first."""
    gap = None if one is None or other is None else other - one
    return number(one, 4), number(other, 4), number(gap, 4, sign=True)


def _names(one: Iterable[tuple[str, ...]], other: Container[tuple[str, ...]]) -> str:
    return ", ".join(dict.fromkeys(f"{key[0]}/{key[1]}" for key in one if key not in other))


def _table(
    title: str, headings: Sequence[str], rows: Iterable[tuple[Cell, ...]], numbers: Container[int] | None = None
) -> Table:
    """A table whose columns hold numbers, where nothing else is said all but the first."""
    right = range(1, len(headings)) if numbers is None else numbers
    columns = tuple(
        Column(key=str(position), title=heading, number=position in right) for position, heading in enumerate(headings)
    )
    return Table(name="", group="", title=title, columns=columns, rows=tuple(rows))
