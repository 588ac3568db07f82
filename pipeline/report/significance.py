"""Whether a difference is more than chance in the test titles, and where there are several seeds, in training too.

What draws random numbers is seeded: two reports of the same runs have the same p values and the same bold figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.answers import Answers, make_answers, weights
from pipeline.report.collect import Collected
from pipeline.report.confidence_set import Contest
from pipeline.report.groups import Entry
from pipeline.report.records import Split
from pipeline.report.seeds import SeedSpread, own_spread, pooled_spread
from pipeline.report.title_sets import TitleSet, title_set

ALPHA = 0.05
FLIPS = 5_000  # sign patterns drawn
HEAVY = 50  # differences whose signs are drawn, where the others are many
BALANCED = "balanced_accuracy"
ENOUGH_SEEDS = 5  # on either side, to say how often one beats the other


# Tests of two runs, from their answers.


def paired_p(first: np.ndarray, second: np.ndarray, label: np.ndarray, metric: str = BALANCED) -> float:
    """Whether two trained models differ on the same titles by more than chance in these: a two-sided p value.

    ``first`` and ``second`` (N,) say how often each title was answered rightly (0 or 1, or a share over seeds).
    A paired permutation test (Fisher 1935; Good 2005, Permutation, Parametric, and Bootstrap Tests of Hypotheses):
    under the null hypothesis the two runs' answers to a title could be swapped, so each title's difference, weighted
    as it counts in the metric, keeps its size and has either sign with equal probability. The sum of the differences is
    that of the scores. About 2 ms for 100,000 titles. It says nothing of other models of the same settings: another
    seed of the same ones is told apart from them in one case of four.
    """
    parts = (first.astype(np.float64) - second) * weights(metric, label)
    parts = parts[parts != 0]
    if parts.size == 0:
        return 1.0
    observed, variance = abs(parts.sum()), float((parts**2).sum())
    # Many differences of which none dominates: their sum is normal (Lindeberg), with the sum of squares as variance.
    # A category of few titles weighs so much that it may dominate: then the signs are drawn.
    if parts.size >= 100 and (parts**2).max() <= 0.05 * variance:
        return math.erfc(observed / math.sqrt(2 * variance))
    return _flipped_p(parts, float(observed))


def _flipped_p(parts: np.ndarray, observed: float) -> float:
    """The same by ``FLIPS`` seeded sign patterns, in about 3 ms; the standard error of a p value of 0.05 is 0.003.

    Only the heaviest differences need their signs drawn; the sum of many light ones is normal whatever theirs are.
    """
    order = np.argsort(-np.abs(parts), kind="stable")
    heavy, light = parts[order[:HEAVY]], parts[order[HEAVY:]]
    if light.size < HEAVY:
        heavy, light = parts, parts[:0]
    random = np.random.default_rng(0)
    signs = random.integers(0, 2, size=(FLIPS, heavy.size), dtype=np.int8) * np.int8(2) - np.int8(1)
    sums = signs @ heavy
    if light.size == 0:
        # The observed pattern counts as one of those drawn, so p is never 0 (Phipson and Smyth 2010).
        extreme = np.count_nonzero(np.abs(sums) >= observed * (1 - 1e-9))
        return (int(extreme) + 1) / (FLIPS + 1)
    scale = math.sqrt(2 * float((light**2).sum()))
    # Given the heavy signs, the chance that the light ones carry the sum past the observed one, on either side.
    tails = ((observed - np.concatenate([sums, -sums])) / scale).tolist()
    return math.fsum(math.erfc(tail) for tail in tails) / (2 * FLIPS)


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for their number, in the order given: Holm, Scandinavian Journal of Statistics 6, 1979.

    The smallest is multiplied by their number, the next by one less, and so on; none falls below a smaller one's.
    As safe as Bonferroni's correction, without any assumption on how the tests depend, and never weaker.
    """
    order = sorted(range(len(values)), key=lambda position: values[position])
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[position]))
        corrected[position] = highest
    return corrected


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A run as a comparison sees it: each seed's score on test, how far seeds are apart, what it answered."""

    scores: tuple[float, ...]
    spread: SeedSpread | None
    answers: Answers

    @property
    def mean(self) -> float:
        return math.fsum(self.scores) / len(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``p`` of a difference; ``of_settings`` where both have several seeds, else it is of the trained models alone.

    ``wins`` is how often a model of the first beats one of the second, with its 95 % interval, from five seeds a side.
    """

    p: float
    of_settings: bool
    wins: tuple[float, float, float] | None = None


def difference(first: Sample, second: Sample, metric: str = BALANCED) -> Verdict:
    """Whether two runs on the same titles differ by more than chance.

    With two seeds or more on either side chance has two sources, titles and seeds. The variance of a mean over both is
    that of titles plus that of seeds minus that of their interaction, which both contain (Cameron, Gelbach and Miller,
    Journal of Business & Economic Statistics 29, 2011); Student's t with Satterthwaite's degrees of freedom, as the
    part of the seeds is known from few.
    """
    if min(len(first.scores), len(second.scores)) < 2:
        one, other = first.answers, second.answers
        return Verdict(p=paired_p(one.right, other.right, one.label, metric), of_settings=False)
    contest = make_contest([first, second], metric)
    t = abs(float(contest.t()[0, 1]))
    from scipy.special import stdtr

    p = min(1.0, 2 * float(stdtr(contest.freedom[0, 1], -t)))
    enough = min(len(first.scores), len(second.scores)) >= ENOUGH_SEEDS
    wins = win_share(first.scores, second.scores) if enough else None
    return Verdict(p=p, of_settings=True, wins=wins)


def win_share(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """How often a model of the first settings scores above one of the second: estimate, and its 95 % interval.

    The share of all pairs of seeds, ties half (Mann and Whitney 1947; Bouthillier et al., Accounting for Variance in
    Machine Learning Benchmarks, MLSys 2021), with Newcombe's fifth interval (Statistics in Medicine 25, 2006): the
    shares from which the one seen is 1.96 standard errors away or less.
    """
    gaps = np.asarray(first)[:, None] - np.asarray(second)[None, :]
    seen = float((gaps > 0).mean() + (gaps == 0).mean() / 2)
    share = np.linspace(0, 1, 10_001)
    extra = (len(first) + len(second)) / 2 - 1
    variance = share * (1 - share) * (1 + extra * ((1 - share) / (2 - share) + share / (1 + share))) / gaps.size
    within = share[np.abs(share - seen) <= 1.96 * np.sqrt(variance) + 1e-12]
    return seen, float(within.min(initial=seen)), float(within.max(initial=seen))


def make_contest(samples: Sequence[Sample], metric: str) -> Contest:
    """Runs with the covariance that titles, which they share, and seeds, which are each one's own, give their scores.

    The part of the titles is that of sign flips: each title's difference keeps its size, for all pairs of runs at once.
    How well a pair's variance is known, its degrees of freedom, follows from the number of seeds, and from that of the
    titles that decide (Satterthwaite).
    """
    influence = np.stack([sample.answers.influence(metric) for sample in samples])
    # Only differences between runs matter; without what all have in common, equal answers leave nothing to rounding.
    influence -= influence.mean(axis=0)
    scores = np.array([sample.mean for sample in samples])
    seeds = np.array([_seed_variance(sample) for sample in samples])
    interaction = np.array([sample.answers.interaction(metric) for sample in samples])
    covariance = influence @ influence.T + np.diag(np.maximum(seeds - interaction, 0.0))
    spreads = [sample.spread for sample in samples]
    known = np.array([spread.freedom if spread else math.inf for spread in spreads])
    # Two runs that share one pooled spread are wrong about it together.
    shared = np.array([[one is not None and one is other for other in spreads] for one in spreads])
    together = seeds[:, None] ** 2 + seeds[None, :] ** 2 + np.where(shared, 2 * seeds[:, None] * seeds[None, :], 0.0)
    least = np.minimum(known[:, None], known[None, :])
    apart = seeds[:, None] ** 2 / known[:, None] + seeds[None, :] ** 2 / known[None, :]
    own = np.diag(covariance)
    variance = own[:, None] + own[None, :] - 2 * covariance
    uncertain = np.where(shared, together / least, apart) + variance**2 / _deciding_titles(influence, scores)
    freedom = np.where(uncertain > 0, variance**2 / np.where(uncertain > 0, uncertain, 1.0), math.inf)
    return Contest(score=scores, covariance=covariance, freedom=np.maximum(freedom, 1.0))


def _deciding_titles(influence: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """On how many titles each run differs from the best one, as many equal ones as decide as much, (k, 1).

    Kish's effective sample size of the squares, whose sum is the variance of the difference; of the best itself the
    fewest of any.
    """
    top = int(scores.argmax())
    squares = (influence - influence[top]) ** 2
    fourth = (squares**2).sum(axis=1)
    titles = np.where(fourth > 0, squares.sum(axis=1) ** 2 / np.where(fourth > 0, fourth, 1.0), math.inf)
    titles[top] = np.delete(titles, top).min()
    found: np.ndarray = np.minimum(titles[:, None], titles[None, :])
    return found


def _seed_variance(sample: Sample) -> float:
    """Of the mean over its seeds."""
    return sample.spread.variance / len(sample.scores) if sample.spread is not None else 0.0


# Entries of a report: what a comparison needs of them, and which may be the best of a table.


def sample_of(collected: Collected, entry: Entry, metric: str, answers: Answers | None) -> Sample | None:
    """An entry's test scores and answers; None where there are none."""
    scores = entry.judged(f"test_{metric}")
    if answers is None or not scores:
        return None
    return Sample(scores=tuple(scores), spread=seed_spread(collected, entry, metric), answers=answers)


def seed_spread(collected: Collected, entry: Entry, metric: str) -> SeedSpread | None:
    """How far an entry's seeds are apart on test: pooled over the runs of its architecture and titles, where alike.

    None for an entry of one seed. A seed that counts as guessing is no draw from the same law as the others: it moves
    the mean, and adds to the spread only where nothing else is known of it.
    """
    judged = own_spread(entry.judged(f"test_{metric}"))
    titles = entry_titles(collected, entry)
    if judged is None or titles is None:
        return judged
    key = (entry.architecture, titles.key, metric)
    if key not in collected.spreads:
        runs: dict[tuple[str, str], list[float]] = {}
        for result in collected.results:
            same = result.row.architecture == entry.architecture and result.done
            value = result.figures.get(f"test_{metric}") if same else None
            if value is not None and (found := title_set(collected, result)) is not None and found.key == titles.key:
                runs.setdefault((result.row.group, result.row.run), []).append(float(value))
        collected.spreads[key] = pooled_spread(runs.values())
    return collected.spreads[key] or own_spread(entry.values(f"test_{metric}")) or judged


def entry_titles(collected: Collected, entry: Entry) -> TitleSet | None:
    """The test titles that an entry was judged on; None as long as it was not."""
    return next((found for result in entry.done if (found := title_set(collected, result)) is not None), None)


def by_titles(collected: Collected, entries: Iterable[Entry]) -> dict[TitleSet, list[Entry]]:
    """Entries that were judged on the same titles, together, in order; without those that were not judged."""
    sets: dict[str, tuple[TitleSet, list[Entry]]] = {}
    for entry in entries:
        titles = entry_titles(collected, entry)
        if titles is not None:
            sets.setdefault(titles.key, (titles, []))[1].append(entry)
    return dict(sets.values())


def read_answers(collected: Collected, entry: Entry, *, f1: bool) -> Answers | None:
    """What an entry's seeds answered on test; None where some did not leave it, or not to the same titles."""
    read = [collected.predictions(result, "test") for result in entry.done]
    predictions = [one for one in read if one is not None]
    if len(predictions) < len(read):
        return None
    guesses = 0 if entry.chance is None else entry.own_failures
    return make_answers(predictions, guesses=guesses, chance=entry.chance or 0.0, f1=f1)


def compare(collected: Collected, first: Entry, second: Entry, metric: str = BALANCED) -> Verdict | None:
    """Whether two entries differ on test by more than chance; None where they were not judged on the same titles."""
    one, other = entry_titles(collected, first), entry_titles(collected, second)
    if one is None or other is None or one.key != other.key or one.too_few:
        return None
    samples = [
        sample_of(collected, entry, metric, read_answers(collected, entry, f1=metric == "macro_f1"))
        for entry in (first, second)
    ]
    if samples[0] is None or samples[1] is None:
        return None
    if not np.array_equal(samples[0].answers.label, samples[1].answers.label):
        return None
    return difference(samples[0], samples[1], metric)


def mean_recall_of(collected: Collected, entry: Entry, split: str) -> Split | None:
    """An entry's mean recall over its finished seeds."""
    splits = [evaluation[split] for result in entry.done if split in (evaluation := collected.evaluation(result))]
    if not splits:
        return None
    if len(splits) == 1:
        return splits[0]
    if any(len(one.recall) != len(splits[0].recall) for one in splits):
        return None
    mean = sum(one.recall for one in splits) / len(splits)
    return Split(recall=np.asarray(mean), support=splits[0].support)
