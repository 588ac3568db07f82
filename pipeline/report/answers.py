"""What a run answered, title by title, over its seeds: what any comparison on the same titles starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.intervals import PRIOR_TITLES
from pipeline.report.records import Predictions

COMPARED = ("balanced_accuracy", "accuracy", "macro_f1")  # metrics that have intervals, tests and bold figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """N titles over ``seeds`` runs: ``label`` (N,), and how often each was answered rightly (N,), a share of the seeds.

    ``f1`` (N,) is what each title's answer does to macro F1, the mean over seeds, ``f1_between`` the sum over titles of
    its variance between seeds, ``f1_variance`` that of a seed's macro F1 over titles; None where it was not asked for.
    """

    label: np.ndarray
    right: np.ndarray
    seeds: int
    f1: np.ndarray | None = None
    f1_between: float = 0.0
    f1_variance: float = 0.0

    def influence(self, metric: str) -> np.ndarray:
        """What each title adds to the score, (N,), or does to it.

        Two runs' differences by title, squared and added up, are the variance that titles give the difference.
        """
        if metric == "macro_f1":
            assert self.f1 is not None
            return self.f1
        added: np.ndarray = self.right * weights(metric, self.label)
        return added

    def interaction(self, metric: str) -> float:
        """How much of the mean's variance between seeds is chance of single titles, which titles count already."""
        if self.seeds < 2:
            return 0.0
        if metric == "macro_f1":
            return self.f1_between / self.seeds
        # A title that a share p of n seeds answers has the variance p (1 - p) n / (n - 1) between them.
        own = self.right * (1 - self.right)
        return float((own * weights(metric, self.label) ** 2).sum() / (self.seeds - 1))


def weights(metric: str, label: np.ndarray) -> np.ndarray:
    """How much each title counts in a share of titles, (N,), or in the mean of the categories' shares."""
    if metric == "accuracy":
        return np.full(len(label), 1 / max(len(label), 1))
    counts = np.bincount(label)
    found: np.ndarray = 1.0 / (np.count_nonzero(counts) * counts[label])
    return found


def make_answers(
    predictions: Sequence[Predictions], *, guesses: int = 0, chance: float = 0.0, f1: bool
) -> Answers | None:
    """Those of a run's seeds, and of ``guesses`` that failed, right by ``chance``; None if labels differ."""
    if not predictions or any(not np.array_equal(one.label, predictions[0].label) for one in predictions[1:]):
        return None
    label = predictions[0].label
    seeds = len(predictions) + guesses
    right = sum((one.predicted == one.label).astype(np.float64) for one in predictions) + guesses * chance
    if not f1:
        return Answers(label=label, right=np.asarray(right / seeds), seeds=seeds)
    each = np.stack([f1_influence(one.label, one.predicted) for one in predictions])
    between = float(each.var(axis=0, ddof=1).sum()) if len(each) > 1 else 0.0
    # A seed that guesses is the same whatever the title: it moves no title's influence but towards 0.
    mean = each.sum(axis=0) / seeds
    return Answers(
        label=label,
        right=np.asarray(right / seeds),
        seeds=seeds,
        f1=mean,
        f1_between=between,
        f1_variance=float(np.mean([f1_variance(one.label, one.predicted) for one in predictions])),
    )


def f1_influence(label: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """What each title's answer does to macro F1, (N,): its derivative, the labels being what they are (delta method).

    F1 = 2 TP / (titles of the category + titles predicted to be of it), so that a right answer moves its category's by
    (2 - F1) / both, a wrong one that of the category it was taken for by -F1 / both. As in Takahashi et al., Applied
    Intelligence 52, 2022, who add up the same by cells of the confusion matrix.
    """
    f1, both, categories = _f1_by_category(label, predicted)
    added = np.where(label == predicted, 2 / both[label], 0.0) - f1[predicted] / both[predicted]
    found: np.ndarray = added / categories
    return found


def f1_variance(label: np.ndarray, predicted: np.ndarray) -> float:
    """The variance that titles give macro F1, each category's titles drawn on their own.

    As for balanced accuracy each category's recall is shrunk towards the overall one first: of a single title, right or
    wrong, no variance could be seen.
    """
    f1, both, categories = _f1_by_category(label, predicted)
    support = np.bincount(label, minlength=len(f1))
    there = support > 0
    correct = np.bincount(label[label == predicted], minlength=len(f1))[there]
    titles = support[there].astype(np.float64)
    shrunk = (correct + PRIOR_TITLES * (correct / titles).mean()) / (titles + PRIOR_TITLES)
    wrong = predicted[label != predicted]
    elsewhere = float((f1[wrong] / both[wrong]).mean()) if wrong.size else 0.0
    apart = (2 - f1[there]) / both[there] + elsewhere  # between a right answer and a wrong one
    return float((titles * shrunk * (1 - shrunk) * apart**2).sum()) / categories**2


def _f1_by_category(label: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """F1 and what it is divided by, (C,) each, and how many categories are in labels or predictions."""
    size = int(max(label.max(initial=0), predicted.max(initial=0))) + 1
    both = np.bincount(label, minlength=size) + np.bincount(predicted, minlength=size)
    correct = np.bincount(label[label == predicted], minlength=size)
    safe = np.maximum(both, 1)
    return 2 * correct / safe, safe, max(int(np.count_nonzero(both)), 1)
