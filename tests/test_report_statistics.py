"""Intervals and tests against scikit-learn, scipy and plain resampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from pipeline.report import answers, intervals, significance
from pipeline.report.confidence_set import Contest, confidence_set
from pipeline.report.plots import confusion
from pipeline.report.records import Predictions, Split
from pipeline.report.seeds import SeedSpread, own_spread, pooled_spread
from pipeline.report.significance import Sample


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


def test_a_score_and_its_variance_are_those_of_a_stratified_sample() -> None:
    label, predicted = _answers(1, 9_000, 30, 0.6)
    split = _split(label, predicted, 35)
    found = intervals.balanced([split])
    assert found.score[0] == pytest.approx(balanced_accuracy_score(label, predicted), abs=1e-12)
    random = np.random.default_rng(3)
    members = [(predicted == label)[label == category] for category in range(30)]
    draws = np.mean([random.choice(one, (20_000, len(one))).mean(axis=1) for one in members], axis=0)
    assert found.variance[0] == pytest.approx(draws.var(), rel=0.05)
    low, high = intervals.intervals(found)[0]
    assert (low, high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.0015)
    plain = intervals.accuracies([split])
    assert plain.score[0] == pytest.approx((predicted == label).mean())
    wilson = stats.binomtest(int((predicted == label).sum()), 9_000).proportion_ci(method="wilson")
    assert intervals.intervals(plain)[0] == pytest.approx((wilson.low, wilson.high), abs=1e-4)


@pytest.mark.parametrize(("counts", "score"), [
    (np.ones(50, int), 0.5),
    (np.concatenate([np.ones(150, int), np.full(100, 3)]), 0.95),
    (np.full(100, 3), 0.99),
    (np.array([60, 1000]), 0.02),
])  # fmt: skip
def test_an_interval_holds_the_truth_however_few_the_titles_of_a_category(counts: np.ndarray, score: float) -> None:
    random = np.random.default_rng(0)
    recall = random.beta(score * 8, (1 - score) * 8, (1_000, len(counts)))
    right = random.binomial(counts, recall)
    splits = [Split(recall=one / counts, support=counts) for one in right]
    found = intervals.intervals(intervals.balanced(splits))
    truth = recall.mean(axis=1)
    assert 0.92 < np.mean((found[:, 0] <= truth) & (truth <= found[:, 1])) < 0.99


def test_all_right_on_few_titles_is_not_certain() -> None:
    split = Split(recall=np.ones(6), support=np.full(6, 7))
    low, high = intervals.intervals(intervals.balanced([split]))[0]
    assert (low < 0.93) and (high == pytest.approx(1.0))


@pytest.mark.parametrize(("counts", "few"), [
    ([29], True), ([30], False), ([15, 15], False), ([14, 15], True), ([15, 1000], True), ([0, 40, 40], False),
    ([1] * 150 + [3] * 100, False), ([], True),
])  # fmt: skip
def test_too_few_titles_follows_from_counts_alone(counts: list[int], few: bool) -> None:
    assert intervals.too_few(np.array(counts, dtype=np.int64)) == few


@given(st.integers(1, 30), st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_intervals_are_ordered_and_hold_the_score(classes: int, seed: int, skill: float) -> None:
    label, predicted = _answers(seed, 60, classes, skill)
    found = intervals.balanced([_split(label, predicted, classes)])
    low, high = intervals.intervals(found)[0]
    assert 0 <= low < high <= 1
    assert low - 1e-9 <= found.score[0] <= high + 1e-9


def test_intervals_of_many_are_each_ones_own() -> None:
    splits = [_split(*_answers(seed, 200, 5 + seed % 2, 0.5), 5 + seed % 2) for seed in range(9)]
    together = intervals.intervals(intervals.balanced(splits))
    alone = [intervals.intervals(intervals.balanced([split])) for split in splits]
    assert np.allclose(together, np.concatenate(alone), atol=1e-12)


def test_what_an_answer_does_to_macro_f1_is_its_derivative() -> None:
    """Of every title's answer a little more is put right: the figure moves by what the title is said to do."""
    label, predicted = _answers(2, 4_000, 8, 0.5)
    influence = answers.f1_influence(label, predicted)
    whole = f1_score(label, predicted, average="macro")
    for title in np.flatnonzero(label != predicted)[::150]:
        right = predicted.copy()
        right[title] = label[title]
        moved = f1_score(label, right, average="macro") - whole
        assert answers.f1_influence(label, right)[title] - influence[title] == pytest.approx(moved, rel=0.02)


