"""What happened in the runs of a group, in sentences: they stand folded under its tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from textwrap import shorten

import numpy as np

from pipeline.report.collect import Collected, Result
from pipeline.report.groups import Entry, Group, choose, selected_by
from pipeline.report.i18n import Messages
from pipeline.report.table import number_text
from pipeline.report.title_sets import TitleSet

TEST, VALIDATION = "test_balanced_accuracy", "validation_balanced_accuracy"
OVERFIT = 1.05  # a last validation loss this many times the lowest one is a rise, not noise
STILL_LEARNING = 0.01  # balanced accuracy gained in the last epoch
CHANCE = 3.0  # times the share that guessing reaches,
CHANCE_MARGIN = 0.05  # or this much above it where that is less: of two categories guessing reaches half
MESSAGE = 200  # characters of a failed run's own words; its page has all of them


def best_of(group: Group, sets: Mapping[TitleSet, Sequence[Entry]], messages: Messages) -> list[str]:
    """The best of a group, by what it is selected by, on each set of test titles."""
    positions = {entry.position for entry in group.entries}
    sentences = []
    for members in sets.values():
        here = [entry for entry in members if entry.position in positions]
        entry, metric = choose(here), selected_by(here)
        if entry is not None and len(here) > 1:
            value, test = score_text(entry.mean(metric)), score_text(entry.mean(TEST))
            name = messages.name(metric)
            sentences.append(messages("best run", group=group.name, run=entry.run, metric=name, value=value, test=test))
    return sentences


def stopped(entries: Iterable[Entry], collected: Collected, messages: Messages) -> list[str]:
    """Runs that diverged, were stopped at chance, or ended there without being stopped."""
    sentences = []
    for entry in entries:
        for result in entry.results:
            if result.cause in ("at chance", "diverged"):
                key = "stopped at chance" if result.cause == "at chance" else "diverged run"
                message = shorten(result.message or messages.name(result.cause), MESSAGE, placeholder=" …")
                sentences.append(
                    messages(key, run=_name(entry, result, messages), epochs=_epochs(result, messages), message=message)
                )
            elif (sentence := _at_chance(entry, result, collected, messages)) is not None:
                sentences.append(sentence)
    return sentences


def _at_chance(entry: Entry, result: Result, collected: Collected, messages: Messages) -> str | None:
    score, classes = result.figures.get(VALIDATION), len(collected.classes(result))
    if not result.done or score is None or classes < 2:
        return None
    guess = 1 / classes
    if score > guess + min((CHANCE - 1) * guess, CHANCE_MARGIN):
        return None
    return messages(
        "at chance run",
        run=_name(entry, result, messages),
        score=score_text(score),
        epochs=_epochs(result, messages),
        classes=classes,
        chance=score_text(guess),
    )


def _epochs(result: Result, messages: Messages) -> str:
    count = len(result.epochs)
    return messages("one epoch") if count == 1 else messages("many epochs", count=count)


def overfitting(entries: Iterable[Entry], messages: Messages) -> list[str]:
    sentences = []
    for entry in entries:
        for result in entry.results[:1]:
            losses = _curve(result, "validation_loss")
            training = _curve(result, "train_loss")
            if len(losses) < 3 or len(training) != len(losses):
                continue
            lowest = int(np.argmin(losses))
            if losses[-1] > OVERFIT * losses[lowest] and training[-1] < training[lowest]:
                sentences.append(
                    messages(
                        "overfits",
                        run=_name(entry, result, messages),
                        lowest=score_text(losses[lowest]),
                        at=lowest + 1,
                        last=score_text(losses[-1]),
                        end=len(losses),
                        train=score_text(training[-1]),
                    )
                )
    return sentences


def underfitting(entries: Iterable[Entry], messages: Messages) -> list[str]:
    sentences: list[tuple[float, str]] = []
    for entry in entries:
        for result in entry.results[:1]:
            scores = _curve(result, VALIDATION)
            if not result.done or len(scores) < 2:
                continue
            gain = scores[-1] - scores[-2]
            if gain > STILL_LEARNING and scores[-1] == max(scores):
                sentence = messages(
                    "underfits", run=_name(entry, result, messages), gain=score_text(gain), last=score_text(scores[-1])
                )
                sentences.append((gain, sentence))
    # The one that would have gained most by going on comes first.
    return [sentence for _, sentence in sorted(sentences, key=lambda item: -item[0])]


def validation_against_test(entries: Iterable[Entry], collected: Collected, messages: Messages) -> list[str]:
    """How much test is above or below validation, over the categories that both have."""
    gaps, fewest = [], math.inf
    shared: dict[tuple[int, int], np.ndarray] = {}  # hundreds of runs have the same counts, in the same arrays
    for result in (result for entry in entries for result in entry.done):
        splits = collected.evaluation(result)
        if not {"test", "validation"} <= splits.keys():
            continue
        test, validation = splits["test"], splits["validation"]
        key = id(test.support), id(validation.support)
        if key not in shared:
            shared[key] = np.flatnonzero((test.support > 0) & (validation.support > 0))
        both = shared[key]
        if both.size:
            gaps.append(float((test.recall[both] - validation.recall[both]).mean()))
            fewest = min(fewest, both.size)
    if len(gaps) < 2:
        return []
    mean = math.fsum(gaps) / len(gaps)
    return [
        messages(
            "validation against test",
            direction=messages("above" if mean >= 0 else "below"),
            difference=score_text(abs(mean)),
            categories=fewest,
            count=len(gaps),
            lowest=number_text(min(gaps), sign=True),
            highest=number_text(max(gaps), sign=True),
        )
    ]


def unreliable(group: Group, collected: Collected, messages: Messages) -> list[str]:
    """Where labels marked unreliable hurt the best run of a group."""
    entry = choose(group.entries)
    predictions = collected.predictions(entry.done[0], "test") if entry else None
    if entry is None or predictions is None:
        return []
    doubtful = predictions.reliable == 0
    if not doubtful.any() or doubtful.all():
        return []
    right = predictions.predicted == predictions.label
    if not _hurts(right[doubtful], right[~doubtful]):
        return []
    classes = collected.classes(entry.done[0])
    hurt = np.bincount(predictions.label[doubtful & ~right], minlength=len(classes))
    return [
        messages(
            "unreliable",
            run=entry.label,
            unreliable=score_text(float(right[doubtful].mean())),
            reliable=score_text(float(right[~doubtful].mean())),
            titles=int(doubtful.sum()),
            worst=classes[int(hurt.argmax())] if len(classes) else "",
        )
    ]


def _hurts(doubtful: np.ndarray, others: np.ndarray) -> bool:
    """Whether fewer of the doubtful titles are answered rightly, by more than chance (two proportions, one-sided)."""
    gap = float(others.mean() - doubtful.mean())
    share = float((others.sum() + doubtful.sum()) / (len(others) + len(doubtful)))
    error = math.sqrt(share * (1 - share) * (1 / len(others) + 1 / len(doubtful)))
    return gap > 1.645 * error


def _curve(result: Result, metric: str) -> list[float]:
    return [float(value) for line in result.epochs if isinstance(value := line.get(metric), int | float)]


def _name(entry: Entry, result: Result, messages: Messages) -> str:
    return entry.label if len(entry.results) == 1 else f"{entry.label} ({messages('seed')} {result.row.seed})"


def score_text(value: float | None) -> str:
    return "–" if value is None else number_text(value)
