"""Which titles of validation and test stand in training too, or have the same words in another order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.data.dataset import Overlap
from jobs.data.title_keys import WORDLESS, Keys

# What is known of a title of validation or test, as a sum: it is in training, its words are, under other labels too.
SEEN, SAME_WORDS, OTHER_LABEL, NO_SAME_LABEL = 1, 2, 4, 8


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


def seen_in(training: Iterable[Titles], asked: Titles) -> NDArray[np.uint8]:
    """What training, which comes in parts, has of each title that is asked about: a sum of the flags above, (N,).

    Training titles are many and most of them are asked about by none: only the others are kept of each part.
    """
    pairs, bags = [], []
    for part in training:
        twins = matching(part.ordered, asked.ordered)
        pairs.append(pl.DataFrame({"key": part.ordered[twins], "label": part.labels[twins]}).unique())
        bags.append(np.unique(part.bag[matching(part.bag, asked.bag)]))
    distinct = pl.concat(pairs).unique()
    by_key = distinct.group_by("key").agg(pl.len().alias("labels"))
    found = (
        pl.DataFrame({"key": asked.ordered, "label": asked.labels})
        .join(by_key, on="key", how="left", maintain_order="left")
        .join(distinct.with_columns(pl.lit(1).alias("same")), on=["key", "label"], how="left", maintain_order="left")
    )
    labels = found["labels"].fill_null(0).to_numpy().astype(np.int64)
    same = found["same"].fill_null(0).to_numpy().astype(np.int64)
    flags = SEEN * (labels > 0) + OTHER_LABEL * (labels > same) + NO_SAME_LABEL * ((labels > 0) & (same == 0))
    flags += SAME_WORDS * _is_in(asked.bag, np.concatenate(bags))
    sums: NDArray[np.uint8] = flags.astype(np.uint8)
    return sums


def matching(keys: Keys, asked: Keys) -> NDArray[np.bool_]:
    """Where keys are among those asked for; that of a title without words never is."""
    wanted = np.unique(asked)
    return _is_in(keys, wanted[wanted != WORDLESS])


def _is_in(keys: Keys, others: Keys) -> NDArray[np.bool_]:
    return pl.Series(keys).is_in(pl.Series(others, dtype=pl.UInt64).implode()).to_numpy()
