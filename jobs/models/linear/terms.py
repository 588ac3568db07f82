"""TF-IDF of n-grams of token ids, each a term of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from sharedfs.errors import InputError

if TYPE_CHECKING:
    from jobs.data.dataset import Split

ROWS = 65_536  # titles worked on at once


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
        titles, codes = codes_of(split, 0, len(split), base=vocabulary, longest=longest)
        codes, position = np.unique(codes, return_inverse=True)
        # Document frequency: a pair (title, n-gram) counts once, as one number.
        pairs = np.unique(titles * len(codes) + position)
        seen = np.bincount(pairs % max(len(codes), 1), minlength=len(codes))
        kept = seen >= min_count
        if not kept.any():
            raise InputError(f"min_count: no n-gram is in {min_count} training titles: take a smaller one")
        idf = smoothed_idf(len(split), seen[kept])
        return cls(codes=codes[kept], idf=idf.astype(np.float32), base=vocabulary, longest=longest, sublinear=sublinear)

    def transform(self, split: Split, start: int, stop: int) -> csr_matrix:
        """The TF-IDF vectors (stop - start, F) of some titles."""
        titles, codes = codes_of(split, start, stop, base=self.base, longest=self.longest)
        # The codes are sorted: a binary search finds where one would be, and whether it is there.
        position = np.minimum(np.searchsorted(self.codes, codes), self.size - 1)
        in_training = self.codes[position] == codes
        cells = (np.ones(int(in_training.sum()), np.float32), (titles[in_training], position[in_training]))
        matrix = csr_matrix(cells, shape=(stop - start, self.size))  # equal cells are summed: the counts
        return weighted(matrix, self.idf, sublinear=self.sublinear)

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields as arrays, numbers as arrays of no dimension: what ``of`` reads back."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Terms:
        """The terms that ``arrays`` wrote."""
        values: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        return cls(**{name: value if value.ndim else value.item() for name, value in values.items()})


def smoothed_idf(titles: int, seen: np.ndarray) -> np.ndarray:
    """scikit-learn's smoothed inverse document frequency of terms that so many of the titles have, (F,)."""
    idf: np.ndarray = np.log((1 + titles) / (1 + seen)) + 1
    return idf


def weighted(counts: csr_matrix, idf: np.ndarray, *, sublinear: bool) -> csr_matrix:
    """The counts of terms in titles (N, F), in their place, as TF-IDF vectors of length 1."""
    if sublinear:
        counts.data = 1 + np.log(counts.data)
    counts.data *= idf[counts.indices]
    lengths = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    counts.data /= np.repeat(np.maximum(lengths, 1e-12), np.diff(counts.indptr)).astype(np.float32)
    return counts


def codes_of(
    split: Split, start: int, stop: int, *, base: int, longest: int, words: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Title (from 0) and code of every n-gram of the titles from start to stop, both (M,) int64.

    An n-gram's code is that of the n-gram one token shorter x ``base`` + the next token, for all positions of the flat
    tokens at once; those that run over a title's end are then left out, and those of several tokens that hold one from
    ``words`` on. Costs a pass over the tokens for each length.
    """
    offsets = np.asarray(split.offsets[start : stop + 1])
    tokens = np.asarray(split.tokens[offsets[0] : offsets[-1]], dtype=np.int64)
    titles = np.repeat(np.arange(stop - start), np.diff(offsets))
    codes, owners = [tokens], [titles]
    joins = np.ones(len(tokens), bool) if words is None else tokens < words
    code, joined = tokens, joins
    for length in range(2, longest + 1):
        code = code[:-1] * base + tokens[length - 1 :]
        joined = joined[:-1] & joins[length - 1 :]
        inside = joined & (titles[: len(code)] == titles[length - 1 :])
        codes.append(code[inside])
        owners.append(titles[: len(code)][inside])
    return np.concatenate(owners), np.concatenate(codes)
