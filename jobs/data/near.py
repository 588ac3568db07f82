"""Titles of validation or test that training has with few words changed, by the sets of words that a model sees.

Two titles are near where their sets of known words have a Jaccard similarity (words in both by words in either) of at
least 0.8: one word of nine is another, or one of five is left out. All such pairs are found, none is guessed: words are
ordered from the rarest, and two sets that are so similar share one of their first few words (prefix filter: Bayardo,
Ma and Srikant, "Scaling up all pairs similarity search", WWW 2007); of the pairs that do, most are dismissed by their
sizes and by 64-bit signatures of their words (Sandes, Teodoro and Melo, "Bitmap filter", Information Systems, 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.data.dataset import SPECIAL, Dataset, Ragged, Split, offsets, positions_in_rows

LEAST = 0.8
_ROWS = 200_000  # training titles looked at together
_PAIRS = 4_000_000
_ROUNDED = 1e-9  # 0.8 is no float: a bound that is a whole number stays one


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The titles that were asked about, by position in their split, and the most similar training title of each, (N,).

    Its ``similarity`` is 0 where none is near.
    """

    titles: NDArray[np.int64]
    twin: NDArray[np.int64]
    similarity: NDArray[np.float64]


def nearest_in_training(dataset: Dataset, split: str, titles: NDArray[np.int64]) -> Nearest:
    """The training titles that are most similar to these titles of a split; the first of several equals."""
    words = dataset.meta.vocabulary.words
    train = dataset.splits["train"]
    counts = np.zeros(words, np.int64)
    for _, tokens in _blocks(train, words):
        counts += np.bincount(tokens.values, minlength=words)
    rarity = np.empty(words, np.int64)
    rarity[np.argsort(counts, kind="stable")] = np.arange(words)
    asked = _WordSets.of(_words(dataset.splits[split], 0, len(dataset.splits[split]), words).take(titles), rarity)
    index = _Index(asked, words)
    best, twin = np.zeros(len(titles)), np.zeros(len(titles), np.int64)
    for start, tokens in _blocks(train, words):
        sets = _WordSets.of(tokens, rarity)
        for one, other in index.candidates(sets):
            similarity = index.similarity(one, other, sets)
            better = similarity > np.maximum(best[one], LEAST - _ROUNDED)
            one, other, similarity = one[better], other[better], similarity[better]
            order = np.lexsort((-other, similarity))  # the last assignment counts: the most similar, the first of them
            best[one[order]], twin[one[order]] = similarity[order], start + other[order]
    return Nearest(titles=titles, twin=twin, similarity=best)


def _blocks(split: Split, words: int) -> Iterator[tuple[int, Ragged]]:
    for start in range(0, len(split), _ROWS):
        yield start, _words(split, start, min(start + _ROWS, len(split)), words)


def _words(split: Split, start: int, stop: int, words: int) -> Ragged:
    """The known words of titles, counted from 0, without n-grams."""
    ends = np.asarray(split.offsets[start : stop + 1])
    tokens = np.asarray(split.tokens[ends[0] : ends[-1]], np.int64) - len(SPECIAL)
    return Ragged(tokens, np.diff(ends)).keep_items((tokens >= 0) & (tokens < words))


@dataclass(frozen=True, slots=True, kw_only=True)
class _WordSets:
    """Each title's distinct words by their rarity, the rarest first, and a bit for each of 64 classes of words."""

    words: Ragged
    signatures: NDArray[np.uint64]

    @classmethod
    def of(cls, titles: Ragged, rarity: NDArray[np.int64]) -> _WordSets:
        rows = np.repeat(np.arange(len(titles)), titles.lengths)
        pairs = np.unique(rows * max(len(rarity), 1) + rarity[titles.values])
        rows, values = np.divmod(pairs, max(len(rarity), 1))
        lengths = np.bincount(rows, minlength=len(titles))
        bits = np.uint64(1) << (values % 64).astype(np.uint64)
        signatures = np.zeros(len(titles), np.uint64)
        some = np.flatnonzero(lengths)
        if len(some):
            signatures[some] = np.bitwise_or.reduceat(bits, offsets(lengths)[:-1][some])
        return cls(words=Ragged(values, lengths), signatures=signatures)

    @property
    def first(self) -> Ragged:
        """The first words of each: two sets of which none is common to both are not near."""
        sizes = self.words.lengths
        shared = np.ceil(LEAST * sizes - _ROUNDED).astype(np.int64)  # words that a near one has too, at least
        return self.words.keep_items(positions_in_rows(sizes) < np.repeat(sizes - shared + 1, sizes))


class _Index:
    """The titles that are asked about, by their first words."""

    def __init__(self, sets: _WordSets, words: int) -> None:
        self._sets, self._all = sets, max(words, 1)
        rows = np.repeat(np.arange(len(sets.words)), sets.words.lengths)
        self._members = rows * self._all + sets.words.values
        first = sets.first
        order = np.argsort(first.values, kind="stable")
        self._titles = np.repeat(np.arange(len(first)), first.lengths)[order]
        self._counts = np.bincount(first.values, minlength=self._all)
        self._starts = offsets(self._counts)[:-1]

    def candidates(self, others: _WordSets) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Pairs of a title of the index and one of the others that may be near, some at a time."""
        first = others.first
        rows = np.repeat(np.arange(len(first)), first.lengths)
        counts = self._counts[first.values]
        parts = np.cumsum(counts) // _PAIRS
        for part in np.unique(parts[counts > 0]):
            of_part = (parts == part) & (counts > 0)
            repeated = counts[of_part]
            start = np.repeat(self._starts[first.values[of_part]], repeated)
            one = self._titles[start + positions_in_rows(repeated)]
            other = np.repeat(rows[of_part], repeated)
            sizes = self._sets.words.lengths[one], others.words.lengths[other]
            different = np.bitwise_count(self._sets.signatures[one] ^ others.signatures[other])
            likely = np.minimum(*sizes) >= LEAST * np.maximum(*sizes) - _ROUNDED
            likely &= different <= (1 - LEAST) / (1 + LEAST) * (sizes[0] + sizes[1]) + _ROUNDED
            yield one[likely], other[likely]

    def similarity(self, one: NDArray[np.int64], other: NDArray[np.int64], others: _WordSets) -> NDArray[np.float64]:
        """The Jaccard similarity of each pair."""
        words = others.words.take(other)
        asked = np.repeat(one, words.lengths) * self._all + words.values
        at = np.minimum(np.searchsorted(self._members, asked), max(len(self._members) - 1, 0))
        both = words.sums((self._members[at] == asked).astype(np.int64)) if len(asked) else np.zeros(len(one), np.int64)
        either = self._sets.words.lengths[one] + words.lengths - both
        return both / np.maximum(either, 1)
