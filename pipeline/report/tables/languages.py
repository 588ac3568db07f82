"""Each run's test score in each language, where the test titles are of several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jobs.data.dataset import Dataset
from jobs.metrics import metric_of
from jobs.training.metrics import EVALUATION
from pipeline.report.collect import Collected, Result
from pipeline.report.groups import Entry, Group
from pipeline.report.i18n import Messages
from pipeline.report.table import NOTHING, Cell, Column, Table, number
from sharedfs.documents import read_json

ORDER = 2
METRIC = "balanced_accuracy"
SCORE = f"test_{METRIC}"


def build(group: Group, collected: Collected, messages: Messages) -> Table | None:
    mixed = {name: _mixed(collected, name) for name in {entry.first.row.dataset for entry in group.entries}}
    scores = {
        entry.position: _mean_scores(entry, collected) for entry in group.entries if mixed[entry.first.row.dataset]
    }
    titles = {language: count for of_data in mixed.values() for language, count in of_data.items()}
    languages = [language for language in sorted(titles) if any(language in found for found in scores.values())]
    if not languages:
        return None
    decimals = metric_of(SCORE).decimals
    return Table(
        name="languages",
        group=group.name,
        title=f"{group.name}: {messages.name(SCORE)}, {messages('by language')}",
        columns=(
            Column(key="run", title=messages("run"), number=False),
            Column(key="all", title=messages("all titles")),
            *(Column(key=f"language {name}", title=f"{name or NOTHING} ({titles[name]})") for name in languages),
        ),
        rows=tuple(
            (
                Cell(entry.run, position=entry.position),
                number(entry.mean(SCORE), decimals),
                *(number(scores[entry.position].get(name), decimals) for name in languages),
            )
            for entry in group.entries
            if scores.get(entry.position)
        ),
        notes=(messages("note by language"),),
    )


def _mixed(collected: Collected, dataset: str) -> Mapping[str, int]:
    """The test titles of each language, where there are several."""
    try:
        statement = Dataset.open(collected.storage.dataset(dataset)).meta.statement.get("test")
    except (OSError, ValueError):  # not made yet, or damaged: its own task's row says so
        return {}
    return {} if statement is None or len(statement.languages) < 2 else statement.languages


def _mean_scores(entry: Entry, collected: Collected) -> dict[str, float]:
    """The mean over seeds in each language."""
    values: dict[str, list[float]] = {}
    for result in entry.done:
        for language, figures in _figures(result, collected).items():
            values.setdefault(language, []).append(float(figures[METRIC]))
    return {language: math.fsum(given) / len(given) for language, given in values.items()}


def _figures(result: Result, collected: Collected) -> Mapping[str, Mapping[str, Any]]:
    """What its evaluation says of each language; nothing where an earlier version made it, or where it is damaged."""
    try:
        test = read_json(collected.storage.run(result.row.evaluate) / EVALUATION)["test"]
        return {name: figures for name, figures in test.get("languages", {}).items() if METRIC in figures}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged: the figures are told without
        return {}
