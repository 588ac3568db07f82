"""The manifest's ``data:`` section: what decides a data set's content, and where its files are."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SPLITS = ("train", "validation", "test")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(Section):
    """Names of the columns; only ``text`` (or ``tokens``) and ``label`` are required to exist in the files."""

    text: str = "title"
    label: str = "category"
    language: str = "language"
    quality: str = "label_quality"
    tokens: str | None = Field(None, description="a column of token lists, taken as they stand instead of `text`")


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
    """How a title becomes words: lower case always; the defaults are the published normalisation."""

    accents: Literal["keep", "strip"] = "keep"
    digits: Literal["keep", "drop"] = "drop"
    min_letters: int = Field(3, ge=1, le=100, description="shorter words are dropped")
    stop_words: Literal["none", "spanish", "portuguese", "english", "auto"] = Field(
        "none", description="auto: by the data's language"
    )
    character_ngrams: tuple[int, int] | None = Field(
        None, description="[shortest, longest]: add each word's character n-grams as tokens"
    )
    word_ngrams: int = Field(1, ge=1, le=3, description="2: add pairs of neighbouring words as tokens")


class Vocabulary(Section):
    """Built on training rows only; PAD is 0 and UNK is 1 and both are counted in `max_size` + 2."""

    min_count: int = Field(2, ge=1)
    max_size: int = Field(50_000, ge=1, le=2**31 - 3)


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
