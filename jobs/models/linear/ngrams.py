"""TF-IDF of n-grams of token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from jobs.errors import InputError

if TYPE_CHECKING:
    from jobs.data.dataset import Split


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
        return len(self.codes)

    @classmethod
    def fit(cls, split: Split, *, vocabulary: int, longest: int, min_count: int, sublinear: bool) -> Terms:
        """Every n-gram of a split that at least ``min_count`` of its titles have."""
        if vocabulary**longest >= 2**62:
            raise InputError(f"ngrams: {longest} is too long for a vocabulary of {vocabulary} tokens: take fewer")
        titles, codes = _codes(split, 0, len(split), base=vocabulary, longest=longest)
        codes, position = np.unique(codes, return_inverse=True)
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
        position = np.minimum(np.searchsorted(self.codes, codes), self.size - 1)
        known = self.codes[position] == codes
        cells = (np.ones(int(known.sum()), np.float32), (titles[known], position[known]))
        matrix = csr_matrix(cells, shape=(stop - start, self.size))  # equal cells are summed: the counts
        if self.sublinear:
            matrix.data = 1 + np.log(matrix.data)
        matrix.data *= self.idf[matrix.indices]
        lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix.data /= np.repeat(np.maximum(lengths, 1e-12), np.diff(matrix.indptr)).astype(np.float32)
        return matrix

    def arrays(self) -> dict[str, np.ndarray]:
        """What ``of`` reads back."""
        return {
            "codes": self.codes,
            "idf": self.idf,
            "base": np.array(self.base),
            "longest": np.array(self.longest),
            "sublinear": np.array(self.sublinear),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Terms:
        return cls(
            codes=arrays["codes"],
            idf=arrays["idf"],
            base=int(arrays["base"]),
            longest=int(arrays["longest"]),
            sublinear=bool(arrays["sublinear"]),
        )


def _codes(split: Split, start: int, stop: int, *, base: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Title (from 0) and code of every n-gram of the titles from start to stop."""
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
