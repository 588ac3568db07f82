"""The category of new titles, by a trained run: in the token ids of its data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from jobs.data import text, vocabulary
from jobs.data.dataset import SPECIAL, UNK, Dataset, Ragged, Split, offsets
from jobs.errors import InputError
from jobs.storage import Storage
from jobs.training.run import SETTINGS, Trained

CHUNK_TITLES = 4096


# New titles in a data set's token ids: what a trained network is asked about.


class TitleEncoder:
    """Encodes titles exactly as the data set's own were."""

    def __init__(self, dataset: Dataset) -> None:
        sizes = dataset.meta["vocabulary"]
        self._settings = dataset.meta["settings"]
        sequences = np.fromfile(dataset.folder / "word_ngrams.bin", "<i4").reshape(-1, 3)
        self._vocabulary = vocabulary.Vocabulary(
            tokens=dataset.vocabulary, words=sizes["words"], sequences=sequences, parts=sizes["character_ngrams"]
        )
        known = self._vocabulary
        self._words = {word: at for at, word in enumerate(known.tokens[: known.first_sequence]) if at >= len(SPECIAL)}
        self._parts = {part: at for at, part in enumerate(known.tokens[known.first_part :], start=known.first_part)}
        self._numbers = vocabulary.sequence_numbers(known, self._settings["text"]["word_ngrams"])

    def encode(self, titles: Sequence[str]) -> Split:
        """The titles as a split named ``titles``: labels are all 0.

        Where the data set took lists of tokens as they stood, a title's tokens are what stands between spaces.
        """
        distinct, found = self._distinct(titles)
        encoder = vocabulary.Encoder(
            vocabulary=self._vocabulary,
            ids=np.array([self._words.get(word, UNK) for word in distinct], np.int64),
            parts=self._parts_of(distinct),
            sequences=self._numbers,
            max_length=self._settings["max_length"],
        )
        encoded = encoder.encode(found)
        return Split(
            name="titles",
            tokens=encoded.values.astype(np.uint32),
            offsets=offsets(encoded.lengths),
            labels=np.zeros(len(titles), np.uint16),
            reliable=np.ones(len(titles), np.uint8),
        )

    def _distinct(self, titles: Sequence[str]) -> tuple[list[str], Ragged]:
        series = pl.Series(titles, dtype=pl.String)
        if self._settings["columns"]["tokens"] is not None:
            lists = [title.split() for title in titles]
            words, found = text.number_distinct(
                pl.Series([word for words in lists for word in words], dtype=pl.String),
                np.array([len(words) for words in lists], np.int64),
            )
            return words.to_list(), found
        flat, lengths = text.split_titles(series)
        pieces, rows = text.number_distinct(flat, lengths.astype(np.int64))
        words, found = text.split_words(pieces, self._settings["text"], self._settings["language"])
        return words.to_list(), rows.expand(found)

    def _parts_of(self, words: Sequence[str]) -> Ragged | None:
        sizes = self._settings["text"]["character_ngrams"]
        if sizes is None:
            return None
        rows = [
            [at for part in vocabulary.parts(word, *sizes) if (at := self._parts.get(part)) is not None]
            for word in words
        ]
        return Ragged(
            np.array([at for row in rows for at in row], np.int64), np.array([len(row) for row in rows], np.int64)
        )


# New titles classified by a trained run.


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
