"""Titles in the token ids of a pretrained encoder's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jobs.data.dataset import SPECIAL, UNK, Ragged
from jobs.data.pretrained import TOKENIZER, open_tokenizer
from jobs.data.vocabulary import Encoder, Vocabulary

_AT_ONCE = 10_000  # titles: of each the tokenizer tells much more than its ids


class TokenEncoder:
    """The tokenizer in a data set's folder; ids are its own, so that 0 and 1 are whatever they are there."""

    def __init__(self, folder: Path, max_length: int) -> None:
        self._tokenizer = open_tokenizer(folder / TOKENIZER, max_length)
        self._max_length = max_length

    @property
    def encoder(self) -> Encoder:
        """Of no word: what a data set's vocabulary is, here all tokens by id."""
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        tokens = [""] * (max(ids.values()) + 1)
        for token, number in ids.items():
            tokens[number] = token
        none = np.zeros((0, 3), np.int32)
        vocabulary = Vocabulary(tokens=tokens, word_count=len(tokens) - len(SPECIAL), word_ngrams=none)
        return Encoder(
            vocabulary=vocabulary,
            ids=np.zeros(0, np.int64),
            character_ngrams=None,
            word_ngrams=(),
            max_length=self._max_length,
        )

    def encode(self, titles: Sequence[str]) -> Ragged:
        """Each title's token ids, at least one and at most ``max_length``."""
        ids: list[list[int]] = []
        for start in range(0, len(titles), _AT_ONCE):
            encoded = self._tokenizer.encode_batch_fast(titles[start : start + _AT_ONCE])
            ids += [title.ids for title in encoded]
        values = np.array([number for title in ids for number in title], np.int64)
        return Ragged(values, np.array([*map(len, ids)], np.int64)).fill_empty(UNK)
