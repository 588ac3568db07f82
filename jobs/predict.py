"""New titles classified by a trained run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from jobs.data.titles import TitleEncoder
from jobs.errors import InputError
from jobs.storage import Storage
from jobs.training.trained import SETTINGS, Trained

CHUNK_TITLES = 4096


def predict(storage_root: Path, run_folder: Path, titles: Iterable[str]) -> Iterator[tuple[str, float]]:
    """For each title in turn its most probable category and the probability (softmax) that the run gives it.

    ``run_folder`` is a train task's or a search trial's. Titles are read a few thousand at a time and normalised
    as the run's data set was. Raises ValueError for a folder without a trained model.
    """
    if not (run_folder / SETTINGS).exists():
        raise InputError(f"{run_folder}: no trained model here; name the folder of a finished train or trial task")
    trained = Trained.open(Storage(storage_root), run_folder)
    encoder = TitleEncoder(trained.dataset)
    remaining = iter(titles)
    # A person may type titles one by one: the first is answered before the second is asked for.
    size = 1
    while chunk := list(islice(remaining, size)):
        yield from _classify(trained, encoder, chunk)
        size = min(2 * size, CHUNK_TITLES)


def _classify(trained: Trained, encoder: TitleEncoder, titles: list[str]) -> Iterator[tuple[str, float]]:
    best = np.empty(len(titles), np.int64)
    probability = np.empty(len(titles), np.float64)
    for rows, logits, _ in trained.logits(encoder.encode(titles)):
        best[rows] = logits.argmax(1)
        probability[rows] = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1, dtype=np.float64)
    classes = trained.dataset.classes
    return ((classes[label], float(chance)) for label, chance in zip(best, probability, strict=True))
