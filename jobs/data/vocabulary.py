"""The vocabulary: what was counted on training titles, numbered, and how titles are turned into its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.data import ngrams
from jobs.data.dataset import SPECIAL, UNK
from jobs.data.ragged import Ragged, join

Titles = Callable[[], Iterable[Ragged]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """``tokens`` by id: PAD, UNK, then ``words`` words, word n-grams and ``parts`` character n-grams.

    ``sequences`` (word n-grams, 3) holds the ids of each one's words, 0 where a pair has no third.
    """

    tokens: Sequence[str]
    words: int
    sequences: NDArray[np.int32]
    parts: int

    @property
    def first_sequence(self) -> int:
        return len(SPECIAL) + self.words

    @property
    def first_part(self) -> int:
        return self.first_sequence + len(self.sequences)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Turns titles, given as positions among distinct words, into token ids."""

    vocabulary: Vocabulary
    ids: NDArray[np.int64]  # of each distinct word; UNK where it has none
    parts: Ragged | None  # of each distinct word: ids of its character n-grams
    sequences: tuple[ngrams.Numbers, ...]  # the word pairs, and the triples, with their ids
    max_length: int

    def encode(self, titles: Ragged) -> Ragged:
        """Each title's token ids, at least one and at most ``max_length``."""
        known = Ragged(self.ids[titles.values], titles.lengths)
        rows = [known]
        for order, numbers in enumerate(self.sequences, start=2):
            rows.append(numbers.look_up(ngrams.sequences(known, order, self.vocabulary.first_sequence)))
        if self.parts is not None:
            rows.append(titles.expand(self.parts))
        return join(rows).head(self.max_length).fill_empty(UNK)


def sequence_numbers(vocabulary: Vocabulary, longest: int) -> tuple[ngrams.Numbers, ...]:
    """The word n-grams by order, pairs first, as keys and ids."""
    triple = vocabulary.sequences[:, 2] != 0
    base = np.uint64(vocabulary.first_sequence)
    numbers = []
    for order in range(2, longest + 1):
        at = np.flatnonzero(triple if order == 3 else ~triple)
        keys = np.zeros(len(at), np.uint64)
        for place in range(order):
            keys = keys * base + vocabulary.sequences[at, place].astype(np.uint64)
        found = ngrams.Numbers.of(keys, 0)
        numbers.append(ngrams.Numbers(found.keys, at[found.ids] + vocabulary.first_sequence))
    return tuple(numbers)


def build(distinct: pl.Series, counts: NDArray[np.int64], training: Titles, settings: Mapping[str, Any]) -> Encoder:
    """Make the vocabulary of the training titles and an encoder for titles over these distinct words.

    ``counts`` says how often each distinct word stands in training titles; ``training`` gives those titles, block
    by block, as often as it is called. Order: most frequent first, ties by the word's code points.
    """
    limits, text = settings["vocabulary"], settings["text"]
    chosen = _most_frequent(distinct, counts, limits["min_count"], limits["max_size"])
    ids = np.full(len(distinct), UNK, np.int64)
    ids[chosen] = np.arange(len(chosen)) + len(SPECIAL)
    tokens = [*SPECIAL, *distinct.gather(chosen).to_list()]
    sequences = np.zeros((0, 3), np.int32)
    if text["word_ngrams"] > 1:
        sequences = _sequences(ids, len(tokens), training, text["word_ngrams"], limits)
        tokens += [" ".join(tokens[word] for word in row if word) for row in sequences.tolist()]
    parts: Ragged | None = None
    names: list[str] = []
    if text["character_ngrams"] is not None:
        names, found = ngrams.parts_of_words(
            distinct.to_list(),
            counts,
            *text["character_ngrams"],
            min_count=limits["min_count"],
            limit=limits["max_ngrams"],
        )
        parts = Ragged(found.values + len(tokens), found.lengths)
    vocabulary = Vocabulary(tokens=tokens + names, words=len(chosen), sequences=sequences, parts=len(names))
    return Encoder(
        vocabulary=vocabulary,
        ids=ids,
        parts=parts,
        sequences=sequence_numbers(vocabulary, text["word_ngrams"]),
        max_length=settings["max_length"],
    )


def _most_frequent(words: pl.Series, counts: NDArray[np.int64], min_count: int, limit: int) -> NDArray[np.int64]:
    frame = pl.DataFrame({"word": words, "count": counts}).with_row_index("at").filter(pl.col("count") >= min_count)
    frame = frame.sort(["count", "word"], descending=[True, False]).head(limit)
    return frame["at"].to_numpy().astype(np.int64)


def _sequences(
    ids: NDArray[np.int64], base: int, training: Titles, longest: int, limits: Mapping[str, Any]
) -> NDArray[np.int32]:
    found = []
    for order in range(2, longest + 1):
        counter = ngrams.Counter()
        for titles in training():
            known = Ragged(ids[titles.values], titles.lengths)
            counter.add(ngrams.sequences(known, order, base).values)
        keys = counter.top(limits["min_count"], limits["max_ngrams"])
        found.append(ngrams.split_keys(keys, order, base))
    return np.concatenate(found)
