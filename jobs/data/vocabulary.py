"""Words, word n-grams and character n-grams: which get a token id, and titles in those ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.data.dataset import SPECIAL, UNK, Ragged, join, within

_MERGE_AT = 20_000_000  # counted keys held before they are added up


# Word pairs and triples, and parts of words, counted and numbered without a Python loop over titles.


def sequences(titles: Ragged, order: int, base: int) -> Ragged:
    """Each title's runs of ``order`` neighbouring known words, as keys in base ``base`` (the number of word ids)."""
    ids = titles.values.astype(np.uint64)
    count = len(ids) - order + 1
    if count <= 0:
        return Ragged(np.zeros(0, np.uint64), np.zeros(len(titles), np.int64))
    room = np.repeat(titles.lengths, titles.lengths) - within(titles.lengths) >= order
    keys = np.zeros(count, np.uint64)
    for step in range(order):
        part = ids[step : count + step]
        room[:count] &= part != UNK
        keys = keys * np.uint64(base) + part
    return Ragged(np.pad(keys, (0, order - 1)), titles.lengths).keep_items(room)


class Counter:
    """Adds up how often each key was met, in memory proportional to the distinct ones."""

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


def split_keys(keys: NDArray[np.uint64], order: int, base: int) -> NDArray[np.int32]:
    """The word ids in each key, (N, 3), 0 where there is no third."""
    ids = np.zeros((len(keys), 3), np.int32)
    for place in reversed(range(order)):
        ids[:, place] = keys % np.uint64(base)
        keys = keys // np.uint64(base)
    return ids


@dataclass(frozen=True, slots=True)
class Numbers:
    """Keys and what they are numbered, for looking many up at once."""

    keys: NDArray[np.uint64]
    ids: NDArray[np.int64]

    @classmethod
    def of(cls, keys: NDArray[np.uint64], first: int) -> Numbers:
        order = np.argsort(keys)
        return cls(keys[order], order + first)

    def look_up(self, wanted: Ragged) -> Ragged:
        """The numbers of the keys that have one; the others are left out."""
        if not len(self.keys):
            return Ragged(np.zeros(0, np.int64), np.zeros(len(wanted), np.int64))
        at = np.minimum(np.searchsorted(self.keys, wanted.values), len(self.keys) - 1)
        return Ragged(self.ids[at], wanted.lengths).keep_items(self.keys[at] == wanted.values)


def parts(word: str, shortest: int, longest: int) -> list[str]:
    """The character n-grams of ``<word>`` but the whole: by where they begin, shorter first."""
    shown = f"<{word}>"
    return [
        shown[at : at + size]
        for at in range(len(shown))
        for size in range(shortest, min(longest, len(shown) - 1, len(shown) - at) + 1)
    ]


def parts_of_words(
    words: list[str], counts: NDArray[np.int64], shortest: int, longest: int, *, min_count: int, limit: int
) -> tuple[list[str], Ragged]:
    """The most frequent character n-grams of ``<word>``, and each word's as positions among them.

    ``counts`` says how often each word stands in the training titles. Ties: shorter first, then by code points.
    The whole ``<word>`` is not one of its parts.
    """
    shown = [f"<{word}>" for word in words]
    text = np.frombuffer("".join(shown).encode("utf-32-le", "surrogatepass"), np.uint32)
    alphabet, letters = np.unique(text, return_inverse=True)
    lengths = np.array([len(word) for word in shown], np.int64)
    owner = np.repeat(np.arange(len(shown)), lengths)
    left = np.repeat(lengths, lengths) - within(lengths)
    keys = np.zeros(len(letters), np.int64)
    found: list[tuple[Any, ...]] = []
    for size in range(1, longest + 1):
        # Numbered anew at each size, in order, so that keys stay small whatever the alphabet.
        room = left >= size
        last = np.roll(letters, 1 - size)
        _, keys[room] = np.unique(keys[room] * len(alphabet) + last[room], return_inverse=True)
        at = np.flatnonzero(room & (lengths[owner] > size))
        if size >= shortest and len(at):
            times = np.bincount(keys[at], weights=counts[owner[at]].astype(np.float64))
            found.append((size, at, keys[at].copy(), times))
    return _most_frequent_ngrams(found, text, owner, len(words), min_count=min_count, limit=limit)


