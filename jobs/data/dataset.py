"""A published data set: flat arrays mapped into memory, shared by every process that reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.data import DATASET_FORMAT
from sharedfs.documents import read_json
from sharedfs.errors import DamagedFileError

Ints = NDArray[Any]
PAD, UNK = 0, 1
WHOLE_NUMBERS = ("<u2", "<u4", "<i4")
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
    ``reliable`` (N, uint8: 1 reliable or unmarked, 0 unreliable). Arrays are read-only maps of files.
    """

    name: str
    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    labels: NDArray[Any]
    reliable: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per title, (N,) int64, computed at each call."""
        return np.diff(self.offsets)


class Dataset:
    """A data set folder, opened without reading its arrays; ``meta`` is its meta.json."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.folder = folder
        self.meta = meta

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Open a published data set; raises FileNotFoundError, or ValueError for one of another format."""
        meta = read_json(folder / "meta.json")
        version = meta.get("format") if isinstance(meta, dict) else None
        if version != DATASET_FORMAT:
            raise DamagedFileError(
                f"{folder}: data set format {version}, this program reads {DATASET_FORMAT}: rebuild it with "
                f"`rm -r {folder} && tanda submit MANIFEST`"
            )
        try:
            _check(meta)
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedFileError(
                f"{folder}/meta.json: damaged: rebuild the data set with `rm -r {folder} && tanda submit MANIFEST`"
            ) from error
        return cls(folder, meta)

    @cached_property
    def classes(self) -> list[str]:
        """Category names; a label is a position in this list."""
        return _names(self.folder / "classes.json")

    @cached_property
    def vocabulary(self) -> list[str]:
        """Tokens; a token's id is its position. 0 is ``<PAD>``, 1 is ``<UNK>``, then words, then n-grams."""
        return _names(self.folder / "vocabulary.json")

    @property
    def vocabulary_size(self) -> int:
        return int(self.meta["vocabulary"]["size"])

    @property
    def max_length(self) -> int:
        """The most tokens that a title may keep: the setting, not the longest title."""
        return int(self.meta["settings"]["max_length"])

    @cached_property
    def splits(self) -> dict[str, Split]:
        return {name: self._split(name) for name in self.meta["splits"]}

    def _split(self, name: str) -> Split:
        counts = self.meta["splits"][name]
        arrays = {
            part: self._map(f"{name}.{part}.bin", dtype, (size,))
            for part, dtype, size in (
                ("tokens", self.meta["dtypes"]["tokens"], counts["tokens"]),
                ("offsets", "<i8", counts["rows"] + 1),
                ("labels", self.meta["dtypes"]["labels"], counts["rows"]),
                ("reliable", "|u1", counts["rows"]),
            )
        }
        return Split(name=name, **arrays)

    def vectors(self) -> NDArray[np.float32]:
        """Word vectors (V, D) float32, a read-only map; row 0 (padding) is zeros."""
        size = int(self.meta["vectors"]["size"])
        return self._map("vectors.bin", "<f4", (self.vocabulary_size, size))

    def _map(self, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        path = self.folder / name
        expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if path.stat().st_size != expected:
            raise DamagedFileError(
                f"{path}: {path.stat().st_size} bytes where meta.json says {expected}: the data set is damaged; "
                f"rebuild it with `rm -r {self.folder} && tanda submit MANIFEST`"
            )
        return np.memmap(path, dtype=dtype, mode="r", shape=shape)


def _check(meta: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError unless everything is there that arrays are mapped by."""
    counts = [count for split in meta["splits"].values() for count in (split["rows"], split["tokens"])]
    sizes = (meta["vocabulary"]["size"], meta["settings"]["max_length"], meta["vectors"]["size"])
    if not all(isinstance(number, int) and number >= 0 for number in (*counts, *sizes)):
        raise TypeError("a number is missing")
    if any(Path(name).name != name for name in meta["splits"]):
        raise TypeError("a split's name leads elsewhere")
    for part in ("tokens", "labels"):
        if meta["dtypes"][part] not in WHOLE_NUMBERS:
            raise TypeError("no dtype of whole numbers")


def _names(path: Path) -> list[str]:
    names = read_json(path)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DamagedFileError(f"{path}: not a list of names: the data set is damaged")
    return names
