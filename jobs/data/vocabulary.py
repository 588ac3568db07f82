"""Words, word n-grams and character n-grams: which get a token id, and titles in those ids.

A title comes in as positions among distinct words, so that nothing here loops over titles in Python: what is done once
for each word or n-gram is looked up for all titles of a block at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.data.dataset import SPECIAL, UNK, Ragged, join, positions_in_rows
from jobs.data.settings import Preprocessing
from jobs.data.settings import Vocabulary as Limits

SUBWORDS_OF_A_WORD = 64  # at most, the first ones: on a GPU every token of a batch has room for the longest word's
_MERGE_AT = 20_000_000  # counted keys held before they are added up


# Word pairs and triples, as numbers: the ids of their words are the digits.


def word_ngram_keys(titles: Ragged, order: int, base: int) -> Ragged:
    """Each title's runs of ``order`` neighbouring known words, as keys in base ``base`` (the number of word ids).

    Word ids are below 2**21 (``max_size`` is at most two million), so that three fit into 64 bits.
    """
    ids = titles.values.astype(np.uint64)
    count = len(ids) - order + 1
    if count <= 0:
        return Ragged(np.zeros(0, np.uint64), np.zeros(len(titles), np.int64))
    inside = np.repeat(titles.lengths, titles.lengths) - positions_in_rows(titles.lengths) >= order
    keys = np.zeros(count, np.uint64)
    for step in range(order):
        word = ids[step : count + step]
        inside[:count] &= word != UNK
        keys = keys * np.uint64(base) + word
    return Ragged(np.pad(keys, (0, order - 1)), titles.lengths).keep_items(inside)


def split_keys(keys: NDArray[np.uint64], order: int, base: int) -> NDArray[np.int32]:
    """The word ids in each key, (N, 3), 0 where there is no third."""
    ids = np.zeros((len(keys), 3), np.int32)
    for column in reversed(range(order)):
        ids[:, column] = keys % np.uint64(base)
        keys = keys // np.uint64(base)
    return ids


class KeyCounter:
    """Adds up how often each key occurs, in memory proportional to the distinct ones."""

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []

    def add(self, keys: NDArray[np.uint64]) -> None:
        frame = pl.DataFrame({"key": keys}).group_by("key").agg(pl.len().cast(pl.Int64).alias("count"))
        self._frames.append(frame)
        if sum(map(len, self._frames)) > _MERGE_AT:
            self._frames = [self._merged()]

    def _merged(self) -> pl.DataFrame:
        return pl.concat(self._frames).group_by("key").agg(pl.col("count").sum())

    def top(self, min_count: int, limit: int) -> NDArray[np.uint64]:
        """The most frequent keys, ties by key."""
        if not self._frames:
            return np.zeros(0, np.uint64)
        frame = self._merged().filter(pl.col("count") >= min_count).sort(["count", "key"], descending=[True, False])
        return frame["key"].head(limit).to_numpy()

    def counts(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """All keys in order, and how often each occurs."""
        if not self._frames:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        frame = self._merged().sort("key")
        return frame["key"].to_numpy(), frame["count"].to_numpy()


@dataclass(frozen=True, slots=True)
class KeyIndex:
    """Keys in order and the id of each, for looking many up at once."""

    keys: NDArray[np.uint64]
    ids: NDArray[np.int64]

    def look_up(self, keys: Ragged) -> Ragged:
        """The ids of the keys that have one; the others are left out."""
        if not len(self.keys):
            return Ragged(np.zeros(0, np.int64), np.zeros(len(keys), np.int64))
        at = np.minimum(np.searchsorted(self.keys, keys.values), len(self.keys) - 1)
        return Ragged(self.ids[at], keys.lengths).keep_items(self.keys[at] == keys.values)


# Parts of words.


def character_ngrams(word: str, shortest: int, longest: int) -> list[str]:
    """The character n-grams of ``<word>`` but the whole: by where they begin, shorter first."""
    marked = f"<{word}>"
    return [
        marked[at : at + size]
        for at in range(len(marked))
        for size in range(shortest, min(longest, len(marked) - 1, len(marked) - at) + 1)
    ]


def frequent_character_ngrams(
    words: list[str], counts: NDArray[np.int64], shortest: int, longest: int, *, min_count: int, limit: int
) -> tuple[list[str], Ragged]:
    """The most frequent character n-grams of ``<word>``, and each word's as positions among them.

    ``counts`` says how often each word occurs in the training titles. Ties: shorter first, then by code points.
    The whole ``<word>`` is not one of its n-grams.

    All words lie end to end as one array of letters. An n-gram of size n is the pair of the n-gram of size n - 1 that
    begins at the same letter, and the letter that follows it; numbering the distinct pairs gives each n-gram of size n
    a number (the naming of Karp, Miller and Rosenberg, 1972, one letter longer each round). Numbers start from 0 in
    each round, so that a pair fits into 64 bits whatever the alphabet, and are in the order of code points, so that
    ties are.
    Costs ``longest`` sorts of all letters of the distinct words.
    """
    marked = [f"<{word}>" for word in words]
    text = np.frombuffer("".join(marked).encode("utf-32-le", "surrogatepass"), np.uint32)
    alphabet, letters = np.unique(text, return_inverse=True)
    lengths = np.array([len(word) for word in marked], np.int64)
    word_of_letter = np.repeat(np.arange(len(marked)), lengths)
    remaining = np.repeat(lengths, lengths) - positions_in_rows(lengths)
    keys = np.zeros(len(letters), np.int64)
    sizes: list[_NgramsOfSize] = []
    for size in range(1, longest + 1):
        fits = remaining >= size
        last = np.roll(letters, 1 - size)
        _, keys[fits] = np.unique(keys[fits] * len(alphabet) + last[fits], return_inverse=True)
        starts = np.flatnonzero(fits & (lengths[word_of_letter] > size))
        if size >= shortest and len(starts):
            totals = np.bincount(keys[starts], weights=counts[word_of_letter[starts]].astype(np.float64))
            sizes.append(_NgramsOfSize(size=size, starts=starts, keys=keys[starts].copy(), totals=totals))
    return _select_ngrams(sizes, text, word_of_letter, len(words), min_count=min_count, limit=limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _NgramsOfSize:
    """All n-grams of a size: at which letters they start, (N,), their keys, (N,), and each key's total count."""

    size: int
    starts: NDArray[np.int64]
    keys: NDArray[np.int64]
    totals: NDArray[Any]