def _most_frequent_ngrams(
    found: list[tuple[Any, ...]], text: NDArray[Any], owner: NDArray[Any], words: int, *, min_count: int, limit: int
) -> tuple[list[str], Ragged]:
    good = [np.flatnonzero(times >= min_count) for *_, times in found]
    if not sum(map(len, good)):
        return [], Ragged(np.zeros(0, np.int64), np.zeros(words, np.int64))
    kind = np.repeat(np.arange(len(found)), [len(keys) for keys in good])
    key = np.concatenate(good)
    times = np.concatenate([times[keys] for (*_, times), keys in zip(found, good, strict=True)])
    best = np.lexsort((key, kind, -times))[:limit]
    names: list[str] = [""] * len(best)
    starts, numbers = [], []
    for number, (size, at, keys, total) in enumerate(found):
        chosen = np.flatnonzero(kind[best] == number)
        ids = np.full(len(total), -1, np.int64)
        ids[key[best[chosen]]] = chosen
        mine = ids[keys]
        example = np.zeros(len(total), np.int64)
        example[keys] = at
        for rank, start in zip(chosen.tolist(), example[key[best[chosen]]].tolist(), strict=True):
            names[rank] = text[start : start + size].tobytes().decode("utf-32-le", "surrogatepass")
        starts.append(at[mine >= 0])
        numbers.append(mine[mine >= 0])
    where, value = np.concatenate(starts), np.concatenate(numbers)
    order = np.argsort(where, kind="stable")  # by place in the word, shorter first
    return names, Ragged(value[order], np.bincount(owner[where], minlength=words))


Titles = Callable[[], Iterable[Ragged]]


# The vocabulary: what was counted on training titles, numbered, and how titles are turned into its numbers.


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
    sequences: tuple[Numbers, ...]  # the word pairs, and the triples, with their ids
    max_length: int

    def encode(self, titles: Ragged) -> Ragged:
        """Each title's token ids, at least one and at most ``max_length``."""
        known = Ragged(self.ids[titles.values], titles.lengths)
        rows = [known]
        for order, numbers in enumerate(self.sequences, start=2):
            rows.append(numbers.look_up(sequences(known, order, self.vocabulary.first_sequence)))
        if self.parts is not None:
            rows.append(titles.expand(self.parts))
        return join(rows).head(self.max_length).fill_empty(UNK)


def sequence_numbers(vocabulary: Vocabulary, longest: int) -> tuple[Numbers, ...]:
    """The word n-grams by order, pairs first, as keys and ids."""
    triple = vocabulary.sequences[:, 2] != 0
    base = np.uint64(vocabulary.first_sequence)
    numbers = []
    for order in range(2, longest + 1):
        at = np.flatnonzero(triple if order == 3 else ~triple)
        keys = np.zeros(len(at), np.uint64)
        for place in range(order):
            keys = keys * base + vocabulary.sequences[at, place].astype(np.uint64)
        found = Numbers.of(keys, 0)
        numbers.append(Numbers(found.keys, at[found.ids] + vocabulary.first_sequence))
    return tuple(numbers)


def build(distinct: pl.Series, counts: NDArray[np.int64], training: Titles, settings: Mapping[str, Any]) -> Encoder:
    """Make the vocabulary of the training titles and an encoder for titles over these distinct words.

    ``counts`` says how often each distinct word stands in training titles; ``training`` gives those titles, block
    by block, as often as it is called. Order: most frequent first, ties by the word's code points.
    """
    limits, text = settings["vocabulary"], settings["text"]
    chosen = most_frequent(distinct, counts, min_count=limits["min_count"], limit=limits["max_size"])
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
        names, found = parts_of_words(
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


def most_frequent(words: pl.Series, counts: NDArray[np.int64], *, min_count: int, limit: int) -> NDArray[np.int64]:
    """Positions of the words that occur often enough, most frequent first, ties by code points."""
    frame = pl.DataFrame({"word": words, "count": counts}).with_row_index("at").filter(pl.col("count") >= min_count)
    frame = frame.sort(["count", "word"], descending=[True, False]).head(limit)
    return frame["at"].to_numpy().astype(np.int64)


def _sequences(
    ids: NDArray[np.int64], base: int, training: Titles, longest: int, limits: Mapping[str, Any]
) -> NDArray[np.int32]:
    found = []
    for order in range(2, longest + 1):
        counter = Counter()
        for titles in training():
            known = Ragged(ids[titles.values], titles.lengths)
            counter.add(sequences(known, order, base).values)
        keys = counter.top(limits["min_count"], limits["max_ngrams"])
        found.append(split_keys(keys, order, base))
    return np.concatenate(found)