@pytest.mark.parametrize(("categories", "titles"), [(10, 60), (80, 3), (120, 1)])
def test_the_interval_of_macro_f1_holds_however_few_the_titles(categories: int, titles: int) -> None:
    """Where a category has one title, nothing of its variance can be seen: half of the width was missing."""
    random = np.random.default_rng(0)
    label = np.repeat(np.arange(categories), titles)
    scores, variances = [], []
    for _ in range(300):
        right = random.random(len(label)) < 0.6
        predicted = np.where(right, label, random.integers(0, categories, len(label)))
        scores.append(f1_score(label, predicted, average="macro"))
        variances.append(answers.f1_variance(label, predicted))
    assert 0.8 < np.sqrt(np.mean(variances)) / np.std(scores) < 1.35


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


def _sample(right: np.ndarray, label: np.ndarray, spread: SeedSpread | None = None) -> Sample:
    """A run whose seeds answer ``right`` (seeds, N)."""
    weights = answers.weights("balanced_accuracy", label)
    scores = tuple(float(one @ weights) for one in right)
    made = answers.Answers(label=label, right=right.mean(axis=0), seeds=len(right))
    return Sample(scores=scores, spread=spread or own_spread(scores), answers=made)


def _seeds(random: np.random.Generator, hard: np.ndarray, seeds: int, sd: float) -> np.ndarray:
    """Answers (seeds, N) of models of the same settings, which differ as a whole by ``sd`` on the scale of a logit."""
    shift = random.normal(0, sd, (seeds, 1))
    noise = random.logistic(size=(seeds, len(hard))) * 0.3
    return (hard + shift + noise > 0).astype(np.float64)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_same_settings_are_seldom_told_apart(seeds: int) -> None:
    """Titles alone told two sets of seeds of the same settings apart in a fifth of all pairs, whatever their number."""
    random = np.random.default_rng(seeds)
    label = random.integers(0, 20, 2_000)
    hard = random.logistic(size=2_000) + 0.5
    verdicts, plain = [], []
    for _ in range(300):
        pair = [_seeds(random, hard, seeds, 0.12) for _ in range(2)]
        pooled = pooled_spread([_sample(one, label).scores for one in pair])
        found = significance.difference(*(_sample(one, label, pooled) for one in pair))
        assert found.of_settings
        verdicts.append(found.p <= 0.05)
        plain.append(significance.paired_p(pair[0].mean(axis=0), pair[1].mean(axis=0), label) <= 0.05)
    assert np.mean(verdicts) <= 0.07 < 0.15 < np.mean(plain)


def test_a_real_difference_between_settings_is_found() -> None:
    random = np.random.default_rng(1)
    label, hard = random.integers(0, 20, 4_000), random.logistic(size=4_000)
    found = [
        significance.difference(
            _sample(_seeds(random, hard + 0.3, 5, 0.05), label), _sample(_seeds(random, hard, 5, 0.05), label)
        )
        for _ in range(40)
    ]
    assert np.mean([each.p <= 0.05 for each in found]) > 0.9
    assert all(each.wins is not None and each.wins[1] > 0.5 for each in found)


