"""Which runs of a table may be the best of it by a metric: the figures that are bold.

The runs that their recalls alone show to be far behind are left out first, with a bound; only the others' predictions
are opened, a file each. The two steps share the 5 %: what the bound may be wrong in, and the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.report.answers import COMPARED, Answers
from pipeline.report.collect import Collected
from pipeline.report.confidence_set import Contest, confidence_set
from pipeline.report.groups import Entry, best
from pipeline.report.intervals import Estimates, accuracies, balanced, intervals
from pipeline.report.records import Split
from pipeline.report.significance import (
    ALPHA,
    make_contest,
    mean_recall_of,
    read_answers,
    sample_of,
    seed_spread,
)
from pipeline.report.title_sets import TitleSet

BOUND_ALPHA = 0.005  # of the 5 %, for runs that are left out without their predictions
MANY_RUNS = 100  # of a table, above which predictions are not opened for macro F1 or where titles hardly matter
HARDLY = 0.1  # of the variance of the seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The best entry by a metric on test, and the positions of all that may be the best, its own among them.

    ``of_settings``: every entry has several seeds, so that it is said of settings and not of these trained models.
    """

    best: Entry
    tied: frozenset[int]
    of_settings: bool


@dataclass(frozen=True, slots=True)
class AnswersRead:
    """The answers of a table's entries, each read once; of a table of many runs without what macro F1 takes."""

    collected: Collected
    many: bool
    _read: dict[int, Answers | None] = field(default_factory=dict)
    _recalls: dict[int, Split | None] = field(default_factory=dict)

    def of(self, entry: Entry) -> Answers | None:
        if entry.position not in self._read:
            self._read[entry.position] = read_answers(self.collected, entry, f1=not self.many)
        return self._read[entry.position]

    def recall(self, entry: Entry) -> Split | None:
        """Their mean recall, which takes no predictions."""
        if entry.position not in self._recalls:
            self._recalls[entry.position] = mean_recall_of(self.collected, entry, "test")
        return self._recalls[entry.position]


def answers_of(collected: Collected, entries: Sequence[Entry]) -> AnswersRead:
    """What these entries answered, read as it is asked for."""
    return AnswersRead(collected, sum(len(entry.done) for entry in entries) > MANY_RUNS)


def standings(entries: Sequence[Entry], titles: TitleSet, answers: AnswersRead) -> dict[str, Standing]:
    """By metric, among entries that were judged on the same titles; a metric that is not tested is not there."""
    many = answers.many
    scored = {metric: [e for e in entries if e.judged_mean(f"test_{metric}") is not None] for metric in COMPARED}
    found = {}
    for metric, ranked in scored.items():
        if len(ranked) < 2 or (metric == "macro_f1" and many):
            continue
        bounds = None if metric == "macro_f1" or titles.too_few else _bounds(answers, ranked, metric)
        places = range(len(ranked)) if bounds is None else _within_bounds(bounds)
        left = [ranked[place] for place in places]
        if titles.too_few:
            tied = [entry.position for entry in left]  # nothing is told apart
        elif bounds is not None and many and (contest := _without_titles(bounds, places)) is not None:
            tied = [left[place].position for place in confidence_set(contest, ALPHA - BOUND_ALPHA)]
        else:
            tied = _tied(left, metric, answers)
        top = best(ranked, f"test_{metric}")
        assert top is not None
        of_settings = all(len(entry.judged(f"test_{metric}")) > 1 for entry in ranked)
        found[metric] = Standing(best=top, tied=frozenset({top.position, *tied}), of_settings=of_settings)
    return found


def _tied(left: Sequence[Entry], metric: str, answers: AnswersRead) -> list[int]:
    """Positions of the entries of the confidence set; those whose predictions are missing are in none."""
    pairs = [(entry, sample_of(answers.collected, entry, metric, answers.of(entry))) for entry in left]
    known = [(entry, sample) for entry, sample in pairs if sample is not None]
    # Entries whose titles are not those of the first cannot be compared title by title.
    same = [pair for pair in known if np.array_equal(pair[1].answers.label, known[0][1].answers.label)]
    if len(same) < 2:
        return []
    contest = make_contest([sample for _, sample in same], metric)
    return [same[place][0].position for place in confidence_set(contest, ALPHA - BOUND_ALPHA)]


