"""A linear classifier over TF-IDF of n-grams, each category against the rest: the baseline to beat."""

from __future__ import annotations

import errno
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix, vstack
from scipy.special import logsumexp
from sklearn import config_context
from sklearn.linear_model import SGDClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_class_weight

from jobs.data.dataset import SPECIAL
from jobs.data.progress import in_order
from jobs.models.linear.hashed import HashedTerms
from jobs.models.linear.terms import ROWS, Terms
from sharedfs.errors import DamagedFileError
from sharedfs.files import open_plain

if TYPE_CHECKING:
    from jobs.context import Context
    from jobs.data.dataset import Dataset, Split
    from jobs.models.linear import Settings

Weights: TypeAlias = "np.ndarray | csr_matrix"
FILE = "model.npz"
SPARSE = ("data", "indices", "indptr")  # of weights of which small ones were dropped
# What reading a damaged file was observed to raise, with any of its bytes changed.
BROKEN = (
    EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError,
    struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
SCALED_BY, RUN = 16_384, 256  # titles that the scale is chosen on, where terms are hashed: so many in a row each time


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A fitted classifier: ``weights`` (F, C), ``bias`` (C,), and the scale that turns decisions into logits.

    Where small weights were dropped the others are stored alone, as a sparse matrix.
    """

    terms: Terms | HashedTerms
    weights: Weights
    bias: np.ndarray
    scale: float

    @property
    def parameters(self) -> int:
        """How many numbers were fitted and kept."""
        return int(self.weights.size + self.bias.size)

    def scores(self, split: Split) -> np.ndarray:
        """Logits (N, C), float32: decision values times ``scale``, so that their softmax is calibrated."""
        parts = [
            self._decide(self.terms.transform(split, start, min(start + ROWS, len(split))))
            for start in range(0, len(split), ROWS)
        ]
        return np.concatenate([np.empty((0, len(self.bias)), np.float32), *parts]) * np.float32(self.scale)

    def _decide(self, features: csr_matrix) -> np.ndarray:
        sums = features @ self.weights
        decisions: np.ndarray = (sums if isinstance(sums, np.ndarray) else sums.toarray()) + self.bias
        return decisions.astype(np.float32, copy=False)

    def save(self, folder: Path) -> tuple[Path, ...]:
        """Write the classifier into a folder, as arrays alone; returns the files."""
        path = folder / FILE
        weights = {"weights": self.weights}
        if isinstance(self.weights, csr_matrix):
            weights = {name: getattr(self.weights, name) for name in SPARSE}
        with path.open("xb") as file:
            arrays = {**weights, "bias": self.bias, "scale": np.array(self.scale)}
            np.savez(file, allow_pickle=False, **arrays, **self.terms.arrays())
        return (path,)


def load(folder: Path) -> Linear:
    """The classifier that was saved in a folder; runs no code. Raises OSError, or DamagedFileError naming the file."""
    path = folder / FILE
    with open_plain(path) as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                terms = (Terms if "codes" in arrays else HashedTerms).of(arrays)
                weights, bias, scale = _read_weights(arrays), arrays["bias"], float(arrays["scale"])
                return Linear(terms=terms, weights=weights, bias=bias, scale=scale)
        except (*BROKEN, OSError) as error:
            # A damaged file's: EINVAL of a place before its beginning, none of bz2. Others are the storage's.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise DamagedFileError(f"{path}: damaged, train the run again: {error}") from error


def _read_weights(arrays: Mapping[str, np.ndarray]) -> Weights:
    if "indptr" not in arrays:
        return arrays["weights"]
    data, indices, starts = (arrays[name] for name in SPARSE)
    weights = csr_matrix((data, indices, starts), shape=(len(starts) - 1, len(arrays["bias"])))
    weights.check_format(full_check=True)  # scipy's products would follow a wrong index out of the array
    return weights


def fit(dataset: Dataset, settings: Settings, context: Context | None = None) -> Linear:
    """Fit on the training split; only the scale of the logits is chosen on the validation split.

    The loss of a softmax over ``scale`` x decision values (temperature scaling: Guo and others, 2017) is least on
    the validation titles at that scale; it changes neither predictions nor their order.
    """
    train = dataset.splits["train"]
    terms = _terms(dataset, settings)
    labels = np.asarray(train.labels, dtype=np.int64)
    if context is not None:
        context.log(f"linear: {len(train)} titles, {terms.size} n-grams, {settings.solver}")
        from jobs.context import Progress

        context.progress(Progress(phase="fitting", done=0, total=len(train), unit="titles"), force=True)
    features, present = _features(terms, train), np.unique(labels)
    if settings.solver == "sgd" and len(present) > 2:
        found = _fit_each(features, labels, settings, threads=1 if context is None else context.cpus)
    else:
        found = _fit_all(features, labels, settings)
    del features
    weights, bias = _of_every_category(*found, present, len(dataset.classes))
    fitted = Linear(terms=terms, weights=weights, bias=bias, scale=1.0)
    return replace(fitted, scale=_scale(fitted, dataset.splits["validation"]))


def _terms(dataset: Dataset, settings: Settings) -> Terms | HashedTerms:
    make: Any = Terms.fit
    if settings.max_terms is not None:
        words = len(SPECIAL) + dataset.meta.vocabulary.words
        make = partial(HashedTerms.fit, size=settings.max_terms, words=words)
    terms: Terms | HashedTerms = make(
        dataset.splits["train"],
        vocabulary=dataset.vocabulary_size,
        longest=settings.ngrams,
        min_count=settings.min_count,
        sublinear=settings.sublinear,
    )
    return terms


def _features(terms: Terms | HashedTerms, split: Split) -> csr_matrix:
    """The vectors of all titles (N, F), block by block into arrays that are there once."""
    most = len(split.tokens) * terms.longest
    data, indices, starts = np.empty(most, np.float32), np.empty(most, np.int32), np.zeros(len(split) + 1, np.int64)
    for start in range(0, len(split), ROWS):
        stop = min(start + ROWS, len(split))
        block, begin = terms.transform(split, start, stop), starts[start]
        starts[start + 1 : stop + 1] = begin + block.indptr[1:]
        data[begin : starts[stop]], indices[begin : starts[stop]] = block.data, block.indices
    end = starts[-1]
    return csr_matrix((data[:end], indices[:end], starts.astype(np.int32)), shape=(len(split), terms.size))


def _classifier(settings: Settings, **own: Any) -> Any:
    weights = "balanced" if settings.class_weights == "balanced" else None
    shared = {"loss": settings.loss, "max_iter": settings.max_passes, "random_state": settings.seed}
    if settings.solver == "liblinear":
        return LinearSVC(C=settings.c, class_weight=weights, **shared)
    return SGDClassifier(**{"alpha": settings.alpha, "class_weight": weights, **shared, **own})


def _fit_all(features: csr_matrix, labels: np.ndarray, settings: Settings) -> tuple[Weights, np.ndarray]:
    """Weights (P, F) and bias (P,) of the categories that training has, fitted at once; two share one row."""
    classifier = _classifier(settings).fit(features, labels)
    weights, bias = classifier.coef_, classifier.intercept_
    if len(classifier.classes_) == 2:
        weights, bias = np.concatenate([-weights, weights]), np.concatenate([-bias, bias])
    return _without_small(weights, settings.drop_below), bias


def _fit_each(features: csr_matrix, labels: np.ndarray, settings: Settings, threads: int) -> tuple[Weights, np.ndarray]:
    """What ``_fit_all`` gives, to the bit, a category a thread: small weights go before there are all categories'."""
    present = np.unique(labels)
    importance = np.ones(len(present))
    if settings.class_weights == "balanced":
        importance = compute_class_weight("balanced", classes=present, y=labels)
    # SGDClassifier itself draws a seed for each category so.
    seeds = np.random.RandomState(settings.seed).randint(np.iinfo(np.int32).max, size=len(present))

    def fit_one(number: int) -> tuple[Weights, np.ndarray]:
        own = {"class_weight": {False: 1.0, True: importance[number]}, "random_state": int(seeds[number])}
        with config_context(assume_finite=True):  # or each category would look through all titles once more
            classifier = _classifier(settings, **own).fit(features, labels == present[number])
        return _without_small(classifier.coef_, settings.drop_below), classifier.intercept_

    rows = list(in_order((partial(fit_one, number) for number in range(len(present))), threads))
    weights = (vstack if settings.drop_below else np.concatenate)([row for row, _ in rows])
    return weights, np.concatenate([bias for _, bias in rows])


def _without_small(weights: np.ndarray, below: float) -> Weights:
    """The weights, as a sparse matrix of those of at least this size where small ones are dropped."""
    return csr_matrix(np.where(np.abs(weights) >= below, weights, 0), dtype=np.float32) if below else weights


def _of_every_category(
    weights: Weights, bias: np.ndarray, present: np.ndarray, classes: int
) -> tuple[Weights, np.ndarray]:
    """Weights (F, C) and bias (C,): a category never seen in training loses."""
    every = np.full(classes, bias.min() - 10.0, np.float32)
    every[present] = bias
    if isinstance(weights, np.ndarray):
        columns = np.zeros((weights.shape[1], classes), np.float32)
        columns[:, present] = weights.T
        return columns, every
    places = (np.ones(len(present), np.float32), (np.arange(len(present)), present))
    return csr_matrix(weights.T @ csr_matrix(places, shape=(len(present), classes))), every


def _scale(fitted: Linear, split: Split) -> float:
    if len(split) == 0:
        return 1.0
    decisions, labels = _decisions(fitted, split)

    def loss(log_scale: float) -> float:
        scaled = decisions * np.exp(log_scale)
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 5.0), method="bounded").x))


def _decisions(fitted: Linear, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Decision values and labels of a split's titles; where terms are hashed, of at most ``SCALED_BY`` all over it."""
    parts = [split]
    if isinstance(fitted.terms, HashedTerms) and len(split) > SCALED_BY:
        starts = np.linspace(0, len(split) - RUN, SCALED_BY // RUN).astype(int).tolist()
        parts = [split.cut(start, start + RUN) for start in starts]
    decisions = np.concatenate([fitted.scores(part) for part in parts])
    return decisions.astype(np.float64), np.concatenate([part.labels for part in parts]).astype(np.int64)
