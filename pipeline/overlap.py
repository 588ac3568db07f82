"""`tanda overlap`: what training shares with validation and test in each of a manifest's data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from jobs.data.dataset import SAME_WORDS, SEEN, SPECIAL, Dataset, Split
from jobs.data.meta import Overlap
from jobs.data.near import LEAST, nearest_in_training
from jobs.storage import Storage
from pipeline.errors import places_of, print_table
from pipeline.plan import Plan
from sharedfs.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class NearTitle:
    """A test title and the training title that is most similar to it, by the words that a model sees of them."""

    similarity: float
    title: str
    label: str
    place: str | None
    twin: str
    twin_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NearTitles:
    """Of ``titles`` test titles that training does not have, ``near`` have a near one there; the nearest of them."""

    titles: int
    near: int
    other_label: int
    nearest: tuple[NearTitle, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOverlap:
    """A data set's counts by split; ``near`` where it was asked for."""

    data_set: str
    id: str
    overlap: Mapping[str, Overlap]
    near: NearTitles | None


def find_overlap(plan: Plan, *, near: bool = False, count: int = 20) -> tuple[DatasetOverlap, ...]:
    """The overlap of each data set of a plan that is made; raises InputError where none is."""
    found = tuple(_each(plan, near=near, count=count))
    if not found:
        raise InputError(f"{plan.manifest.path}: no data set is made yet: `tanda submit` makes them")
    return found


def _each(plan: Plan, *, near: bool, count: int) -> Iterator[DatasetOverlap]:
    storage = Storage(plan.manifest.storage)
    for planned in plan.tasks:
        if planned.stage != "preprocess" or not storage.dataset(planned.id).exists():
            continue
        dataset = Dataset.open(storage.dataset(planned.id))
        yield DatasetOverlap(
            data_set=planned.run,
            id=planned.id,
            overlap=dataset.meta.overlap,
            near=_near(storage, dataset, count) if near else None,
        )


def _near(storage: Storage, dataset: Dataset, count: int) -> NearTitles:
    test, train = dataset.splits["test"], dataset.splits["train"]
    facts = dataset.facts("test")
    known = np.zeros(len(test), bool) if facts is None else (facts.seen & (SEEN | SAME_WORDS)) > 0
    found = nearest_in_training(dataset, "test", np.flatnonzero(~known))
    near = np.flatnonzero(found.similarity)
    near = near[np.argsort(-found.similarity[near], kind="stable")]
    titles, twins = found.titles[near], found.twin[near]
    places = {} if facts is None else places_of(storage, dataset, "test", facts, titles[:count])
    classes = dataset.classes
    return NearTitles(
        titles=len(found.titles),
        near=len(near),
        other_label=int(np.count_nonzero(test.labels[titles] != train.labels[twins])),
        nearest=tuple(
            NearTitle(
                similarity=float(similarity),
                title=_text(dataset, test, at),
                label=classes[test.labels[at]],
                place=f"{places[at][0]}: row {places[at][1] + 1}" if at in places else None,
                twin=_text(dataset, train, twin),
                twin_label=classes[train.labels[twin]],
            )
            for at, twin, similarity in zip(
                titles[:count].tolist(), twins[:count].tolist(), found.similarity[near][:count], strict=True
            )
        ),
    )


def _text(dataset: Dataset, split: Split, at: int) -> str:
    """A title's words, as a model sees them: one that it does not know is <UNK>, and n-grams are no words."""
    tokens = split.tokens[split.offsets[at] : split.offsets[at + 1]]
    end = len(SPECIAL) + dataset.meta.vocabulary.words
    return " ".join(dataset.vocabulary[token] for token in tokens if token < end)


def print_overlap(found: tuple[DatasetOverlap, ...], console: Console) -> None:
    """The counts, and the nearest titles, for people."""
    print_table(
        console,
        ("data set", "part", "titles", "in training", "same words", "under another label", "under others only"),
        (
            (
                each.data_set,
                split,
                str(counts.titles),
                *(
                    f"{number} ({number / max(counts.titles, 1):.1%})" if number else "0"
                    for number in (counts.exact, counts.same_words, counts.other_label, counts.no_same_label)
                ),
            )
            for each in found
            for split, counts in each.overlap.items()
        ),
    )
    for each in found:
        if not each.overlap:
            console.print(f"{each.data_set}: an earlier version made it, which did not count", markup=False)
        if each.near is not None:
            _print_near(each.data_set, each.near, console)


def _print_near(data_set: str, near: NearTitles, console: Console) -> None:
    console.print(
        f"{data_set}: {near.near:,} of the {near.titles:,} test titles that training does not have are near one of its "
        f"titles (of the words in either, {LEAST:.0%} or more are in both), {near.other_label:,} under another label",
        markup=False,
    )
    print_table(
        console,
        ("similarity", "test title", "category", "training title", "category there", "place"),
        (
            (f"{one.similarity:.3f}", one.title, one.label, one.twin, one.twin_label, one.place or "-")
            for one in near.nearest
        ),
    )
