"""A model card for what each group chose: what it is, how good it is and where not, what it cost, how to use it.

Mitchell et al., *Model Cards for Model Reporting*, FAT* 2019, as far as records can fill one in.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from jobs.data.dataset import Dataset
from jobs.metrics import metric_of
from jobs.training.metrics import EVALUATION
from pipeline.errors import Slice, find_errors
from pipeline.report.answers import COMPARED
from pipeline.report.calibration import read_calibration
from pipeline.report.collect import Collected, Result
from pipeline.report.files import file_name
from pipeline.report.groups import Entry, Group, choose, selected_by
from pipeline.report.i18n import SPLIT_WORDS, Messages
from pipeline.report.intervals import RARE
from pipeline.report.results_csv import UNSEEN
from pipeline.report.significance import by_titles, mean_recall_of
from pipeline.report.standings import answers_of, entry_intervals
from pipeline.report.table import (
    Cell,
    Column,
    Table,
    escape_markdown,
    number,
    number_text,
    setting,
    spread,
    to_markdown,
)
from pipeline.report.title_sets import TitleSet
from sharedfs.files import read_plain

CARDS = "cards"
SCORES = (*(f"test_{name}" for name in COMPARED), "test_calibrated_loss", "test_brier", "test_calibration_error")
FEWEST_IN_SLICE = 20  # titles: an error over fewer says little
WORST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card's file within the report, the group it is of, and its text."""

    path: str
    group: str
    text: str


def make_cards(groups: Sequence[Group], collected: Collected, messages: Messages) -> tuple[Card, ...]:
    """A card for each group's choice on each set of test titles."""
    cards = []
    for group in groups:
        sets = by_titles(collected, group.entries)
        for at, (titles, members) in enumerate(sets.items()):
            entry = choose([member for member in members if member.done])
            if entry is not None:
                name = file_name(group.name) + (f"-{at + 1}" if len(sets) > 1 else "")
                text = "\n".join(_sections(entry, members, titles, collected, messages))
                cards.append(Card(path=f"{CARDS}/{name}.md", group=group.name, text=text))
    return tuple(cards)


def _sections(
    entry: Entry, members: Sequence[Entry], titles: TitleSet, collected: Collected, messages: Messages
) -> Iterator[str]:
    result = entry.done[0]
    yield f"# {escape_markdown(messages('model card', run=entry.label))}\n"
    yield f"{_what(entry, members, messages)}\n"
    yield _settings(entry, result, messages)
    yield f"## {messages('data')}\n"
    yield _data(result, titles, collected, messages)
    yield f"## {messages('scores')}\n"
    yield _scores(entry, titles, collected, messages)
    yield from _by_language(result, collected, messages)
    calibration = read_calibration(collected, result)
    if calibration is not None:
        values = {
            "temperature": number_text(calibration.temperature, 3),
            "before": number_text(calibration.test.as_trained.error, 3),
            "after": number_text(calibration.test.at_temperature.error, 3),
        }
        yield f"## {messages('calibration')}\n\n{messages('card calibration', **values)}\n"
    yield f"## {messages('weaknesses')}\n"
    yield "".join(f"- {escape_markdown(line)}\n" for line in _weaknesses(entry, result, titles, collected, messages))
    yield f"## {messages('card cost title')}\n\n{_cost(entry, result, messages)}\n"
    run = shlex.quote(str(collected.storage.run(result.id or result.row.evaluate)))
    yield f"## {messages('use')}\n\n{messages('card use')}\n\n```sh\ntanda predict {run} titles.txt\n```\n"


def _what(entry: Entry, members: Sequence[Entry], messages: Messages) -> str:
    result = entry.done[0]
    parameters = result.figures.get("parameters")
    sentences = [
        messages(
            "card what",
            architecture=entry.architecture,
            parameters="–" if parameters is None else f"{parameters:,.0f}",
            trained=messages("card trained once" if len(entry.done) == 1 else "card trained", seeds=len(entry.done)),
            commit=result.git_commit or messages("unknown commit"),
        )
    ]
    if len(members) > 1:
        metric = messages.name(selected_by(members))
        sentences.append(messages("card chosen", count=len(members), metric=metric, looks=len(members)))
    return escape_markdown(" ".join(sentences))


def _settings(entry: Entry, result: Result, messages: Messages) -> str:
    rows = tuple((Cell(name), setting(value)) for name, value in result.settings.items() if value is not None)
    return _table(entry, "settings", ("setting", "value"), rows, messages)


def _table(
    entry: Entry, name: str, columns: Sequence[str], rows: tuple[tuple[Cell, ...], ...], messages: Messages
) -> str:
    heads = tuple(Column(key=key, title=messages.name(key), number=at > 0) for at, key in enumerate(columns))
    return to_markdown(Table(name=name, group=entry.group, title=messages(name), columns=heads, rows=rows))


def _dataset(result: Result, collected: Collected) -> Dataset | None:
    try:
        return Dataset.open(collected.storage.dataset(result.row.dataset))
    except (OSError, ValueError):  # gone or damaged: the card does without
        return None


def _data(result: Result, titles: TitleSet, collected: Collected, messages: Messages) -> str:
    lines = [messages("card test titles", titles=titles.titles, categories=titles.categories, known=titles.known)]
    dataset = _dataset(result, collected)
    if dataset is not None:
        for split, size in dataset.meta.splits.items():
            statement = dataset.meta.statement.get(split)
            languages = ", ".join(
                f"{name} {count}" for name, count in (statement.languages.items() if statement else ()) if name
            )
            word = messages(SPLIT_WORDS[split])
            lines.append(f"{word}: {size.rows} {messages('titles')}" + (f" ({languages})" if languages else ""))
    if result.fingerprint is not None:
        lines.append(messages("note fingerprint", fingerprint=result.fingerprint))
    lines.append(f"{messages('data set')}: {result.row.dataset}")
    return "".join(f"- {escape_markdown(line)}\n" for line in lines)


