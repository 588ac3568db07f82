"""New titles in a data set's token ids: what a trained network is asked about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from jobs.data import ngrams, text, vocabulary
from jobs.data.dataset import SPECIAL, UNK, Dataset, Split
from jobs.data.ragged import Ragged, offsets


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
            words, found = text.index(
                pl.Series([word for words in lists for word in words], dtype=pl.String),
                np.array([len(words) for words in lists], np.int64),
            )
            return words.to_list(), found
        flat, lengths = text.pieces(series)
        pieces, rows = text.index(flat, lengths.astype(np.int64))
        words, found = text.words(pieces, self._settings["text"], self._settings["language"])
        return words.to_list(), rows.expand(found)

    def _parts_of(self, words: Sequence[str]) -> Ragged | None:
        sizes = self._settings["text"]["character_ngrams"]
        if sizes is None:
            return None
        rows = [
            [at for part in ngrams.parts(word, *sizes) if (at := self._parts.get(part)) is not None] for word in words
        ]
        return Ragged(
            np.array([at for row in rows for at in row], np.int64), np.array([len(row) for row in rows], np.int64)
        )
