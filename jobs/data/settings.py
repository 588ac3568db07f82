"""The manifest's ``data:`` section: what decides a data set's content, and where its files are."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jobs.data import Quotes

SPLITS = ("train", "validation", "test")
LANGUAGES = ("spanish", "portuguese", "english")  # those of stop_words.toml


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(Section):
    """Names of the columns; only ``text`` (or ``tokens``) and ``label`` are required to exist in the files."""

    text: str = "title"
    label: str = "category"
    language: str = "language"
    quality: str = "label_quality"
    tokens: str | None = Field(
        None, description="a column of token lists (csv: tokens between spaces), used unchanged instead of `text`"
    )


class Split(Section):
    """Shares of one `source`, cut per category (stratified); the rest is the training part."""

    validation: float = Field(0.2, gt=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Split:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must be below 1, so that training rows are left")
        return self


class Text(Section):
    """How a title becomes words: lower case always; the defaults are the published normalisation.

    HTML tags are removed; a word is a run of letters (and of digits, when kept). A title's tokens are its words
    in order, then its word n-grams, then its words' character n-grams, cut at `max_length`: networks that read
    order see the words first. Unknown words are ``<UNK>``; unknown n-grams are left out.
    """

    accents: Literal["keep", "strip"] = "keep"
    digits: Literal["keep", "drop"] = Field("drop", description="drop: removed from inside words too")
    min_letters: int = Field(3, ge=1, le=100, description="words of fewer letters (and digits) are dropped")
    stop_words: Literal["none", "spanish", "portuguese", "english", "auto"] = Field(
        "none", description="auto: by the data's language"
    )
    word_ngrams: int = Field(1, ge=1, le=3, description="2: add pairs of neighbouring known words; 3: triples too")
    character_ngrams: tuple[int, int] | None = Field(
        None, description="[shortest, longest]: add the parts of each <word> with its boundary marks"
    )

    @model_validator(mode="after")
    def _shortest_first(self) -> Text:
        if self.character_ngrams is not None and not 1 <= self.character_ngrams[0] <= self.character_ngrams[1] <= 12:
            raise ValueError(f"character_ngrams: give [shortest, longest] within 1 and 12, not {self.character_ngrams}")
        return self


class Vocabulary(Section):
    """Built on training rows only; PAD is 0 and UNK is 1, beside `max_size` words and the n-grams of `text`."""

    min_count: int = Field(2, ge=1, description="rarer words and n-grams are left out")
    max_size: int = Field(50_000, ge=1, le=2_000_000, description="the most frequent words")
    max_ngrams: int = Field(
        100_000, ge=1, le=10_000_000, description="the most frequent word n-grams, and as many character n-grams"
    )


class Embeddings(Section):
    """Word vectors: a word2vec or GloVe file, or a random start when `file` is left out."""

    file: str | None = None
    size: int = Field(300, ge=1, le=10_000)


class Data(Section):
    """One data set: either `train`, `validation` and `test`, or one `source` with a `split`.

    Each is a file, a folder of files, a pattern (``parts/*.csv.gz``) or a list of these.
    """

    train: str | tuple[str, ...] | None = None
    validation: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    source: str | tuple[str, ...] | None = None
    split: Split | None = None
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet"] = "auto"
    header: bool = Field(True, description="csv, tsv: false when there is none; columns are then called 1, 2, ...")
    quotes: Quotes = Field(
        "checked",
        description="csv, tsv: double: a field may be in quotes, quotes in it doubled; checked: the same, but one of "
        "several lines that would each be a row is an error; none: a quote is a character",
    )
    columns: Columns = Columns()
    language: str | None = Field(None, description="keep these rows; left out: keep all")
    quality: Literal["all", "reliable"] = Field("all", description="reliable: training rows only")
    deduplicate: bool = Field(False, description="drop exact (text, label) pairs after the first")
    min_rows_per_category: int = Field(1, ge=1)
    text: Text = Text()
    vocabulary: Vocabulary = Vocabulary()
    max_length: int = Field(32, ge=1, le=65_535, description="tokens of a title that are kept")
    embeddings: Embeddings = Embeddings()

    @model_validator(mode="after")
    def _one_kind_of_source(self) -> Data:
        parts = [name for name in SPLITS if getattr(self, name) is not None]
        if self.source is not None and parts:
            raise ValueError(f"give either source with split, or {', '.join(SPLITS)}; not source and {parts[0]}")
        if self.source is None and len(parts) < len(SPLITS):
            missing = [name for name in SPLITS if name not in parts]
            raise ValueError(f"{', '.join(missing)} missing: give train, validation and test, or source with split")
        if self.source is None and self.split is not None:
            raise ValueError("split belongs to source; train, validation and test are split already")
        return self

    @model_validator(mode="after")
    def _language_of_stop_words(self) -> Data:
        if self.text.stop_words == "auto" and self.language not in LANGUAGES:
            raise ValueError(f"text.stop_words: auto needs language to be one of {', '.join(LANGUAGES)}")
        return self
