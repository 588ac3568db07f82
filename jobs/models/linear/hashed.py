"""TF-IDF of hashed n-grams: a fixed number of terms, however many n-grams millions of titles have.

A token is its own term; longer n-grams share the others by a hash of their tokens: Weinberger and others, *Feature
Hashing for Large Scale Multitask Learning*, ICML 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from jobs.models.linear.terms import ROWS, codes_of, smoothed_idf, weighted
from sharedfs.errors import InputError

if TYPE_CHECKING:
    from jobs.data.dataset import Split

_MIXER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: neighbouring codes end up far apart
_HIGH = np.uint64(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedTerms:
    """``idf`` (F,) of the terms, 0 for those left out; ``base`` tokens are terms of their own.

    Tokens from ``words`` on are n-grams of the data's own (``text.character_ngrams``): no longer n-gram holds one.
    """

    idf: np.ndarray
    base: int
    words: int
    longest: int
    sublinear: bool

    @property
    def size(self) -> int:
        """F, the number of terms."""
        return len(self.idf)

    @classmethod
    def fit(
        cls, split: Split, *, size: int, vocabulary: int, words: int, longest: int, min_count: int, sublinear: bool
    ) -> HashedTerms:
        """Terms of a split's titles; those that fewer than ``min_count`` have are left out."""
        if size <= vocabulary:
            raise InputError(f"max_terms: {size:,} are not more than the data set's {vocabulary:,} tokens: take more")
        terms = cls(idf=np.ones(size, np.float32), base=vocabulary, words=words, longest=longest, sublinear=sublinear)
        seen = np.zeros(size, np.int64)
        for start in range(0, len(split), ROWS):
            counts = terms.counts(split, start, min(start + ROWS, len(split)))
            seen += np.bincount(counts.indices, minlength=size)
        if not (seen >= min_count).any():
            raise InputError(f"min_count: no n-gram is in {min_count} training titles: take a smaller one")
        idf = np.where(seen >= min_count, smoothed_idf(len(split), seen), 0)
        return cls(idf=idf.astype(np.float32), base=vocabulary, words=words, longest=longest, sublinear=sublinear)

    def counts(self, split: Split, start: int, stop: int) -> csr_matrix:
        """How often each of some titles has each term, (stop - start, F)."""
        titles, codes = codes_of(split, start, stop, base=self.base, longest=self.longest, words=self.words)
        keys, base = codes.astype(np.uint64), np.uint64(self.base)  # a long n-gram's may have gone around: a hash too
        shared = base + ((keys * _MIXER) >> _HIGH) % (np.uint64(self.size) - base)
        terms = np.where(keys < base, keys, shared).astype(np.int64)
        return csr_matrix((np.ones(len(terms), np.float32), (titles, terms)), shape=(stop - start, self.size))

    def transform(self, split: Split, start: int, stop: int) -> csr_matrix:
        """The TF-IDF vectors (stop - start, F) of some titles."""
        return weighted(self.counts(split, start, stop), self.idf, sublinear=self.sublinear)

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields as arrays, numbers as arrays of no dimension: what ``of`` reads back."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> HashedTerms:
        """The terms that ``arrays`` wrote."""
        values: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        return cls(**{name: value if value.ndim else value.item() for name, value in values.items()})