def _scores(entry: Entry, titles: TitleSet, collected: Collected, messages: Messages) -> str:
    answers = answers_of(collected, [entry])
    rows = []
    for figure in (*SCORES, UNSEEN):
        mean = entry.mean(figure)
        if mean is None:
            continue
        name = figure.removeprefix("test_")
        ends = entry_intervals([entry], titles, answers, name).get(entry.position) if name in COMPARED else None
        decimals = metric_of(figure).decimals if figure in SCORES[:-3] else 3
        text = "–" if ends is None else f"[{number_text(ends[0])}, {number_text(ends[1])}]"
        title = messages("on unseen titles") if figure == UNSEEN else messages.name(figure)
        rows.append((Cell(title), spread(mean, entry.deviation(figure), decimals), Cell(text)))
    return _table(entry, "scores", ("figure", "value", "interval"), tuple(rows), messages)


def _by_language(result: Result, collected: Collected, messages: Messages) -> Iterator[str]:
    try:
        document = orjson.loads(read_plain(collected.storage.run(result.row.evaluate) / EVALUATION))
        languages: Mapping[str, Mapping[str, float]] = document["test"].get("languages", {})
        rows = tuple(
            (
                Cell(name),
                number(figures["titles"], 0),
                number(figures["balanced_accuracy"]),
                number(figures["accuracy"]),
            )
            for name, figures in languages.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged: the run's row says so
        return
    if rows:
        heads = ("language of titles", "titles", "test_balanced_accuracy", "test_accuracy")
        columns = tuple(Column(key=key, title=messages.name(key), number=at > 0) for at, key in enumerate(heads))
        yield to_markdown(
            Table(
                name="languages", group=result.row.group, title=messages("card by language"), columns=columns, rows=rows
            )
        )


def _weaknesses(
    entry: Entry, result: Result, titles: TitleSet, collected: Collected, messages: Messages
) -> Iterator[str]:
    test = mean_recall_of(collected, entry, "test")
    classes = collected.classes(result)
    if test is not None and len(classes) == len(test.recall):
        yield from _rarest(test.recall, test.support, _training_titles(result, collected), messages)
        present = np.flatnonzero(test.support > 0)
        enough = np.flatnonzero(test.support >= RARE)
        present = enough if len(enough) >= WORST else present
        below = present[test.recall[present] < np.nanmean(test.recall[present])]
        worst = below[np.argsort(test.recall[below], kind="stable")][:WORST]
        named = ", ".join(
            messages(
                "card category",
                name=classes[at],
                recall=number_text(float(test.recall[at]), 2),
                titles=int(test.support[at]),
            )
            for at in worst
        )
        if named:
            yield messages("card worst categories", categories=named)
    for slice_ in _worst_slices(result, collected):
        share = f"{slice_.error:.1%}"
        yield messages("card slice", by=slice_.by, value=slice_.value, share=share, titles=slice_.titles)
    if titles.rare:
        yield messages("card rare", rare=titles.rare, categories=titles.categories)
    if len(entry.done) == 1:
        yield messages("card one seed")
    if entry.own_failures:
        yield messages("card own failures", failed=entry.own_failures, seeds=len(entry.results))


def _training_titles(result: Result, collected: Collected) -> np.ndarray | None:
    """Training titles by category (C,); None where the data set does not say."""
    dataset = _dataset(result, collected)
    statement = dataset.meta.statement.get("train") if dataset is not None else None
    return None if statement is None else np.array(statement.supports)


def _rarest(
    recall: np.ndarray, support: np.ndarray, trained_on: np.ndarray | None, messages: Messages
) -> Iterator[str]:
    """The quarter of the categories with the fewest training titles beside the others."""
    present = np.flatnonzero(support > 0)
    if trained_on is None or len(trained_on) != len(recall) or len(present) < 4:
        return
    order = present[np.argsort(trained_on[present], kind="stable")]
    rare, rest = np.split(order, [len(order) // 4])
    yield messages(
        "card rarest",
        most=int(trained_on[rare].max()),
        recall=number_text(float(recall[rare].mean())),
        rest=number_text(float(recall[rest].mean())),
    )


def _worst_slices(result: Result, collected: Collected) -> list[Slice]:
    try:
        errors = find_errors(collected.storage.run(result.row.evaluate), count=0)
    except (OSError, ValueError):  # an earlier version's evaluation, or a data set that is gone: nothing is known
        return []
    overall = errors.wrong / max(errors.titles, 1)
    slices = [one for one in errors.slices if one.by != "category" and one.titles >= FEWEST_IN_SLICE]
    return sorted((one for one in slices if one.error > overall), key=lambda one: -one.error)[:WORST]


def _cost(entry: Entry, result: Result, messages: Messages) -> str:
    hours, seconds = entry.gpu_hours(), entry.mean("train_seconds")
    on_gpu = result.about.gpu is not None and hours is not None
    values = {
        "hours": messages("card hours" if on_gpu else "card no hours", hours=number_text(hours or 0.0, 3)),
        "seconds": "–" if seconds is None else number_text(seconds, 1),
        "device": result.about.gpu or "CPU",
    }
    return escape_markdown(messages("card cost search" if entry.search_hours is not None else "card cost", **values))
