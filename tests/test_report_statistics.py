"""Intervals and tests against scikit-learn, scipy and plain resampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from pipeline.report import intervals, significance
from pipeline.report.plots import confusion
from pipeline.report.records import Predictions, Split


def _split(label: np.ndarray, predicted: np.ndarray, classes: int) -> Split:
    support = np.bincount(label, minlength=classes)
    right = np.bincount(label[label == predicted], minlength=classes)
    with np.errstate(invalid="ignore"):
        return Split(recall=right / support, support=support)


def _answers(seed: int, titles: int, classes: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, titles)
    predicted = np.where(random.random(titles) < skill, label, random.integers(0, classes, titles))
    return label, predicted


def test_balanced_accuracy_is_scikit_learns() -> None:
    label, predicted = _answers(1, 500, 40, 0.6)
    split = _split(label, predicted, 45)
    assert intervals.balanced_accuracy(split) == pytest.approx(balanced_accuracy_score(label, predicted), abs=1e-12)


@pytest.mark.parametrize(("titles", "classes", "skill"), [(400, 8, 0.7), (3_000, 60, 0.85), (1_000, 100, 0.3)])
def test_interval_is_the_stratified_bootstraps(titles: int, classes: int, skill: float) -> None:
    label, predicted = _answers(2, titles, classes, skill)
    split = _split(label, predicted, classes)
    random = np.random.default_rng(3)
    members = [(predicted == label)[label == category] for category in range(classes)]
    draws = np.mean([random.choice(one, (20_000, len(one))).mean(axis=1) for one in members], axis=0)
    low, high = intervals.intervals([split])[0]
    assert (low, high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.0015)


def test_interval_is_near_scipys_plain_bootstrap() -> None:
    label, predicted = _answers(4, 2_000, 10, 0.8)
    found = stats.bootstrap(
        (label, predicted),
        lambda truth, answer: float(balanced_accuracy_score(truth, answer)),
        paired=True,
        vectorized=False,
        n_resamples=600,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert intervals.intervals([_split(label, predicted, 10)])[0] == pytest.approx((found.low, found.high), abs=0.004)


@given(st.integers(1, 30), st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_intervals_are_ordered_and_hold_the_score(classes: int, seed: int, skill: float) -> None:
    label, predicted = _answers(seed, 60, classes, skill)
    split = _split(label, predicted, classes)
    low, high = intervals.intervals([split])[0]
    assert 0 <= low <= high <= 1
    if 0.05 < intervals.balanced_accuracy(split) < 0.95 and classes > 3:
        assert low <= intervals.balanced_accuracy(split) <= high


def test_intervals_of_many_are_each_ones_own() -> None:
    splits = [_split(*_answers(seed, 200, 5 + seed % 2, 0.5), 5 + seed % 2) for seed in range(9)]
    together = intervals.intervals(splits)
    assert np.array_equal(together, np.concatenate([intervals.intervals([split]) for split in splits]))


@pytest.mark.parametrize("titles", [60, 800])
def test_paired_test_is_scipys_permutation_test(titles: int) -> None:
    label, first = _answers(7, titles, 6, 0.75)
    second = np.where(np.random.default_rng(8).random(titles) < 0.06, label, first)
    weights = 1 / (6 * np.bincount(label)[label])

    def statistic(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.sum(one - other, axis=axis)

    one, other = (first == label) * weights, (second == label) * weights
    wanted = stats.permutation_test(
        (one, other),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2_999,
        rng=np.random.default_rng(9),
    ).pvalue
    found = significance.paired_p((first == label).astype(float), (second == label).astype(float), label)
    assert found == pytest.approx(wanted, abs=0.04)


def test_paired_test_of_equal_answers_is_one() -> None:
    label, predicted = _answers(1, 50, 5, 0.5)
    right = (label == predicted).astype(float)
    assert significance.paired_p(right, right, label) == 1.0


@given(st.integers(0, 10_000), st.floats(0.1, 0.95), st.floats(0.1, 0.95))
@settings(max_examples=40, deadline=None)
def test_the_bound_without_predictions_is_never_below_the_test(seed: int, one: float, other: float) -> None:
    label, first = _answers(seed, 1_500, 12, one)
    _, second = _answers(seed + 1, 1_500, 12, other)
    random = np.random.default_rng(seed)
    second = np.where(random.random(1_500) < other, label, second)
    exact = significance.paired_p((first == label).astype(float), (second == label).astype(float), label)
    mine, theirs = _split(label, first, 12), _split(label, second, 12)
    gap = np.array([np.nanmean(mine.recall) - np.nanmean(theirs.recall)])
    bound = significance.greatest_p(gap, theirs.recall[None], mine.recall, mine.support)[0]
    assert bound >= exact - 1e-9


def test_holm_by_hand_and_monotone() -> None:
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_no_laxer_than_none_and_no_stricter_than_bonferroni(values: list[float]) -> None:
    for raw, corrected in zip(values, significance.holm(values), strict=True):
        assert raw <= corrected <= min(1.0, raw * len(values)) + 1e-12


@given(st.lists(st.floats(0, 0.2), min_size=2, max_size=12), st.data())
@settings(max_examples=80, deadline=None)
def test_settling_far_runs_first_does_not_change_holms_verdicts(values: list[float], data: st.DataObject) -> None:
    wanted = [p <= significance.ALPHA for p in significance.holm(values)]
    # A bound settles a run when even Bonferroni would reject it.
    settled = [value * len(values) <= significance.ALPHA and data.draw(st.booleans()) for value in values]
    rest = [value for value, is_settled in zip(values, settled, strict=True) if not is_settled]
    others = iter([p <= significance.ALPHA for p in significance.holm(rest)])
    assert [True if is_settled else next(others) for is_settled in settled] == wanted


def test_confusions_are_those_of_the_confusion_matrix() -> None:
    label, predicted = _answers(11, 800, 15, 0.4)
    predictions = Predictions(label=label, predicted=predicted, reliable=np.ones(800))
    matrix = confusion_matrix(label, predicted, labels=range(15))
    pairs = confusion.most_frequent(predictions, 15, 10)
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    assert [pair.count for pair in pairs] == sorted(off.ravel().tolist(), reverse=True)[:10]
    assert all(matrix[pair.true, pair.predicted] == pair.count for pair in pairs)
    assert pairs[0].share == pytest.approx(pairs[0].count / matrix[pairs[0].true].sum())
    chosen = confusion.most_confused(predictions, 15, 6)
    shares, counts = confusion.shares_among(predictions, chosen, 15)
    assert np.array_equal(counts, matrix[np.ix_(chosen, chosen)])
    assert shares == pytest.approx(counts / matrix.sum(axis=1)[chosen][:, None])
