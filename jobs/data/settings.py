"""The manifest's ``data:`` section: what decides a data set's content, and where its files are."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt

from jobs.data import Format, Language, Quotes
from jobs.data.encodings import check_encoding
from jobs.settings import ORIGINAL, PLUMBING, Baseline, Doc, settings

SPLITS = ("train", "validation", "test")
LANGUAGES: tuple[Language, ...] = get_args(Language)
Paths = str | tuple[str, ...] | None
Share = Annotated[float, Gt(0), Lt(1)]
ALL: Final = "all"  # of train_rows
BEYOND = "beyond train_rows"  # why the other training rows were dropped


@settings
class Columns:
    """Names of the columns; only ``text`` (or ``tokens``) and ``label`` are required to exist in the files."""

    text: Annotated[str, ORIGINAL, Doc("the titles")] = "title"
    label: Annotated[str, ORIGINAL, Doc("their categories")] = "category"
    language: Annotated[str, ORIGINAL, Doc("their languages, for `data.language`")] = "language"
    quality: Annotated[str, ORIGINAL, Doc("`unreliable` where a label is, for `data.quality`")] = "label_quality"
    tokens: Annotated[
        str | None,
        ORIGINAL,
        Doc("a column of token lists (csv: tokens between spaces), used unchanged instead of `text`"),
    ] = None


TITLE, RANDOM = "title", "random"  # of split.by, where it names no column


@settings
class Split:
    """Shares of one `source`, cut per category (stratified); the rest is the training part.

    Rows of equal titles, compared after normalisation, go to the same part.
    """

    validation: Annotated[Share, ORIGINAL, Doc("of each category's rows")] = 0.2
    test: Annotated[Share, ORIGINAL, Doc("of each category's rows")] = 0.1
    seed: Annotated[int, Ge(0), ORIGINAL, Doc("of the order in which rows are given out")] = 0

    by: Annotated[
        str,
        Baseline(RANDOM),
        Doc("title: rows of equal titles stay together; random: none do; or a column, of which equal values do"),
    ] = TITLE
    time: Annotated[
        str | None,
        Baseline(None),
        Doc("a column of numbers or ISO dates: the latest rows are test, those before validation"),
    ] = None
    folds: Annotated[
        Annotated[int, Ge(3), Le(1000)] | None,
        Baseline(None),
        Doc("so many parts instead of shares: one is test, the next validation"),
    ] = None
    fold: Annotated[int, Ge(0), Baseline(0), Doc("with `folds`: which is test, from 0; an axis to run them all")] = 0

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must be below 1, so that training rows are left")
        if self.time is not None and (self.folds is not None or self.by not in (TITLE, RANDOM)):
            raise ValueError("time belongs alone: the order in time decides, not by or folds")
        if self.fold >= (self.folds or 1):
            raise ValueError("fold must be below folds: they are counted from 0")

    @property
    def column(self) -> str | None:
        """The column of which equal values stay together; None where it is the title, or nothing."""
        return None if self.time is not None or self.by in (TITLE, RANDOM) else self.by


@settings
class Text:
    """How a title becomes words: lower case always; the defaults are the published normalisation.

    HTML tags are removed; a word is a run of letters (and of digits, when kept). A title's tokens are its words
    in order, then its word n-grams, then its words' character n-grams, cut at `max_length`: networks that read
    order see the words first. Unknown words are ``<UNK>``; unknown n-grams are left out.
    """

    accents: Annotated[Literal["keep", "strip"], ORIGINAL, Doc("strip: á is a, ñ is n")] = "keep"
    digits: Annotated[
        Literal["keep", "drop", "zero"],
        ORIGINAL,
        Doc("drop: removed from inside words too; zero: each becomes 0, so that 250ml and 500ml are one word"),
    ] = "drop"
    min_letters: Annotated[int, Ge(1), Le(100), ORIGINAL, Doc("words of fewer letters (and digits) are dropped")] = 3
    stop_words: Annotated[Literal["none", Language, "auto"], ORIGINAL, Doc("auto: by the data's language")] = "none"
    word_ngrams: Annotated[
        int, Ge(1), Le(3), ORIGINAL, Doc("2: add pairs of neighbouring known words; 3: triples too")
    ] = 1
    character_ngrams: Annotated[
        tuple[int, int] | None,
        ORIGINAL,
        Doc("[shortest, longest]: add the parts of each <word> with its boundary marks"),
    ] = None

    subwords: Annotated[
        tuple[int, int] | None,
        Baseline(None),
        Doc("[shortest, longest]: keep the parts of each <word>, unknown ones too, for networks with `subwords`"),
    ] = None

    def __post_init__(self) -> None:
        for name in ("character_ngrams", "subwords"):
            sizes = getattr(self, name)
            if sizes is not None and not 1 <= sizes[0] <= sizes[1] <= 12:
                raise ValueError(f"{name}: give [shortest, longest] within 1 and 12, not {sizes}")


@settings
class Vocabulary:
    """Built on training rows only; PAD is 0 and UNK is 1, beside `max_size` words and the n-grams of `text`."""

    min_count: Annotated[int, Ge(1), ORIGINAL, Doc("rarer words and n-grams are left out")] = 2
    max_size: Annotated[int, Ge(1), Le(2_000_000), ORIGINAL, Doc("the most frequent words")] = 50_000
    max_ngrams: Annotated[
        int,
        Ge(1),
        Le(10_000_000),
        ORIGINAL,
        Doc("the most frequent word n-grams, as many character n-grams, and as many sub-words"),
    ] = 100_000


UNLABELLED = "unlabelled"  # the part of a data set whose titles have no labels


@settings
class TrainedVectors:
    """Word vectors made of the training titles: which words stand near each other, more often than by chance.

    Positive pointwise mutual information and a truncated singular value decomposition. Titles of validation and test
    are left out, of `unlabelled` files too. `train: {}` takes the defaults.
    """

    unlabelled: Annotated[
        Paths, PLUMBING, Doc("files of further titles, read as the others are; they need no categories")
    ] = None
    window: Annotated[int, Ge(1), Le(100), ORIGINAL, Doc("so many words before and after a word are near it")] = 5
    smoothing: Annotated[
        float,
        Gt(0),
        Le(1),
        ORIGINAL,
        Doc("exponent of how often a near word occurs: below 1, rare ones count for less"),
    ] = 0.75
    weighting: Annotated[
        float, Ge(0), Le(1), ORIGINAL, Doc("exponent of the singular values: 0, each dimension counts as much as any")
    ] = 0.5


@settings
class Embeddings:
    """Word vectors: a word2vec or GloVe file, or made of the titles by `train`, or a random start without either."""

    file: Annotated[str | None, PLUMBING, Doc("text or binary, plain, .gz or .zst")] = None
    size: Annotated[int, Ge(1), Le(10_000), ORIGINAL, Doc("numbers of a vector")] = 300
    train: Annotated[TrainedVectors | None, Baseline(None), Doc("make them of the training titles")] = None

    def __post_init__(self) -> None:
        if self.file is not None and self.train is not None:
            raise ValueError("give either file or train: word vectors are read or made, not both")


@settings
class Sources:
    """Where the rows are."""

    train: Annotated[Paths, PLUMBING, Doc("the rows to learn from")] = None
    validation: Annotated[Paths, PLUMBING, Doc("the rows that choose between epochs and between trials")] = None
    test: Annotated[Paths, PLUMBING, Doc("the rows that are evaluated at the end")] = None
    source: Annotated[Paths, PLUMBING, Doc("all rows, to be cut by `split`")] = None
    same_file: Annotated[bool, PLUMBING, Doc("true: two parts may be one file; false: that is an error")] = False
    format: Annotated[Literal["auto", Format], PLUMBING, Doc("auto: by each file's name, else its content")] = "auto"


@settings
class Preprocessing:
    """What is made of the rows, wherever they are."""

    split: Annotated[Split | None, ORIGINAL, Doc("with `source`: the shares of validation and test")] = None
    header: Annotated[bool, ORIGINAL, Doc("csv, tsv: false when there is none; columns are then called 1, 2, ...")] = (
        True
    )
    quotes: Annotated[
        Quotes,
        Baseline("checked"),
        Doc(
            "csv, tsv: double: a field may be in quotes, quotes in it doubled; checked: the same, but one of several "
            "lines that would each be a row is an error; none: a quote is a character"
        ),
    ] = "checked"
    # Both have had no other value: what is read with them gives what it gave, and where bytes were replaced in silence
    # nothing is made now.
    encoding: Annotated[
        str,
        Baseline("auto"),
        Doc("csv, tsv, jsonl: any of Python's; auto: UTF-8, or UTF-16 or UTF-32 where the file begins with its mark"),
    ] = "auto"
    replace_bytes: Annotated[
        bool, Baseline(False), Doc("true: what is not in the encoding becomes U+FFFD; false: it is an error")
    ] = False
    bad_lines: Annotated[
        float,
        Ge(0),
        Lt(1),
        Baseline(1e-4),  # what was made before had none
        Doc("jsonl: the share of lines that may be no JSON object: dropped and counted; more are an error"),
    ] = 1e-4
    columns: Annotated[Columns, ORIGINAL, Doc("their names in the files")] = Columns()
    language: Annotated[str | None, ORIGINAL, Doc("keep these rows; left out: keep all")] = None
    quality: Annotated[Literal["all", "reliable"], ORIGINAL, Doc("reliable: training rows only")] = "all"
    deduplicate: Annotated[
        bool, ORIGINAL, Doc("drop rows whose title, after normalisation, and label an earlier one has")
    ] = False
    overlap: Annotated[
        Literal["keep", "drop", "error"],
        Baseline("keep"),
        Doc(
            "titles of validation or test that are in training too, compared after normalisation: counted in any case; "
            "drop: from training; error: none is made"
        ),
    ] = "keep"
    train_rows: Annotated[
        Annotated[int, Ge(1)] | Literal["all"],
        Baseline(ALL),
        Doc("as many training rows, the smaller sample within the larger; validation and test stay; an axis"),
    ] = ALL
    min_rows_per_category: Annotated[int, Ge(1), ORIGINAL, Doc("rows of rarer categories are dropped")] = 1
    text: Annotated[Text, ORIGINAL, Doc("how a title becomes words")] = Text()
    vocabulary: Annotated[Vocabulary, ORIGINAL, Doc("which words and n-grams get a token id")] = Vocabulary()
    max_length: Annotated[int, Ge(1), Le(65_535), ORIGINAL, Doc("tokens of a title that are kept")] = 32

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        if self.text.stop_words == "auto" and self.language not in LANGUAGES:
            raise ValueError(f"text.stop_words: auto needs language to be one of {', '.join(LANGUAGES)}")


@settings
class Data(Preprocessing, Sources):
    """One data set: either `train`, `validation` and `test`, or one `source` with a `split`.

    Each is a file, a folder of files, a pattern (``parts/*.csv.gz``) or a list of these.
    """

    embeddings: Annotated[Embeddings, ORIGINAL, Doc("word vectors")] = Embeddings()
    encoder: Annotated[
        str | None,
        PLUMBING,
        Doc(
            "the folder of a pretrained model (config.json, tokenizer.json, model.safetensors) for `architecture: "
            "encoder`: titles become its tokenizer's tokens; `embeddings`, `vocabulary` and n-grams then do nothing, "
            "and the rest of `text` decides which titles are equal"
        ),
    ] = None

    def __post_init__(self) -> None:
        parts = [name for name in SPLITS if getattr(self, name) is not None]
        if self.source is not None and parts:
            raise ValueError(f"give either source with split, or {', '.join(SPLITS)}; not source and {parts[0]}")
        if self.source is None and len(parts) < len(SPLITS):
            missing = [name for name in SPLITS if name not in parts]
            raise ValueError(f"{', '.join(missing)} missing: give train, validation and test, or source with split")
        if self.source is None and self.split is not None:
            raise ValueError("split belongs to source; train, validation and test are split already")
        if self.encoder is not None and self.columns.tokens is not None:
            raise ValueError("give either encoder or columns.tokens: an encoder has a tokenizer of its own, for text")
        Preprocessing.__post_init__(self)
