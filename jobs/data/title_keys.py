"""Titles as 64-bit keys, to compare millions of them: equal for equal words in order, and for equal words in any order.

A title is compared after normalisation, by its words as ``data.text`` makes them: case, accents that are stripped,
digits and punctuation that are dropped do not tell two titles apart, as no model sees them. Two different titles have
the same key with a chance of about 1e-18: among 20 million none is likely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.data.dataset import Ragged, offsets

Keys = NDArray[np.uint64]
WORDLESS = np.uint64(0)  # the key of a title without any word, which is compared with no other
# Odd, so that no power of it is lost modulo 2**64; 3 modulo 4, so that its powers differ in the lower bits.
_BASE = np.uint64(0x9E3779B97F4A7C13 | 3)
_HASH_SEED = 20_19
_LARGEST_TABLE_BITS = 27


def word_keys(words: pl.Series) -> Keys:
    """A key for each of these distinct words: not the same in other versions of polars, so never stored."""
    return words.hash(seed=_HASH_SEED).to_numpy()


def stable_keys(texts: pl.Series) -> Keys:
    """A key for each text that is the same always and everywhere: a polynomial hash of its bytes."""
    data = np.frombuffer("".join(texts.to_list()).encode("utf-8", "surrogatepass"), np.uint8)
    return in_order(_OF_BYTES[data], texts.str.len_bytes().to_numpy().astype(np.int64))


class Fingerprint:
    """What a set of titles is, whatever their order and however they are normalised: by raw text and label.

    The sum of a key of each (text, label), in 128 bits, and how many they are.
    """

    def __init__(self) -> None:
        self._sums = [0, 0]
        self._count = 0

    def add(self, texts: Keys, labels: Keys) -> None:
        """Add titles by the stable keys of their text and of their label's name."""
        with np.errstate(over="ignore"):
            pairs = mixed(texts) + labels
            for at, salt in enumerate((0x243F6A8885A308D3, 0x13198A2E03707344)):  # the digits of pi
                self._sums[at] += int(mixed(pairs ^ np.uint64(salt)).sum(dtype=np.uint64))
        self._count += len(texts)

    def __str__(self) -> str:
        high, low = (total % (1 << 64) for total in self._sums)
        return f"{high:016x}{low:016x}-{self._count}"


def _sums(items: Keys, lengths: NDArray[np.int64]) -> Keys:
    """Of each row the sum of its items modulo 2**64."""
    return Ragged(items, lengths).sums(items.view(np.int64)).view(np.uint64)


def _powers(count: int) -> Keys:
    powers = np.full(count, _BASE, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceKeys:
    """Of each distinct piece of text: the keys of its words in order and in any order, and how many words it has."""

    ordered: Keys
    bag: Keys
    words: NDArray[np.int64]

    @classmethod
    def of(cls, words_of_pieces: Ragged, keys: Keys) -> PieceKeys:
        """Of pieces that are these words, with the words' keys."""
        items = keys[words_of_pieces.values]
        lengths = words_of_pieces.lengths
        return cls(ordered=in_order(items, lengths), bag=_sums(items, lengths), words=lengths)

    def of_titles(self, titles: Ragged) -> tuple[Keys, Keys]:
        """The keys of titles made of these pieces: of their words in order, and in any order.

        A title's key is the sum of its words' keys, each times the base to the power of the word's position (a
        polynomial hash, after Karp and Rabin, 1987): a piece's own sum counts times the power of the words before it.
        """
        before = offsets(self.words[titles.values])
        rows = offsets(titles.lengths)
        position = before[:-1]
        position -= np.repeat(before[rows[:-1]], titles.lengths)
        ordered = _powers(int(position.max(initial=0)) + 1)[position]
        ordered *= self.ordered[titles.values]
        return _sums(ordered, titles.lengths), _sums(self.bag[titles.values], titles.lengths)


def in_order(items: Keys, lengths: NDArray[np.int64]) -> Keys:
    """The key of each row of items in order."""
    starts = offsets(lengths)
    position = np.arange(len(items)) - np.repeat(starts[:-1], lengths)
    return _sums(items * _powers(int(position.max(initial=0)) + 1)[position], lengths)


def table_bits(count: int, *, per_key: int) -> int:
    """How many upper bits of so many keys number the places of a table of about ``per_key`` times their number."""
    return min(max((count * per_key - 1).bit_length(), 1), _LARGEST_TABLE_BITS)


def mixed(keys: Keys) -> Keys:
    """The keys with all bits mixed (SplitMix64, Steele and others, 2014): sums of them tell sets apart."""
    with np.errstate(over="ignore"):
        keys = (keys + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


_OF_BYTES = mixed(np.arange(1, 257, dtype=np.uint64))
