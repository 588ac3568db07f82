"""A data set's meta.json: what came of the rows, what the titles are, what training shares with the other parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from jobs.data.identity import DatasetDefinition
from sharedfs.typed_json import Json

LOW_COVERAGE = 0.05  # of training tokens: below it a file of word vectors is worth a warning


@dataclass(frozen=True, slots=True, kw_only=True)
class Dtypes:
    """Of the arrays whose numbers depend on how many there are."""

    tokens: Literal["<u2", "<u4"]
    labels: Literal["<u2", "<i4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSize:
    """How large a split is; ``longest`` is its longest title, in tokens."""

    rows: int
    tokens: int
    longest: int
    without_known_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Where every row of a part went: ``read`` is the sum of ``kept`` (by split) and ``dropped`` (by cause)."""

    read: int
    kept: Mapping[str, int]
    dropped: Mapping[str, int]
    with_replaced_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularySize:
    """Tokens in all, and how many of them are what."""

    size: int
    words: int
    word_ngrams: int
    character_ngrams: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Word vectors, and how many tokens have one of the file or of the titles: see ``vectors.coverage``.

    ``fingerprint`` is the file's, None of vectors made of the titles; of a random start only ``size`` is known.
    """

    size: int
    fingerprint: str | None
    types_found: int | None = None
    types_share: float | None = None
    tokens_share: float | None = None

    @property
    def low(self) -> bool:
        """Whether so few of the training titles' words have a vector of the file that it hardly matters which it is."""
        return self.tokens_share is not None and self.tokens_share < LOW_COVERAGE

    @property
    def text(self) -> str | None:
        """How many words have a vector that is not random, in words; None of a random start."""
        if self.types_share is None or self.tokens_share is None:
            return None
        found = f"{self.types_share:.1%} of the words and {self.tokens_share:.1%} of the training titles' tokens"
        return f"{found} have a vector {'in the file' if self.fingerprint else 'made of the titles'}"

    @property
    def document(self) -> dict[str, Json]:
        """As it is stored."""
        if self.fingerprint is None and self.types_found is None:
            return {"size": self.size, "fingerprint": None}
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How many of a split's titles are also in training, compared by their words after normalisation.

    ``exact``: the same words in order; ``same_words``: in any order (the exact ones, too). Of the exact ones
    ``other_label`` have a twin in training under another label, and ``no_same_label`` have only such twins.
    """

    titles: int
    exact: int
    same_words: int
    other_label: int
    no_same_label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One of a data set's files."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What the titles of a split are: ``supports`` by category, ``languages`` with how many titles each ("" is none).

    ``unreliable`` labels; ``lengths`` in tokens at the quartiles; ``fingerprint`` is the same for the same raw texts
    and labels, in whatever order and however they are normalised.
    """

    supports: tuple[int, ...]
    languages: Mapping[str, int]
    unreliable: int
    lengths: tuple[int, ...]
    fingerprint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What came of the rows: sizes of the splits, accounts of the parts, the number of categories, tokens.

    ``alike`` are categories whose names differ in case, accents, spaces or punctuation alone; data sets of earlier
    versions do not say.
    """

    dtypes: Dtypes
    splits: Mapping[str, SplitSize]
    parts: Mapping[str, Account]
    classes: int
    vocabulary: VocabularySize
    alike: tuple[tuple[str, ...], ...] = ()
    overlap: Mapping[str, Overlap] = field(default_factory=dict)
    statement: Mapping[str, Statement] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta(Contents):
    """A data set's meta.json; ``files`` are all the others, by name."""

    format: int
    settings: DatasetDefinition
    vectors: Coverage
    files: Mapping[str, StoredFile]
