"""Observations: sentences on what a reader should notice, each with its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from textwrap import shorten

import numpy as np

from pipeline.report.collect import Collected, Result
from pipeline.report.groups import Entry, Group, best
from pipeline.report.i18n import Messages
from pipeline.report.significance import ALPHA, compare
from pipeline.report.table import number_text

TEST, VALIDATION = "test_balanced_accuracy", "validation_balanced_accuracy"
OVERFIT = 1.05  # a last validation loss this many times the lowest one is a rise, not noise
STILL_LEARNING = 0.01  # balanced accuracy gained in the last epoch
CHANCE = 3.0  # times the share that guessing reaches,
CHANCE_MARGIN = 0.05  # or this much above it where that is less: of two categories guessing reaches half
MESSAGE = 200  # characters of a failed run's own words; its page has all of them
MOST = 6  # sentences of one kind; the rest is counted


def find_insights(groups: Iterable[Group], collected: Collected, messages: Messages) -> tuple[str, ...]:
    """Sentences, the most important first; one that says so when nothing is finished."""
    groups = tuple(groups)
    entries = [entry for group in groups for entry in group.entries]
    if not any(entry.done for entry in entries) and not any(result.cause for e in entries for result in e.results):
        return (messages("nothing yet"),)
    kinds: tuple[Callable[[], list[str]], ...] = (
        lambda: _winners(entries, collected, messages),
        lambda: [text for group in groups if (text := _best_of(group, messages))],
        lambda: _against_linear(groups, collected, messages),
        lambda: _stopped(entries, collected, messages),
        lambda: _overfitting(entries, messages),
        lambda: _underfitting(entries, messages),
        lambda: _validation_against_test(entries, messages),
        lambda: _unreliable(groups, collected, messages),
    )
    first, *others = kinds
    return (*first(), *(sentence for kind in others for sentence in _at_most(kind(), messages)))


def _at_most(sentences: list[str], messages: Messages) -> list[str]:
    if len(sentences) <= MOST:
        return sentences
    return [*sentences[: MOST - 1], messages("many more", count=len(sentences) - MOST + 1)]


def _best_of(group: Group, messages: Messages) -> str | None:
    entry = best(group.entries, VALIDATION)
    if entry is None or len([one for one in group.entries if one.done]) < 2:
        return None
    return messages(
        "best run",
        group=group.name,
        run=entry.run,
        validation=_text(entry.mean(VALIDATION)),
        test=_text(entry.mean(TEST)),
    )


def _winners(entries: Sequence[Entry], collected: Collected, messages: Messages) -> list[str]:
    """The best run of each architecture, chosen on validation, and how far apart the architectures are on test."""
    names = dict.fromkeys(entry.architecture for entry in entries)
    best_ones = [best([entry for entry in entries if entry.architecture == name], VALIDATION) for name in names]
    winners = sorted(
        (winner for winner in best_ones if winner is not None and winner.mean(TEST) is not None),
        key=lambda entry: (-(entry.mean(VALIDATION) or 0.0), entry.position),
    )
    sentences = [
        messages(
            "best by architecture",
            architecture=winner.architecture,
            run=winner.run,
            group=winner.group,
            test=_text(winner.mean(TEST)),
            validation=_text(winner.mean(VALIDATION)),
        )
        for winner in winners
    ]
    for first, second in pairwise(winners):
        sentences.append(_ahead(first, second, collected, messages))
    return sentences


def _ahead(first: Entry, second: Entry, collected: Collected, messages: Messages) -> str:
    gap = (first.mean(TEST) or 0.0) - (second.mean(TEST) or 0.0)
    if gap < 0:
        first, second, gap = second, first, -gap
    return messages(
        "ahead",
        first=first.label,
        second=second.label,
        difference=_text(gap),
        verdict=verdict(compare(collected, first, second, "test"), messages),
    )


def verdict(p: float, messages: Messages) -> str:
    """``more than chance, p < 0.001`` or not."""
    p_text = "< 0.001" if p < 0.001 else f"= {p:.3f}"
    return messages("more than chance" if p <= ALPHA else "not more than chance", p=p_text)


def _against_linear(groups: Iterable[Group], collected: Collected, messages: Messages) -> list[str]:
    """Networks that don't beat the best linear run on the same data, over the whole manifest."""
    entries = [entry for group in groups for entry in group.entries if entry.mean(TEST) is not None]
    sentences = []
    for dataset in dict.fromkeys(entry.first.row.dataset for entry in entries):
        here = [entry for entry in entries if entry.first.row.dataset == dataset]
        linear = best([entry for entry in here if entry.architecture == "linear"], VALIDATION)
        networks = [entry for entry in here if entry.architecture != "linear"]
        if linear is None or not networks:
            continue
        bar = linear.mean(TEST) or 0.0
        behind = [entry for entry in networks if (entry.mean(TEST) or 0.0) <= bar]
        if not behind:
            sentences.append(messages("all beat linear", linear=_text(bar)))
        for entry in behind:
            test = verdict(compare(collected, linear, entry, "test"), messages)
            score = _text(entry.mean(TEST))
            sentences.append(messages("loses to linear", run=entry.label, score=score, linear=_text(bar), verdict=test))
    return sentences