def test_one_seed_says_nothing_of_settings_and_four_not_how_often() -> None:
    random = np.random.default_rng(1)
    label, hard = random.integers(0, 20, 500), random.logistic(size=500)
    samples = {seeds: _sample(_seeds(random, hard, seeds, 0.1), label) for seeds in (1, 4, 5)}
    assert not significance.difference(samples[1], samples[5]).of_settings
    assert significance.difference(samples[4], samples[5]).wins is None
    assert significance.difference(samples[5], samples[5]).wins is not None


def test_how_often_one_beats_the_other() -> None:
    share, low, high = significance.win_share([3, 4, 5, 6, 7], [1, 2, 3, 4, 5])
    assert share == pytest.approx(stats.mannwhitneyu([3, 4, 5, 6, 7], [1, 2, 3, 4, 5]).statistic / 25)
    assert low < 0.5 < share < high < 1
    share, low, high = significance.win_share([6, 7, 8, 9, 10], [1, 2, 3, 4, 5])
    assert share == high == 1 and 0.5 < low < 0.8


def test_the_pooled_spread_is_an_analysis_of_variance() -> None:
    runs = [[0.5, 0.52, 0.51], [0.61, 0.6], [0.4, 0.44, 0.42, 0.41], [0.9]]
    pooled = pooled_spread(runs)
    assert pooled is not None and (pooled.freedom, pooled.runs) == (6, 3)
    wanted = sum(np.var(run, ddof=1) * (len(run) - 1) for run in runs[:3]) / 6
    assert pooled.variance == pytest.approx(wanted)
    assert pooled_spread([[0.5], [0.6]]) is None


def test_seeds_that_are_not_equally_far_apart_are_not_pooled() -> None:
    random = np.random.default_rng(0)
    runs = [random.normal(0, sd, 5) for sd in (0.001, 0.001, 0.1)]
    assert stats.bartlett(*runs).pvalue < 0.01
    assert pooled_spread(runs) is None
    assert pooled_spread([[0.5, 0.5], [0.6, 0.61]]) is None
    assert pooled_spread(runs[:2]) is not None


def _contest(random: np.random.Generator, skills: np.ndarray, hard: np.ndarray) -> Contest:
    """Trained models that answer titles of a given difficulty (N,) with these skills (k,)."""
    right = (hard + skills[:, None] + random.logistic(size=(len(skills), len(hard))) > 0).astype(np.float64)
    label = np.arange(len(hard)) % 40
    return significance.make_contest([_sample(one[None], label) for one in right], "balanced_accuracy")


@pytest.mark.parametrize("runs", [2, 10, 20])
def test_equally_good_runs_are_all_bold(runs: int) -> None:
    """Compared with the best one, which the same titles picked, one of 50 was un-bolded in two cases of five."""
    random = np.random.default_rng(runs)
    hard = random.logistic(size=800)
    lost = [len(confidence_set(_contest(random, np.zeros(runs), hard), 0.045)) < runs for _ in range(80)]
    assert np.mean(lost) <= 0.08


def test_runs_that_are_far_behind_are_not_bold() -> None:
    random = np.random.default_rng(0)
    hard = random.logistic(size=2_000)
    skills = np.array([0.0, 1.0, -1.0, 1.0, -2.0])
    assert confidence_set(_contest(random, skills, hard), 0.045).tolist() == [1, 3]


def test_runs_that_answer_alike_are_tied_and_worse_ones_that_never_differ_are_not() -> None:
    label = np.arange(80) % 4
    right = np.tile(np.repeat([1.0, 0.0], 40), (3, 1))
    right[2, :30] = 0
    contest = significance.make_contest([_sample(one[None], label) for one in right], "balanced_accuracy")
    assert confidence_set(contest, 0.045).tolist() == [0, 1]


def test_holm_by_hand_and_monotone() -> None:
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_no_laxer_than_none_and_no_stricter_than_bonferroni(values: list[float]) -> None:
    for raw, corrected in zip(values, significance.holm(values), strict=True):
        assert raw <= corrected <= min(1.0, raw * len(values)) + 1e-12


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
