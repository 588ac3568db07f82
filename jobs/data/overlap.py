"""Which titles of validation and test stand in training too, or have the same words in another order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.data.dataset import NO_SAME_LABEL, OTHER_LABEL, SAME_WORDS, SEEN
from jobs.data.meta import Overlap
from jobs.data.progress import in_order
from jobs.data.title_keys import WORDLESS, Keys, table_bits


def count(seen: NDArray[np.uint8]) -> Overlap:
    """The counts of what is known of a part's titles."""
    known = {flag: int(np.count_nonzero(seen & flag)) for flag in (SEEN, SAME_WORDS, OTHER_LABEL, NO_SAME_LABEL)}
    return Overlap(
        titles=len(seen),
        exact=known[SEEN],
        same_words=known[SAME_WORDS],
        other_label=known[OTHER_LABEL],
        no_same_label=known[NO_SAME_LABEL],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Titles:
    """Titles by their keys and labels, (N,) each."""

    ordered: Keys
    bag: Keys
    labels: NDArray[np.int32]


def join(titles: Iterable[Titles]) -> Titles:
    """Titles one after another."""
    parts = list(titles)
    return Titles(
        ordered=np.concatenate([part.ordered for part in parts]),
        bag=np.concatenate([part.bag for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )


def seen_in(training: Iterable[Callable[[], Titles]], asked: Titles, *, threads: int) -> NDArray[np.uint8]:
    """What training, which comes in parts, has of each title that is asked about: a sum of the flags above, (N,).

    Training titles are many and most of them are asked about by none: only the others are kept of each part.
    """
    ordered, bag = Wanted(asked.ordered), Wanted(asked.bag)

    def twins(titles: Callable[[], Titles]) -> tuple[pl.DataFrame, Keys]:
        part = titles()
        rows = ordered.among(part.ordered)
        pairs = pl.DataFrame({"key": part.ordered[rows], "label": part.labels[rows]}).unique()
        return pairs, part.bag[bag.among(part.bag)]

    pairs, bags = zip(*in_order((partial(twins, part) for part in training), threads), strict=True)
    distinct = pl.concat(pairs).unique()
    flags = np.zeros(len(asked.labels), np.uint8)
    flags[matching(asked.bag, np.concatenate(bags))] |= SAME_WORDS
    at = np.flatnonzero(matching(asked.ordered, distinct["key"].to_numpy()))
    found = (
        pl.DataFrame({"key": asked.ordered[at], "label": asked.labels[at]})
        .join(distinct.group_by("key").agg(pl.len().alias("labels")), on="key", how="left", maintain_order="left")
        .join(distinct.with_columns(pl.lit(1).alias("same")), on=["key", "label"], how="left", maintain_order="left")
    )
    labels, same = found["labels"].to_numpy(), found["same"].fill_null(0).to_numpy()
    flags[at] |= SEEN
    flags[at[labels > same]] |= OTHER_LABEL
    flags[at[same == 0]] |= NO_SAME_LABEL
    return flags


def matching(keys: Keys, asked: Keys) -> NDArray[np.bool_]:
    """Where keys are among those asked for; that of a title without words never is."""
    return Wanted(asked).among(keys)


class Wanted:
    """Keys that are looked for among many.

    Most of the many are none of them: a table of the upper bits of those wanted leaves out nearly all, and a search
    through the sorted keys decides on the rest (a Bloom filter of one hash, 1970: the keys are hashes already).
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = np.sort(keys[keys != WORDLESS])  # and not np.unique, which takes ten times as long
        bits = table_bits(len(self._keys), per_key=16)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, bool)
        self._table[self._keys >> self._shift] = True

    def among(self, keys: Keys) -> NDArray[np.bool_]:
        """Where keys are one of these."""
        found = np.zeros(len(keys), bool)
        if len(self._keys):
            likely = np.flatnonzero(self._table[keys >> self._shift])
            at = np.minimum(np.searchsorted(self._keys, keys[likely]), len(self._keys) - 1)
            found[likely] = self._keys[at] == keys[likely]
        return found