def _stopped(entries: Iterable[Entry], collected: Collected, messages: Messages) -> list[str]:
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
        score=_text(score),
        epochs=_epochs(result, messages),
        classes=classes,
        chance=_text(guess),
    )


def _epochs(result: Result, messages: Messages) -> str:
    count = len(result.epochs)
    return messages("one epoch") if count == 1 else messages("many epochs", count=count)


def _overfitting(entries: Iterable[Entry], messages: Messages) -> list[str]:
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
                        lowest=_text(losses[lowest]),
                        at=lowest + 1,
                        last=_text(losses[-1]),
                        end=len(losses),
                        train=_text(training[-1]),
                    )
                )
    return sentences


def _underfitting(entries: Iterable[Entry], messages: Messages) -> list[str]:
    sentences: list[tuple[float, str]] = []
    for entry in entries:
        for result in entry.results[:1]:
            scores = _curve(result, VALIDATION)
            if not result.done or len(scores) < 2:
                continue
            gain = scores[-1] - scores[-2]
            if gain > STILL_LEARNING and scores[-1] == max(scores):
                sentence = messages(
                    "underfits", run=_name(entry, result, messages), gain=_text(gain), last=_text(scores[-1])
                )
                sentences.append((gain, sentence))
    # The one that would have gained most by going on comes first.
    return [sentence for _, sentence in sorted(sentences, key=lambda item: -item[0])]


def _validation_against_test(entries: Iterable[Entry], messages: Messages) -> list[str]:
    gaps = [
        result.figures[TEST] - result.figures[VALIDATION]
        for entry in entries
        for result in entry.results
        if result.done and TEST in result.figures and VALIDATION in result.figures
    ]
    if len(gaps) < 2:
        return []
    mean = math.fsum(gaps) / len(gaps)
    return [
        messages(
            "validation against test",
            direction=messages("above" if mean >= 0 else "below"),
            difference=_text(abs(mean)),
            count=len(gaps),
            lowest=number_text(min(gaps), sign=True),
            highest=number_text(max(gaps), sign=True),
        )
    ]


def _unreliable(groups: Iterable[Group], collected: Collected, messages: Messages) -> list[str]:
    """Where labels marked unreliable hurt: for the best run of each group."""
    sentences = []
    for group in groups:
        entry = best(group.entries, VALIDATION)
        predictions = collected.predictions(entry.done[0], "test") if entry else None
        if entry is None or predictions is None:
            continue
        doubtful = predictions.reliable == 0
        if not doubtful.any() or doubtful.all():
            continue
        right = predictions.predicted == predictions.label
        if not _hurts(right[doubtful], right[~doubtful]):
            continue
        classes = collected.classes(entry.done[0])
        hurt = np.bincount(predictions.label[doubtful & ~right], minlength=len(classes))
        sentences.append(
            messages(
                "unreliable",
                run=entry.label,
                unreliable=_text(float(right[doubtful].mean())),
                reliable=_text(float(right[~doubtful].mean())),
                titles=int(doubtful.sum()),
                worst=classes[int(hurt.argmax())] if len(classes) else "",
            )
        )
    return sentences


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


def _text(value: float | None) -> str:
    return "–" if value is None else number_text(value)
