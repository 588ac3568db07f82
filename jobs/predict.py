"""The category of new titles, by a trained run: in the token ids of its data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.context import allotted_cpus
from jobs.data import text
from jobs.data.dataset import SPECIAL, UNK, WORD_NGRAMS, Dataset, Ragged, Split, offsets
from jobs.data.identity import DatasetDefinition
from jobs.data.tokens import TokenEncoder
from jobs.data.vocabulary import Encoder, Subwords, Vocabulary, character_ngrams, index_word_ngrams
from jobs.storage import Storage
from jobs.training.metrics import most_probable
from jobs.training.run import SETTINGS, Trained, read_trained_recipe
from sharedfs.errors import InputError

CHUNK_TITLES = 4096


# New titles in a data set's token ids: what a trained network is asked about.


class TitleEncoder:
    """Encodes titles exactly as the data set's own were."""

    def __init__(self, dataset: Dataset) -> None:
        self._settings = dataset.meta.settings
        self._vocabulary = Vocabulary(
            tokens=dataset.vocabulary,
            word_count=dataset.meta.vocabulary.words,
            word_ngrams=np.fromfile(dataset.folder / WORD_NGRAMS, "<i4").reshape(-1, 3),
        )
        self._tokens = None
        if self._settings.embeddings.encoder is not None:
            self._tokens = TokenEncoder(dataset.folder, self._settings.max_length)
        tokens = list(enumerate(dataset.vocabulary))
        first_ngram = self._vocabulary.first_word_ngram
        self._words = {word: number for number, word in tokens[len(SPECIAL) : first_ngram]}
        self._ngram_ids = {ngram: number for number, ngram in tokens[self._vocabulary.first_character_ngram :]}
        self._subword_ids = {}
        if dataset.subwords is not None:
            self._subword_ids = {ngram: number for number, ngram in enumerate(dataset.subword_ngrams, start=1)}
            self._known_subwords = dataset.subwords.take(np.arange(dataset.vocabulary_size))
        self._word_ngrams = index_word_ngrams(self._vocabulary, self._settings.text.word_ngrams)

    def encode(self, titles: Sequence[str]) -> Split:
        """The titles as a split named ``titles``: labels are all 0.

        Where the data set took lists of tokens as they stood, a title's tokens are what stands between spaces.
        """
        if self._tokens is not None:
            plain = text.without_markup(pl.Series(titles, dtype=pl.String))
            return _split_of(self._tokens.encode(plain.to_list()))
        distinct, rows = self._distinct_words(titles)
        ids = np.array([self._words.get(word, UNK) for word in distinct], np.int64)
        encoder = Encoder(
            vocabulary=self._vocabulary,
            ids=ids,
            character_ngrams=_ngrams(distinct, self._settings.text.character_ngrams, self._ngram_ids),
            word_ngrams=self._word_ngrams,
            max_length=self._settings.max_length,
            subwords=self._subwords(distinct, ids),
        )
        return replace(
            _split_of(encoder.encode(rows)),
            words=encoder.encode_words(rows),
            subwords=None if encoder.subwords is None else encoder.subwords.table,
        )

    def _distinct_words(self, titles: Sequence[str]) -> tuple[list[str], Ragged]:
        series = pl.Series(titles, dtype=pl.String)
        if self._settings.columns.tokens is not None:
            lists = [title.split() for title in titles]
            words, rows = text.number_distinct(
                pl.Series([word for words in lists for word in words], dtype=pl.String),
                np.array([len(words) for words in lists], np.int64),
            )
            return words.to_list(), rows
        flat, lengths = text.split_titles(series)
        pieces, rows = text.number_distinct(flat, lengths.astype(np.int64))
        words, words_of_pieces = text.split_words(pieces, self._settings.text, self._settings.language)
        return words.to_list(), rows.expand(words_of_pieces)

    def _subwords(self, distinct: Sequence[str], ids: NDArray[np.int64]) -> Subwords | None:
        ngrams = _ngrams(distinct, self._settings.text.subwords, self._subword_ids)
        if ngrams is None:
            return None
        words = pl.Series(distinct, dtype=pl.String)
        return Subwords.of(words, ids, ngrams, self._known_subwords, list(self._subword_ids))


def _split_of(titles: Ragged) -> Split:
    return Split(
        name="titles",
        tokens=titles.values.astype(np.uint32),
        offsets=offsets(titles.lengths),
        labels=np.zeros(len(titles), np.uint16),
        reliable=np.ones(len(titles), np.uint8),
    )


def _ngrams(words: Sequence[str], sizes: tuple[int, int] | None, ids: Mapping[str, int]) -> Ragged | None:
    """The ids of each word's character n-grams of these sizes, of those that have one."""
    if sizes is None:
        return None
    rows = [[ids[ngram] for ngram in character_ngrams(word, *sizes) if ngram in ids] for word in words]
    return Ragged(np.array([at for row in rows for at in row], np.int64), np.array([*map(len, rows)], np.int64))


# New titles classified by a trained run.


class Choice(NamedTuple):
    """A category, and the probability (softmax) that a run gives it."""

    category: str
    probability: float


def definition_of(storage_root: Path, run_folder: Path) -> DatasetDefinition:
    """What the data set of a trained run is; raises InputError for a folder without a trained model."""
    if not (run_folder / SETTINGS).exists():
        raise InputError(f"{run_folder}: no trained model here; name the folder of a finished train or trial task")
    recipe = read_trained_recipe(run_folder)
    return Dataset.open(Storage(storage_root).dataset(recipe.dataset)).meta.settings


def predict(
    storage_root: Path, run_folder: Path, titles: Iterable[str], *, top: int = 1
) -> Iterator[tuple[Choice, ...]]:
    """For each title in turn its most probable categories, so many or all there are, the most probable first.

    ``run_folder`` is a train task's or a search trial's. Titles are read a few thousand at a time and normalised
    as the run's data set was. Raises InputError for a folder without a trained model, PluginNeededError for a model
    that is a plugin's.
    """
    definition_of(storage_root, run_folder)
    trained = Trained.open(Storage(storage_root), run_folder)
    trained.prepare(cpus=allotted_cpus())
    return _answers(trained, titles, top)


def _answers(trained: Trained, titles: Iterable[str], top: int) -> Iterator[tuple[Choice, ...]]:
    encoder = TitleEncoder(trained.dataset)
    remaining = iter(titles)
    # A person may type titles one by one: the first is answered before the second is asked for.
    size = 1
    while chunk := list(islice(remaining, size)):
        yield from _classify(trained, encoder, chunk, top)
        size = min(2 * size, CHUNK_TITLES)


def _classify(trained: Trained, encoder: TitleEncoder, titles: list[str], top: int) -> Iterator[tuple[Choice, ...]]:
    classes = trained.dataset.classes
    best = np.empty((len(titles), min(top, len(classes))), np.int64)
    probability = np.empty(best.shape, np.float64)
    for rows, logits, _ in trained.logits(encoder.encode(titles)):
        best[rows], probability[rows] = most_probable(logits, top)
    return (
        tuple(Choice(classes[label], float(chance)) for label, chance in zip(*row, strict=True))
        for row in zip(best, probability, strict=True)
    )