def entry_intervals(
    entries: Sequence[Entry], titles: TitleSet, answers: AnswersRead, metric: str
) -> dict[int, tuple[float, float]]:
    """95 % intervals of the entries' test scores, by position: over titles, and over seeds where there are several.

    The part of the seeds is added whole: what it shares with that of single titles cannot be seen in recalls, which
    errs on the side of width.
    """
    if titles.too_few or (metric == "macro_f1" and answers.many):
        return {}
    collected = answers.collected
    if metric == "macro_f1":
        read = [(entry, found) for entry in entries if entry.done and (found := answers.of(entry)) is not None]
        known, estimates = [entry for entry, _ in read], _of_f1(read)
    else:
        pairs = [(entry, split) for entry in entries if (split := answers.recall(entry)) is not None]
        estimate = balanced if metric == "balanced_accuracy" else accuracies
        known, estimates = [entry for entry, _ in pairs], estimate([split for _, split in pairs])
    if not known:
        return {}
    spreads = [seed_spread(collected, entry, metric) for entry in known]
    counts = np.array([len(entry.judged(f"test_{metric}")) for entry in known])
    seeds = np.array([spread.variance if spread else 0.0 for spread in spreads]) / np.maximum(counts, 1)
    freedom = np.array([spread.freedom if spread else 1 for spread in spreads])
    variance = estimates.variance + seeds
    # Satterthwaite's, of the sum of two parts.
    uncertain = estimates.variance**2 / estimates.freedom + seeds**2 / freedom
    both = np.where(seeds > 0, variance**2 / np.maximum(uncertain, np.finfo(float).tiny), estimates.freedom)
    ends = intervals(replace(estimates, variance=variance, freedom=both))
    return {entry.position: (float(low), float(high)) for entry, (low, high) in zip(known, ends, strict=True)}


def _of_f1(read: Sequence[tuple[Entry, Answers]]) -> Estimates:
    counts = np.array([max(len(found.label), 2) for _, found in read], dtype=np.float64)
    variance = np.array([found.f1_variance for _, found in read])
    score = np.array([entry.mean("test_macro_f1") or 0.0 for entry, _ in read])
    return Estimates(score=score, variance=variance, freedom=counts - 1, titles=counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """k entries by their recalls alone: scores, the part of the seeds, and what titles can add at most, (k,) each.

    ``gap`` and ``pair`` (k,) are the distance to the best, and the most that titles can add to the variance of that.
    """

    score: np.ndarray
    seeds: np.ndarray
    freedom: np.ndarray
    titles: np.ndarray
    gap: np.ndarray
    pair: np.ndarray
    top: int


def _bounds(answers: AnswersRead, ranked: Sequence[Entry], metric: str) -> _Bounds | None:
    """None where recalls are missing or not of the same counts of titles."""
    splits = [answers.recall(entry) for entry in ranked]
    first = splits[0]
    if first is None or any(split is None or not np.array_equal(split.support, first.support) for split in splits):
        return None
    support = first.support[first.support > 0].astype(np.float64)
    recall = np.stack([split.recall for split in splits if split is not None])[:, first.support > 0]
    guessed = np.array([0 if e.chance is None else e.own_failures for e in ranked])[:, None]
    seeds = np.array([len(entry.done) for entry in ranked])[:, None]
    chance = np.array([entry.chance or 0.0 for entry in ranked])[:, None]
    recall = (recall * seeds + guessed * chance) / (seeds + guessed)
    weight = 1 / support.sum() if metric == "accuracy" else 1 / (len(support) * support)
    # Two runs disagree on a category's titles at most as often as they err on them together.
    wrong = (1 - recall) * support
    score = np.array([entry.judged_mean(f"test_{metric}") for entry in ranked], dtype=np.float64)
    top = int(score.argmax())
    apart = np.minimum(wrong + wrong[top], support)
    spreads = [seed_spread(answers.collected, entry, metric) for entry in ranked]
    counts = (seeds + guessed)[:, 0]
    return _Bounds(
        score=score,
        seeds=np.array([spread.variance if spread else 0.0 for spread in spreads]) / counts,
        freedom=np.array([spread.freedom if spread else math.inf for spread in spreads]),
        titles=(wrong * weight**2).sum(axis=1),
        gap=score[top] - score,
        pair=(apart * weight**2).sum(axis=1),
        top=top,
    )


def _within_bounds(bounds: _Bounds) -> list[int]:
    """Places of the entries that may be as good as the best, whatever their predictions are."""
    from scipy.special import ndtr, stdtr

    variance = bounds.pair + bounds.seeds + bounds.seeds[bounds.top]
    t = bounds.gap / np.sqrt(np.maximum(variance, np.finfo(float).tiny))
    freedom = np.minimum(bounds.freedom, bounds.freedom[bounds.top])
    p = 2 * np.where(np.isfinite(freedom), stdtr(np.minimum(freedom, 1e9), -t), ndtr(-t))
    # The best was picked from them: any pair could have been the one that is looked at.
    pairs = len(p) * (len(p) - 1) / 2
    return np.flatnonzero((p * pairs > BOUND_ALPHA) | (bounds.gap == 0)).tolist()


def _without_titles(bounds: _Bounds, places: Sequence[int]) -> Contest | None:
    """The comparison of many runs whose seeds are so far apart that titles hardly matter: these at their most."""
    left = np.array(places)
    seeds, titles = bounds.seeds[left], bounds.titles[left]
    if (titles > HARDLY * seeds).any():
        return None
    freedom = np.minimum(bounds.freedom[left, None], bounds.freedom[None, left])
    return Contest(score=bounds.score[left], covariance=np.diag(seeds + titles), freedom=freedom)