def _select_ngrams(
    sizes: Sequence[_NgramsOfSize],
    text: NDArray[np.uint32],
    word_of_letter: NDArray[np.int64],
    words: int,
    *,
    min_count: int,
    limit: int,
) -> tuple[list[str], Ragged]:
    """The most frequent n-grams of all sizes, and which of them each word has: see ``frequent_character_ngrams``."""
    frequent = [np.flatnonzero(ngrams.totals >= min_count) for ngrams in sizes]
    if not sum(map(len, frequent)):
        return [], Ragged(np.zeros(0, np.int64), np.zeros(words, np.int64))
    # The n-grams of all sizes in one list, ranked: the last of lexsort's columns counts first.
    size_of = np.repeat(np.arange(len(sizes)), [len(keys) for keys in frequent])
    key_of = np.concatenate(frequent)
    totals = np.concatenate([ngrams.totals[keys] for ngrams, keys in zip(sizes, frequent, strict=True)])
    best = np.lexsort((key_of, size_of, -totals))[:limit]
    names: list[str] = [""] * len(best)
    starts, ids = [], []
    for number, ngrams in enumerate(sizes):
        ranks = np.flatnonzero(size_of[best] == number)
        keys = key_of[best[ranks]]
        id_of_key = np.full(len(ngrams.totals), -1, np.int64)
        id_of_key[keys] = ranks
        start_of_key = np.zeros(len(ngrams.totals), np.int64)
        start_of_key[ngrams.keys] = ngrams.starts  # any one of its occurrences
        for rank, start in zip(ranks.tolist(), start_of_key[keys].tolist(), strict=True):
            names[rank] = text[start : start + ngrams.size].tobytes().decode("utf-32-le", "surrogatepass")
        chosen = id_of_key[ngrams.keys]
        starts.append(ngrams.starts[chosen >= 0])
        ids.append(chosen[chosen >= 0])
    all_starts, all_ids = np.concatenate(starts), np.concatenate(ids)
    order = np.argsort(all_starts, kind="stable")  # by position in the word, shorter first
    return names, Ragged(all_ids[order], np.bincount(word_of_letter[all_starts], minlength=words))


