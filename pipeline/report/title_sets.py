"""Which test titles a run was judged on: only runs that were judged on the same ones are compared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.report import intervals

if TYPE_CHECKING:
    from pipeline.report.collect import Collected, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class TitleSet:
    """The test titles of a data set; ``key`` is equal for equal titles with equal labels, and for no others.

    Of all ``known`` categories the titles have ``categories``, ``rare`` of them with fewer than five titles.
    """

    key: str
    titles: int
    categories: int
    known: int
    rare: int
    too_few: bool


def title_set(collected: Collected, result: Result) -> TitleSet | None:
    """The test titles of a result's data set; None as long as no run on it is evaluated."""
    dataset = result.row.dataset
    if dataset not in collected.title_sets:
        made = _read(collected, result)
        if made is None:
            return None
        collected.title_sets[dataset] = made
    return collected.title_sets[dataset]


def make_title_set(key: str, support: np.ndarray) -> TitleSet:
    """What the counts of titles by category (C,) say."""
    return TitleSet(
        key=key,
        titles=int(support.sum()),
        categories=int(np.count_nonzero(support)),
        known=len(support),
        rare=int(np.count_nonzero((support > 0) & (support < intervals.RARE))),
        too_few=intervals.too_few(support),
    )


def labels_key(classes: tuple[str, ...], label: np.ndarray) -> str:
    """A digest of every title's category, in their order: other titles, or the same ones drawn otherwise, differ."""
    digest = hashlib.sha256("\0".join(classes).encode())
    digest.update(label.astype("<u4").tobytes())
    return digest.hexdigest()[:16]


def _read(collected: Collected, result: Result) -> TitleSet | None:
    split = collected.evaluation(result).get("test")
    if split is None:
        return None
    predictions = collected.predictions(result, "test")
    # Without the titles' labels a data set is like itself alone.
    key = result.row.dataset
    if predictions is not None:
        # The fingerprint knows the texts and not their order; runs are compared title by title.
        key = f"{result.fingerprint or ''}{labels_key(collected.classes(result), predictions.label)}"
    return make_title_set(key, split.support)
