"""Errors by title on a run's page: the wrong titles that it was most sure of, and where among the titles it errs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from jobs.data.dataset import Dataset
from pipeline.errors import Errors, Slice, WrongTitle, errors_of
from pipeline.report.collect import Collected, Result
from pipeline.report.i18n import Messages
from pipeline.report.table import number_text

WORST = 20
_OF_PEOPLE = ("category", "language")  # slices of which the values are names, in no language of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownErrors:
    """The rows of both tables, as text: by what, which, titles, wrong, share; title, its category, answer, p, place."""

    slices: tuple[tuple[str, str, int, int, str], ...]
    worst: tuple[tuple[str, str, str, str, str], ...]


class TitleErrors:
    """Finds them run by run; each data set is opened once."""

    def __init__(self, collected: Collected, messages: Messages) -> None:
        self._storage, self._messages = collected.storage, messages
        self._datasets: dict[str, Dataset | None] = {}

    def of(self, result: Result) -> ShownErrors | None:
        """What the page of a result shows; None where its evaluation or its data set does not say.

        Titles are shown by their words, as a model sees them: reading source files again for thousands of runs would
        take hours.
        """
        dataset = self._dataset(result.row.dataset) if result.done else None
        if dataset is None:
            return None
        evaluation = self._storage.run(result.row.evaluate)
        try:
            errors = errors_of(self._storage, dataset, evaluation, count=WORST, from_files=False)
        except (OSError, ValueError):  # of an earlier version, or damaged: its own row says so
            return None
        return _shown(errors, self._messages) if errors.wrong else None

    def _dataset(self, name: str) -> Dataset | None:
        if name not in self._datasets:
            try:
                self._datasets[name] = Dataset.open(self._storage.dataset(name))
            except (OSError, ValueError):  # removed, or damaged: its own task's row says so
                self._datasets[name] = None
        return self._datasets[name]


def _shown(errors: Errors, messages: Messages) -> ShownErrors:
    return ShownErrors(
        slices=tuple(_slice(one, messages) for one in errors.slices),
        worst=tuple(_title(worst) for worst in errors.worst),
    )


def _slice(one: Slice, messages: Messages) -> tuple[str, str, int, int, str]:
    value = one.value if one.by in _OF_PEOPLE else messages.name(f"titles {one.value}")
    value = value.removeprefix("titles ")  # a number of tokens has no phrase
    return messages(f"titles by {one.by}"), value, one.titles, one.wrong, number_text(one.error, 3)


def _title(worst: WrongTitle) -> tuple[str, str, str, str, str]:
    answer, chance = worst.choices[0]
    return worst.title, worst.label, answer, number_text(chance, 3), PurePath(worst.place or "–").name
