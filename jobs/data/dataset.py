"""A published data set: flat arrays mapped into memory, shared by every process that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.data import DATASET_FORMAT
from jobs.data.meta import Meta
from sharedfs.documents import digest, read_json
from sharedfs.errors import DamagedFileError
from sharedfs.faults import patient
from sharedfs.typed_json import decode

Ints = NDArray[Any]
PAD, UNK = 0, 1
# A data set's files beside the arrays of its splits; META is written last.
META, CLASSES, VOCABULARY, WORD_NGRAMS, VECTORS, IN_FILE = (
    "meta.json", "classes.json", "vocabulary.json", "word_ngrams.bin", "vectors.bin", "vectors_in_file.bin"
)  # fmt: skip
LANGUAGES = "languages.json"
# Where `text.subwords` asks for them: the n-grams by id, which begins at 1, and which of them each word has.
NGRAMS, SUBWORDS, SUBWORD_LENGTHS = "subword_ngrams.json", "subwords.bin", "subword_lengths.bin"
EVALUATED = ("validation", "test")
# Of each title that is evaluated: its row and its file in the part it is from, its language, whether training has it.
FACTS = {"row": "<u4", "file": "<u4", "language": "<u4", "seen": "|u1"}
# What training has of it, as a sum: the title, its words in any order, either under other labels too, or alone.
SEEN, SAME_WORDS, OTHER_LABEL, NO_SAME_LABEL = 1, 2, 4, 8
# Files that came later and say more of the same titles and vectors: what a model takes in is all in the others.
ASIDE = (IN_FILE, LANGUAGES, *(f"{split}.{name}.bin" for split in EVALUATED for name in FACTS))
SPECIAL = ("<PAD>", "<UNK>")


# Rows of unequal length as one flat array and the rows' lengths, and what is done to them without a loop.


def offsets(lengths: Ints) -> NDArray[np.int64]:
    """Where each row begins in the flat array, and the end of the last, (N + 1,)."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def positions_in_rows(lengths: Ints) -> NDArray[np.int64]:
    """Each item's position in its own row, (items,)."""
    starts = offsets(lengths)
    return np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)


@dataclass(frozen=True, slots=True)
class Ragged:
    """``values`` flat, ``lengths`` per row."""

    values: Ints
    lengths: Ints

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Ints) -> Ragged:
        """The rows at these positions, in this order."""
        lengths = self.lengths[rows]
        starts = offsets(self.lengths)[:-1]
        return Ragged(self.values[np.repeat(starts[rows], lengths) + positions_in_rows(lengths)], lengths)

    def keep_rows(self, mask: NDArray[np.bool_]) -> Ragged:
        """The rows where the mask is true."""
        return Ragged(self.values[np.repeat(mask, self.lengths)], self.lengths[mask])

    def keep_items(self, mask: NDArray[np.bool_]) -> Ragged:
        """The items where the mask is true; rows may become empty."""
        return Ragged(self.values[mask], self.sums(mask))

    def head(self, limit: int) -> Ragged:
        """The first ``limit`` items of each row."""
        if not len(self.lengths) or int(self.lengths.max(initial=0)) <= limit:
            return self
        return Ragged(self.values[positions_in_rows(self.lengths) < limit], np.minimum(self.lengths, limit))

    def followed_by(self, other: Ragged) -> Ragged:
        """These rows, and then the other's."""
        return Ragged(np.concatenate([self.values, other.values]), np.concatenate([self.lengths, other.lengths]))

    def sums(self, items: Ints) -> NDArray[np.int64]:
        """Per row, the sum of one number per item."""
        totals = offsets(items)
        starts = offsets(self.lengths)
        return totals[starts[1:]] - totals[starts[:-1]]

    def expand(self, inner: Ragged) -> Ragged:
        """Each item replaced by the row of ``inner`` at its value."""
        rows = inner.take(self.values)
        return Ragged(rows.values, self.sums(rows.lengths))

    def fill_empty(self, value: int) -> Ragged:
        """Rows without items get this one."""
        empty = self.lengths == 0
        if not empty.any():
            return self
        values = np.insert(self.values, offsets(self.lengths)[:-1][empty], value)
        return Ragged(values, np.where(empty, 1, self.lengths))


