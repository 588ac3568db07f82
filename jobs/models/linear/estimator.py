"""TF-IDF over word and character n-grams, and a linear classifier: the baseline to beat."""

from __future__ import annotations

import errno
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from scipy.special import logsumexp
from sklearn.linear_model import SGDClassifier
from sklearn.svm import LinearSVC

from sharedfs.errors import DamagedFileError, InputError
from sharedfs.files import open_plain

if TYPE_CHECKING:
    from jobs.context import Context
    from jobs.data.dataset import Dataset, Split
    from jobs.models.linear import Settings

FILE = "model.npz"
# What reading a damaged file was observed to raise, with any of its bytes changed.
BROKEN = (
    EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError,
    struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
ROWS = 65_536  # titles scored at once


# TF-IDF of n-grams of token ids.


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The n-grams seen in training and their weights.

    ``codes`` (F,) sorted: token ids read as digits in base ``base`` (pad is 0, so lengths don't mix). ``idf`` (F,) as
    scikit-learn's smoothed one: log((1 + N) / (1 + titles with it)) + 1. A title's vector has length 1.
    """

    codes: np.ndarray
    idf: np.ndarray
    base: int
    longest: int
    sublinear: bool

    @property
    def size(self) -> int:
        """F, the number of n-grams."""
        return len(self.codes)

    @classmethod
    def fit(cls, split: Split, *, vocabulary: int, longest: int, min_count: int, sublinear: bool) -> Terms:
        """Every n-gram of a split that at least ``min_count`` of its titles have."""
        if vocabulary**longest >= 2**62:
            raise InputError(f"ngrams: {longest} is too long for a vocabulary of {vocabulary} tokens: take fewer")
        titles, codes = _codes(split, 0, len(split), base=vocabulary, longest=longest)
        codes, position = np.unique(codes, return_inverse=True)
        # Document frequency: a pair (title, n-gram) counts once, as one number.
        pairs = np.unique(titles * len(codes) + position)
        seen = np.bincount(pairs % max(len(codes), 1), minlength=len(codes))
        kept = seen >= min_count
        if not kept.any():
            raise InputError(f"min_count: no n-gram is in {min_count} training titles: take a smaller one")
        idf = np.log((1 + len(split)) / (1 + seen[kept])) + 1
        return cls(codes=codes[kept], idf=idf.astype(np.float32), base=vocabulary, longest=longest, sublinear=sublinear)

    def transform(self, split: Split, start: int, stop: int) -> csr_matrix:
        """The TF-IDF vectors (stop - start, F) of some titles."""
        titles, codes = _codes(split, start, stop, base=self.base, longest=self.longest)
        # The codes are sorted: a binary search finds where one would be, and whether it is there.
        position = np.minimum(np.searchsorted(self.codes, codes), self.size - 1)
        in_training = self.codes[position] == codes
        cells = (np.ones(int(in_training.sum()), np.float32), (titles[in_training], position[in_training]))
        matrix = csr_matrix(cells, shape=(stop - start, self.size))  # equal cells are summed: the counts
        if self.sublinear:
            matrix.data = 1 + np.log(matrix.data)
        matrix.data *= self.idf[matrix.indices]
        lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix.data /= np.repeat(np.maximum(lengths, 1e-12), np.diff(matrix.indptr)).astype(np.float32)
        return matrix

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields as arrays, numbers as arrays of no dimension: what ``of`` reads back."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Terms:
        """The terms that ``arrays`` wrote."""
        values: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        return cls(**{name: value if value.ndim else value.item() for name, value in values.items()})


def _codes(split: Split, start: int, stop: int, *, base: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Title (from 0) and code of every n-gram of the titles from start to stop, both (M,) int64.

    An n-gram's code is that of the n-gram one token shorter x ``base`` + the next token, for all positions of the flat
    tokens at once; those that run over a title's end are then left out. Costs a pass over the tokens for each length.
    """
    offsets = np.asarray(split.offsets[start : stop + 1])
    tokens = np.asarray(split.tokens[offsets[0] : offsets[-1]], dtype=np.int64)
    titles = np.repeat(np.arange(stop - start), np.diff(offsets))
    codes, owners = [tokens], [titles]
    code = tokens
    for length in range(2, longest + 1):
        code = code[:-1] * base + tokens[length - 1 :]
        inside = titles[: len(code)] == titles[length - 1 :]
        codes.append(code[inside])
        owners.append(titles[: len(code)][inside])
    return np.concatenate(owners), np.concatenate(codes)


# The linear baseline: TF-IDF of tokens and their n-grams, and for every category a classifier against the rest.


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A fitted classifier: ``weights`` (F, C), ``bias`` (C,), and the scale that turns decisions into logits."""

    terms: Terms
    weights: np.ndarray
    bias: np.ndarray
    scale: float

    @property
    def parameters(self) -> int:
        """How many numbers were fitted."""
        return self.weights.size + self.bias.size

    def scores(self, split: Split) -> np.ndarray:
        """Logits (N, C), float32: decision values times ``scale``, so that their softmax is calibrated."""
        parts = [
            self._decide(self.terms.transform(split, start, min(start + ROWS, len(split))))
            for start in range(0, len(split), ROWS)
        ]
        return np.concatenate([np.empty((0, len(self.bias)), np.float32), *parts]) * np.float32(self.scale)

    def _decide(self, features: csr_matrix) -> np.ndarray:
        decisions: np.ndarray = features @ self.weights + self.bias
        return decisions.astype(np.float32, copy=False)

    def save(self, folder: Path) -> tuple[Path, ...]:
        """Write the classifier into a folder, as arrays alone; returns the files."""
        path = folder / FILE
        with path.open("xb") as file:
            arrays = {"weights": self.weights, "bias": self.bias, "scale": np.array(self.scale)}
            np.savez(file, allow_pickle=False, **arrays, **self.terms.arrays())
        return (path,)


def load(folder: Path) -> Linear:
    """The classifier that was saved in a folder; runs no code. Raises OSError, or DamagedFileError naming the file."""
    path = folder / FILE
    with open_plain(path) as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                terms, scale = Terms.of(arrays), float(arrays["scale"])
                return Linear(terms=terms, weights=arrays["weights"], bias=arrays["bias"], scale=scale)
        except (*BROKEN, OSError) as error:
            # A damaged file's: EINVAL of a place before its beginning, none of bz2. Others are the storage's.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise DamagedFileError(f"{path}: damaged, train the run again: {error}") from error


def fit(dataset: Dataset, settings: Settings, context: Context | None = None) -> Linear:
    """Fit on the training split; only the scale of the logits is chosen on the validation split.

    The loss of a softmax over ``scale`` x decision values (temperature scaling: Guo and others, 2017) is least on
    the validation titles at that scale; it changes neither predictions nor their order.
    """
    train = dataset.splits["train"]
    terms = Terms.fit(
        train,
        vocabulary=dataset.vocabulary_size,
        longest=settings.ngrams,
        min_count=settings.min_count,
        sublinear=settings.sublinear,
    )
    labels = np.asarray(train.labels, dtype=np.int64)
    if context is not None:
        context.log(f"linear: {len(train)} titles, {terms.size} n-grams, {settings.solver}")
        from jobs.context import Progress

        context.progress(Progress(phase="fitting", done=0, total=len(train), unit="titles"), force=True)
    classifier = _classifier(settings)
    classifier.fit(terms.transform(train, 0, len(train)), labels)
    weights, bias = _complete(classifier, classes=len(dataset.classes), features=terms.size)
    fitted = Linear(terms=terms, weights=weights, bias=bias, scale=1.0)
    return Linear(terms=terms, weights=weights, bias=bias, scale=_scale(fitted, dataset.splits["validation"]))


def _classifier(settings: Settings) -> Any:
    weights = "balanced" if settings.class_weights == "balanced" else None
    shared = {"loss": settings.loss, "max_iter": settings.max_passes, "random_state": settings.seed}
    if settings.solver == "liblinear":
        return LinearSVC(C=settings.c, class_weight=weights, **shared)
    return SGDClassifier(alpha=settings.alpha, class_weight=weights, **shared)


def _complete(classifier: Any, *, classes: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (F, C) and bias (C,) for every category: two of them share one row, one never seen in training loses."""
    coefficients, intercepts = classifier.coef_, classifier.intercept_
    if len(classifier.classes_) == 2:
        coefficients = np.concatenate([-coefficients, coefficients])
        intercepts = np.concatenate([-intercepts, intercepts])
    weights = np.zeros((features, classes), np.float32)
    bias = np.full(classes, intercepts.min() - 10.0, np.float32)
    weights[:, classifier.classes_] = coefficients.T
    bias[classifier.classes_] = intercepts
    return weights, bias


def _scale(fitted: Linear, split: Split) -> float:
    if len(split) == 0:
        return 1.0
    decisions = fitted.scores(split).astype(np.float64)
    labels = np.asarray(split.labels, dtype=np.int64)

    def loss(log_scale: float) -> float:
        scaled = decisions * np.exp(log_scale)
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 5.0), method="bounded").x))
