"""One split's files, written block by block, and what its titles are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.data.dataset import EVALUATED, FACTS, UNK, Ragged, offsets
from jobs.data.meta import Dtypes, SplitSize, Statement
from jobs.data.title_keys import Fingerprint, Keys, stable_keys


class SplitWriter:
    """Appends titles to one split's files."""

    def __init__(
        self, folder: Path, name: str, dtypes: Dtypes, classes: Sequence[str], *, own_ids: bool = False
    ) -> None:
        self.name = name
        self._dtypes = {"tokens": dtypes.tokens, "offsets": "<i8", "labels": dtypes.labels, "reliable": "|u1"}
        if name in EVALUATED:
            self._dtypes |= FACTS
        if own_ids:
            self._dtypes["words"] = "<u4"
        self._files: dict[str, BinaryIO] = {part: (folder / f"{name}.{part}.bin").open("xb") for part in self._dtypes}
        self._rows = self._tokens = self._longest = self._wordless = self._unreliable = 0
        self._supports = np.zeros(len(classes), np.int64)
        self._lengths = np.zeros(1, np.int64)  # how many titles have each number of tokens
        self._languages = np.zeros(0, np.int64)
        self._class_keys = stable_keys(pl.Series(classes, dtype=pl.String))
        self._fingerprint = Fingerprint()
        self._write("offsets", np.zeros(1, np.int64))

    def add(
        self,
        titles: Ragged,
        columns: Mapping[str, NDArray[Any]],
        languages: NDArray[np.int64],
        texts: Keys | None,
    ) -> None:
        """Add rows: their tokens, the other files' columns, and what is only counted of them."""
        ends = offsets(titles.lengths)[1:] + self._tokens
        for part, array in {"tokens": titles.values, "offsets": ends, **columns}.items():
            self._write(part, array)
        labels = columns["labels"]
        self._rows += len(titles)
        self._tokens += len(titles.values)
        self._longest = max(self._longest, int(titles.lengths.max(initial=0)))
        self._wordless += int((titles.sums(titles.values != UNK) == 0).sum())
        self._unreliable += int((columns["reliable"] == 0).sum())
        self._supports += np.bincount(labels, minlength=len(self._supports))
        self._lengths = _added(self._lengths, np.bincount(titles.lengths))
        self._languages = _added(self._languages, np.bincount(languages))
        if texts is not None:
            self._fingerprint.add(texts, self._class_keys[labels])

    def _write(self, part: str, array: NDArray[Any]) -> None:
        self._files[part].write(np.ascontiguousarray(array, self._dtypes[part]).data)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def size(self) -> SplitSize:
        return SplitSize(
            rows=self._rows, tokens=self._tokens, longest=self._longest, without_known_tokens=self._wordless
        )

    def statement(self, languages: Sequence[str]) -> Statement:
        """What the titles are; ``languages`` by number."""
        ends = np.cumsum(self._lengths)
        quartiles = np.searchsorted(ends, [1, self._rows / 4, self._rows / 2, self._rows * 3 / 4, self._rows])
        counts = self._languages.tolist()
        return Statement(
            supports=tuple(self._supports.tolist()),
            languages={name: count for name, count in zip(languages, counts, strict=False) if count},
            unreliable=self._unreliable,
            lengths=tuple(quartiles.tolist()),
            fingerprint=str(self._fingerprint) if self.name in EVALUATED else None,
        )


def _added(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of two counts by number, of any lengths."""
    total = np.zeros(max(len(one), len(other)), np.int64)
    total[: len(one)] += one
    total[: len(other)] += other
    return total