def join(parts: Sequence[Ragged]) -> Ragged:
    """Row by row, the items of each part one after another."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.sum([part.lengths for part in parts], axis=0)
    starts = offsets(lengths)[:-1]
    values = np.empty(int(lengths.sum()), np.result_type(*(part.values for part in parts)))
    for part in parts:
        values[np.repeat(starts, part.lengths) + positions_in_rows(part.lengths)] = part.values
        starts = starts + part.lengths
    return Ragged(values, lengths)


# A published data set: flat arrays on disk, mapped into memory, shared by every run on a node.


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One part of a data set: ``tokens[offsets[i]:offsets[i + 1]]`` are title i's, at least one.

    ``tokens`` (flat, uint16 or uint32), ``offsets`` (N + 1, int64), ``labels`` (N, uint16 or int32),
    ``reliable`` (N, uint8: 1 reliable or unmarked, 0 unreliable). Arrays are read-only maps of files. Where the data
    set has sub-words, ``words`` are the tokens again (flat, uint32), in which words outside of the vocabulary have ids
    of their own from V on, and ``subwords`` has, by those ids, the ids of each word's n-grams. ``features`` (N, F)
    float32 are what a network computed of each title before its training, which is no file's.
    """

    name: str
    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    labels: NDArray[Any]
    reliable: NDArray[np.uint8]
    words: NDArray[np.uint32] | None = None
    subwords: Ragged | None = None
    features: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per title, (N,) int64, computed at each call."""
        return np.diff(self.offsets)

    def cut(self, start: int, stop: int) -> Split:
        """The titles from ``start`` to before ``stop``, or to the end."""
        offsets = self.offsets[start : stop + 1]
        inside = slice(offsets[0], offsets[-1])
        return replace(
            self,
            tokens=self.tokens[inside],
            offsets=offsets - offsets[0],
            labels=self.labels[start:stop],
            reliable=self.reliable[start:stop],
            words=None if self.words is None else self.words[inside],
        )

    def with_words(self) -> Split:
        """The split for a network with sub-word vectors: its tokens are ``words``."""
        return self if self.words is None else replace(self, tokens=self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class TitleFacts:
    """Of each title of a split, (N,): its row, from 0, and its file in the part it is from; its language, a position in
    ``names``; and what of it is in training, a sum of the flags of ``jobs.data.overlap``."""

    rows: NDArray[np.uint32]
    files: NDArray[np.uint32]
    languages: NDArray[np.uint32]
    seen: NDArray[np.uint8]
    names: tuple[str, ...]


class Dataset:
    """A data set folder, opened without reading its arrays; ``meta`` is its meta.json."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.folder = folder
        self.meta = meta

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Open a published data set; raises FileNotFoundError, or ValueError for one of another format."""
        document = read_json(folder / META)
        version = document.get("format") if isinstance(document, dict) else None
        if version != DATASET_FORMAT:
            raise DamagedFileError(
                f"{folder}: data set format {version}, this program reads {DATASET_FORMAT}: {_rebuild(folder)}"
            )
        try:
            meta = decode(Meta, document)
            _check(meta)
        except ValueError as error:
            raise DamagedFileError(f"{folder}/{META}: damaged: {error}: {_rebuild(folder)}") from error
        return cls(folder, meta)

    @cached_property
    def classes(self) -> list[str]:
        """Category names; a label is a position in this list."""
        return _names(self.folder / CLASSES)

    @cached_property
    def vocabulary(self) -> list[str]:
        """Tokens; a token's id is its position. 0 is ``<PAD>``, 1 is ``<UNK>``, then words, then n-grams.

        With an encoder they are its tokenizer's, by ids of its own.
        """
        return _names(self.folder / VOCABULARY)

    @cached_property
    def content_digest(self) -> str:
        """Of what its files hold, by their digests: made again with the same bytes it is the same."""
        return digest({name: file.sha256 for name, file in self.meta.files.items() if name not in ASIDE})

    @cached_property
    def subword_ngrams(self) -> list[str]:
        """The character n-grams of words; one's id is its position, and 1 more."""
        return _names(self.folder / NGRAMS)

    @cached_property
    def subwords(self) -> Ragged | None:
        """By token id, from V on of words outside of the vocabulary: the ids of a word's n-grams; None without any."""
        if SUBWORDS not in self.meta.files:
            return None
        values, lengths = (self.meta.files[name].bytes // 4 for name in (SUBWORDS, SUBWORD_LENGTHS))
        return Ragged(self._map(SUBWORDS, "<u4", (values,)), self._map(SUBWORD_LENGTHS, "<u4", (lengths,)))

    @property
    def vocabulary_size(self) -> int:
        """V, the number of tokens."""
        return self.meta.vocabulary.size

    @property
    def max_length(self) -> int:
        """The most tokens that a title may keep: the setting, not the longest title."""
        return self.meta.settings.max_length

    @cached_property
    def splits(self) -> dict[str, Split]:
        """The splits by name, mapped into memory; raises DamagedFileError for a file of another size."""
        return {name: self._split(name) for name in self.meta.splits}

    def facts(self, split: str) -> TitleFacts | None:
        """What is known of each title of validation or test; None where an earlier version made the data set."""
        if f"{split}.seen.bin" not in self.meta.files:
            return None
        rows = self.meta.splits[split].rows
        arrays = {name: self._map(f"{split}.{name}.bin", dtype, (rows,)) for name, dtype in FACTS.items()}
        return TitleFacts(
            rows=arrays["row"],
            files=arrays["file"],
            languages=arrays["language"],
            seen=arrays["seen"],
            names=tuple(_names(self.folder / LANGUAGES)),
        )

    def _split(self, name: str) -> Split:
        counts, dtypes = self.meta.splits[name], self.meta.dtypes
        arrays = {
            part: self._map(f"{name}.{part}.bin", dtype, (size,))
            for part, dtype, size in (
                ("tokens", dtypes.tokens, counts.tokens),
                ("offsets", "<i8", counts.rows + 1),
                ("labels", dtypes.labels, counts.rows),
                ("reliable", "|u1", counts.rows),
            )
        }
        if self.subwords is not None:
            arrays["words"] = self._map(f"{name}.words.bin", "<u4", (counts.tokens,))
        return Split(name=name, subwords=self.subwords, **arrays)

    def vectors(self) -> NDArray[np.float32]:
        """Word vectors (V, D) float32, a read-only map; row 0 (padding) is zeros. Those drawn are of seed 0.

        With an encoder D is 0: its vectors are its own.
        """
        return self._map(VECTORS, "<f4", (self.vocabulary_size, self.meta.vectors.size))

    def drawn_vectors(self) -> NDArray[np.bool_] | None:
        """Which word vectors are no file's nor made of titles, but drawn, (V,); None where an earlier version made the
        data set and did not say."""
        if IN_FILE in self.meta.files:
            return np.asarray(self._map(IN_FILE, "|u1", (self.vocabulary_size,)) == 0)
        return np.ones(self.vocabulary_size, bool) if self.meta.vectors.fingerprint is None else None

    @patient
    def _map(self, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        path = self.folder / name
        expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if path.stat().st_size != expected:
            raise DamagedFileError(
                f"{path}: {path.stat().st_size} bytes, not {expected} as in {META}: the data set is damaged; "
                f"{_rebuild(self.folder)}"
            )
        # Of nothing there is no map.
        return np.memmap(path, dtype=dtype, mode="r", shape=shape) if expected else np.zeros(shape, dtype)


def _rebuild(folder: Path) -> str:
    return f"rebuild it with `rm -r {folder} && tanda submit MANIFEST`"


def _check(meta: Meta) -> None:
    """Raise ValueError for sizes or names by which no array can be mapped."""
    counts = [count for split in meta.splits.values() for count in (split.rows, split.tokens)]
    if min(*counts, meta.vocabulary.size, meta.settings.max_length, meta.vectors.size) < 0:
        raise ValueError("a size below 0")
    if any(Path(name).name != name for name in meta.splits):
        raise ValueError("a split's name leads elsewhere")


def _names(path: Path) -> list[str]:
    names = read_json(path)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DamagedFileError(f"{path}: not a list of names: the data set is damaged; {_rebuild(path.parent)}")
    return names