# The vocabulary: what was counted on training titles, numbered, and how titles are turned into its numbers.


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """``tokens`` by id: PAD, UNK, then ``word_count`` words, the word n-grams, and the character n-grams.

    ``word_ngrams`` (N, 3) holds the ids of each one's words, 0 where a pair has no third.
    """

    tokens: Sequence[str]
    word_count: int
    word_ngrams: NDArray[np.int32]

    @property
    def first_word_ngram(self) -> int:
        """The id of the first word n-gram; those below are PAD, UNK and the words."""
        return len(SPECIAL) + self.word_count

    @property
    def first_character_ngram(self) -> int:
        """The id of the first character n-gram; those below are as above, and the word n-grams."""
        return self.first_word_ngram + len(self.word_ngrams)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subwords:
    """The token ids of distinct words, of those outside of the vocabulary too, and by token id the n-grams of each."""

    ids: NDArray[np.int64]
    table: Ragged
    ngrams: Sequence[str]

    @classmethod
    def of(
        cls, words: pl.Series, ids: NDArray[np.int64], ngrams: Ragged, known: Ragged, names: Sequence[str]
    ) -> Subwords:
        """Words that have an id, or get one behind the ``known`` rows, by code points, where they have n-grams."""
        ngrams = ngrams.head(SUBWORDS_OF_A_WORD)
        unknown = np.flatnonzero((ids == UNK) & (ngrams.lengths > 0))
        unknown = unknown[words.gather(unknown).arg_sort().to_numpy()]
        own = ids.copy()
        own[unknown] = np.arange(len(unknown)) + len(known)
        return cls(ids=own, table=known.followed_by(ngrams.take(unknown)), ngrams=names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Turns titles, given as positions among distinct words, into token ids."""

    vocabulary: Vocabulary
    ids: NDArray[np.int64]  # of each distinct word; UNK where it has none
    character_ngrams: Ragged | None  # of each distinct word: ids of its character n-grams
    word_ngrams: tuple[KeyIndex, ...]  # the word pairs, and the triples, with their ids
    max_length: int
    subwords: Subwords | None = None

    def encode(self, titles: Ragged) -> Ragged:
        """Each title's token ids, at least one and at most ``max_length``."""
        return self._encode(titles, self.ids)

    def encode_words(self, titles: Ragged) -> NDArray[np.uint32] | None:
        """The same tokens, flat, with the own ids of words outside of the vocabulary; None without sub-words."""
        return None if self.subwords is None else self._encode(titles, self.subwords.ids).values.astype(np.uint32)

    def _encode(self, titles: Ragged, ids: NDArray[np.int64]) -> Ragged:
        words = Ragged(self.ids[titles.values], titles.lengths)
        rows = [Ragged(ids[titles.values], titles.lengths)]
        for order, index in enumerate(self.word_ngrams, start=2):
            rows.append(index.look_up(word_ngram_keys(words, order, self.vocabulary.first_word_ngram)))
        if self.character_ngrams is not None:
            rows.append(titles.expand(self.character_ngrams))
        return join(rows).head(self.max_length).fill_empty(UNK)


def index_word_ngrams(vocabulary: Vocabulary, longest: int) -> tuple[KeyIndex, ...]:
    """The word n-grams by order, pairs first, as keys and ids."""
    is_triple = vocabulary.word_ngrams[:, 2] != 0
    base = np.uint64(vocabulary.first_word_ngram)
    indices = []
    for order in range(2, longest + 1):
        rows = np.flatnonzero(is_triple if order == 3 else ~is_triple)
        keys = np.zeros(len(rows), np.uint64)
        for column in range(order):
            keys = keys * base + vocabulary.word_ngrams[rows, column].astype(np.uint64)
        by_key = np.argsort(keys)
        indices.append(KeyIndex(keys[by_key], rows[by_key] + vocabulary.first_word_ngram))
    return tuple(indices)


Titles = Callable[[], Iterable[Ragged]]


def build_encoder(distinct: pl.Series, counts: NDArray[np.int64], training: Titles, settings: Preprocessing) -> Encoder:
    """Make the vocabulary of the training titles and an encoder for titles over these distinct words.

    ``counts`` says how often each distinct word occurs in training titles; ``training`` gives those titles, block
    by block, as often as it is called. Order: most frequent first, ties by the word's code points.
    """
    limits, text = settings.vocabulary, settings.text
    words = most_frequent(distinct, counts, min_count=limits.min_count, limit=limits.max_size)
    ids = np.full(len(distinct), UNK, np.int64)
    ids[words] = np.arange(len(words)) + len(SPECIAL)
    tokens = [*SPECIAL, *distinct.gather(words).to_list()]
    word_ngrams = np.zeros((0, 3), np.int32)
    if text.word_ngrams > 1:
        word_ngrams = _frequent_word_ngrams(ids, len(tokens), training, text.word_ngrams, limits)
        tokens += [" ".join(tokens[word] for word in row if word) for row in word_ngrams.tolist()]
    ngrams_of_words: Ragged | None = None
    if text.character_ngrams is not None:
        names, positions = frequent_character_ngrams(
            distinct.to_list(),
            counts,
            *text.character_ngrams,
            min_count=limits.min_count,
            limit=limits.max_ngrams,
        )
        ngrams_of_words = Ragged(positions.values + len(tokens), positions.lengths)
        tokens += names
    vocabulary = Vocabulary(tokens=tokens, word_count=len(words), word_ngrams=word_ngrams)
    return Encoder(
        vocabulary=vocabulary,
        ids=ids,
        character_ngrams=ngrams_of_words,
        word_ngrams=index_word_ngrams(vocabulary, text.word_ngrams),
        max_length=settings.max_length,
        subwords=_subwords(distinct, counts, ids, words, len(tokens), settings),
    )


def _subwords(
    distinct: pl.Series,
    counts: NDArray[np.int64],
    ids: NDArray[np.int64],
    known: NDArray[np.int64],
    size: int,
    settings: Preprocessing,
) -> Subwords | None:
    """The n-grams of the distinct words, of which those at ``known`` are in the vocabulary of ``size`` tokens."""
    if settings.text.subwords is None:
        return None
    limits = settings.vocabulary
    names, positions = frequent_character_ngrams(
        distinct.to_list(), counts, *settings.text.subwords, min_count=limits.min_count, limit=limits.max_ngrams
    )
    ngrams = Ragged(positions.values + 1, positions.lengths).head(SUBWORDS_OF_A_WORD)
    lengths = np.zeros(size, np.int64)  # neither <PAD> and <UNK> nor n-grams that are tokens have any
    lengths[len(SPECIAL) : len(SPECIAL) + len(known)] = ngrams.lengths[known]
    return Subwords.of(distinct, ids, ngrams, Ragged(ngrams.take(known).values, lengths), names)


def most_frequent(words: pl.Series, counts: NDArray[np.int64], *, min_count: int, limit: int) -> NDArray[np.int64]:
    """Positions of the words that occur often enough, most frequent first, ties by code points."""
    frame = pl.DataFrame({"word": words, "count": counts}).with_row_index("at").filter(pl.col("count") >= min_count)
    # A full sort: polars' top_k promises no order among equals, and ids must be the same on every run.
    frame = frame.sort(["count", "word"], descending=[True, False]).head(limit)
    return frame["at"].to_numpy().astype(np.int64)


def _frequent_word_ngrams(
    ids: NDArray[np.int64], base: int, training: Titles, longest: int, limits: Limits
) -> NDArray[np.int32]:
    ngrams = []
    for order in range(2, longest + 1):
        counter = KeyCounter()
        for titles in training():
            words = Ragged(ids[titles.values], titles.lengths)
            counter.add(word_ngram_keys(words, order, base).values)
        ngrams.append(split_keys(counter.top(limits.min_count, limits.max_ngrams), order, base))
    return np.concatenate(ngrams)
