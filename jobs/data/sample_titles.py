"""The made-up titles of the sample: languages of syllables, categories, and titles drawn from them.

A category is of one of three kinds. Of a *bag* category the words say what it is. The others come in pairs whose
titles hold the same words: in one ``x`` comes before ``y`` and in the other after it, beside each other (*near*)
or anywhere (*far*). A mean of word vectors can't tell such a pair, convolutions see the near ones, a recurrent
network can see both. Unreliable labels are partly wrong, words are misspelt, and nothing is certain.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.data.text import strip_accents
from sharedfs.errors import InputError

OWN_WORDS = 8  # per category
NO_WORD = -1
_WORDS: dict[str, dict[str, list[str]]] = {
    name: {use: words.split() for use, words in lists.items()}
    for name, lists in tomllib.loads(Path(__file__).with_name("sample_words.toml").read_text("utf-8")).items()
}
_VALIDATION_SHARE, _RELIABLE_SHARE, _WRONG_SHARE = 0.2, 0.2, 0.12
_BAG, _NEAR, _FAR = 0, 1, 2
_SLOTS = 11
_VARIANTS, _CASES = 4, 3  # as written, without accents, a letter lost, two letters swapped; Title, lower, UPPER


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexicon:
    """A language's words: runs of positions in ``words`` for each use, most frequent first."""

    words: tuple[str, ...]
    connectors: range
    common: range
    brands: range
    models: range
    own: range


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """All that titles of one language are drawn from."""

    name: str
    lexicon: Lexicon
    spellings: pl.Series
    categories: tuple[str, ...]
    shares: NDArray[np.float64]  # of rows, per category
    kinds: NDArray[np.int8]
    own: NDArray[np.int64]  # (C, words): bag: its words; pairs: the first half are x, the second y
    first: NDArray[np.bool_]  # pairs: whether x comes first
    brands: NDArray[np.int64]  # (C, brands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive rows: ``language`` and ``category`` numbers (N,), ``words`` (N, slots) spelling numbers or -1."""

    language: NDArray[np.int8]
    category: NDArray[np.int64]
    reliable: NDArray[np.bool_]
    validation: NDArray[np.bool_]
    words: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.category)

    def of_split(self, language: int, split: str) -> Block:
        """The titles of a language that are for this split: test, or one of train and validation."""
        mask = self.language == language
        if split != "test":
            mask &= self.validation == (split == "validation")
        return Block(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})


# A language: words by syllables, their spellings, and what its categories differ in.


def make_language(name: str, generator: np.random.Generator, count: int) -> Language:
    lexicon = _lexicon(name, generator, count * OWN_WORDS)
    kinds = np.zeros(count, np.int8)
    paired = int(count * 0.45) // 2 * 2
    kinds[:paired] = np.where(np.arange(paired) // 2 % 5 < 3, _NEAR, _FAR)
    own = np.array(lexicon.own).reshape(count, OWN_WORDS)
    own[1:paired:2] = own[0:paired:2]
    # Neighbouring bag categories share words, as laptops and tablets do.
    own[paired + 1 :, :2] = own[paired:-1, 2:4]
    order = generator.permutation(count)
    shares = 1.0 / (np.arange(count) + 4.0) ** 0.8
    brands = np.array(lexicon.brands)[generator.integers(0, len(lexicon.brands), (count, 5))]
    return Language(
        name=name,
        lexicon=lexicon,
        spellings=pl.Series(_spellings(lexicon.words, generator)),
        categories=tuple(np.array(_category_names(count))[generator.permutation(count)].tolist()),
        shares=shares / shares.sum(),
        kinds=kinds[order],
        own=own[order],
        first=(np.arange(count) % 2 == 0)[order],
        brands=brands,
    )


def _lexicon(language: str, generator: np.random.Generator, own: int) -> Lexicon:
    """Function words, common words, brands, model numbers, and ``own`` words for categories; all distinct."""
    connectors = _WORDS[language]["connectors"]
    words = dict.fromkeys((*connectors, *_WORDS[language]["function_words"]))
    ends = [0, len(connectors)]
    for count, make in ((6000, _word), (600, _brand), (4000, _model), (own, _word)):
        ends.append(count + (ends[1] if len(ends) == 2 else len(words)))  # common words begin with function words
        while len(words) < ends[-1]:
            words.setdefault(make(language, generator))
    runs = [range(low, high) for low, high in itertools.pairwise(ends)]
    return Lexicon(words=tuple(words), connectors=runs[0], common=runs[1], brands=runs[2], models=runs[3], own=runs[4])


def _word(language: str, generator: np.random.Generator) -> str:
    syllables, endings = _WORDS[language]["syllables"], _WORDS[language]["endings"]
    size = int(generator.integers(1, 4))
    body = "".join(syllables[at] for at in generator.integers(0, len(syllables), size))
    return body + endings[int(generator.integers(0, len(endings)))]


def _brand(language: str, generator: np.random.Generator) -> str:
    syllables = _WORDS[language]["syllables"]
    body = "".join(syllables[at] for at in generator.integers(0, len(syllables), 2))
    return body + str(generator.choice(["x", "tek", "son", "k", "max", "lux"]))


def _model(_: str, generator: np.random.Generator) -> str:
    number = int(10 ** generator.uniform(1, 4))
    unit = str(generator.choice(["w", "v", "gb", "cm", "ml", "kg", "hp", ""]))
    letters = "".join(generator.choice(list("abdgkmrstvx"), int(generator.integers(1, 3))))
    return f"{number}{unit}" if generator.random() < 0.5 else f"{letters}{number}"


def _spellings(words: tuple[str, ...], generator: np.random.Generator) -> list[str]:
    """Each word in every variant and case: position ``(word * _VARIANTS + variant) * _CASES + case``."""
    positions = generator.random(len(words)).tolist()
    return [
        spelling
        for word, position in zip(words, positions, strict=True)
        for variant in (word, strip_accents(word), *_mistakes(word, position))
        for spelling in (variant[:1].upper() + variant[1:], variant, variant.upper())
    ]


def _mistakes(word: str, position: float) -> tuple[str, str]:
    if len(word) < 4:
        return word, word
    at = 1 + int(position * (len(word) - 3))
    return word[:at] + word[at + 1 :], word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _category_names(count: int) -> list[str]:
    """Distinct category names, at most 1,600."""
    words = _WORDS["category_names"]
    names = [f"{kind}_{thing}" for thing in words["things"] for kind in words["kinds"]]
    if count > len(names):
        raise InputError(f"at most {len(names)} categories can be named, not {count}")
    order = np.random.Generator(np.random.PCG64(2019)).permutation(len(names))
    return [names[at] for at in order[:count]]


# Titles, drawn in blocks.


def draw_titles(languages: Sequence[Language], seed: Sequence[int], count: int, *, reliable: bool) -> Block:
    generator = np.random.Generator(np.random.PCG64(seed))
    language = (generator.random(count) < 0.5).astype(np.int8)
    labels = np.zeros(count, np.int64)
    words = np.full((count, _SLOTS), NO_WORD)
    is_reliable = generator.random(count) < _RELIABLE_SHARE
    if reliable:
        is_reliable[:] = True
    wrong = ~is_reliable & (generator.random(count) < _WRONG_SHARE)
    validation = generator.random(count) < _VALIDATION_SHARE
    for number, drawn in enumerate(languages):
        rows = np.flatnonzero(language == number)
        true = _draw_categories(drawn, generator, len(rows))
        other = _draw_categories(drawn, generator, len(rows))
        labels[rows] = np.where(wrong[rows], other, true)
        words[rows] = _draw_spellings(generator, _title_words(drawn, generator, true))
    return Block(language=language, category=labels, reliable=is_reliable, validation=validation, words=words)


def _draw_categories(language: Language, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    categories = np.searchsorted(language.shares.cumsum(), generator.random(count))
    return np.minimum(categories, len(language.shares) - 1)


def _zipf(generator: np.random.Generator, run: range, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Positions in a run, each less likely than the one before: rank r with a share near 1 / r."""
    return run.start + ((len(run) + 1.0) ** generator.random(shape) - 1).astype(np.int64)


def _title_words(language: Language, generator: np.random.Generator, category: NDArray[np.int64]) -> NDArray[np.int64]:
    """Words of each title in order, (N, slots), -1 where there is none."""
    count = len(category)
    kind = language.kinds[category]
    half = OWN_WORDS // 2
    words = np.full((count, _SLOTS), NO_WORD)
    rank = np.minimum(generator.geometric(0.35, (count, 3)) - 1, OWN_WORDS - 1)
    paired = kind != _BAG
    pick = np.where(paired[:, None], rank % half, rank)
    pick[:, 2] += np.where(paired, half, 0)
    own = np.take_along_axis(language.own[category], pick, axis=1)
    draws = generator.random((count, _SLOTS))
    words[:, 0] = own[:, 0]
    words[:, 1] = np.where(paired, _zipf(generator, language.lexicon.connectors, (count,)), own[:, 1])
    words[:, 2] = own[:, 2]
    # The words that decide are missing now and then: no method can be right about all titles.
    absent = draws[:, :3] > np.where(paired[:, None], (0.97, 0.7, 0.97), (0.95, 0.6, 0.35))
    words[:, :3][absent] = NO_WORD
    brand = language.brands[category, np.minimum(generator.geometric(0.4, count) - 1, 4)]
    anything = _zipf(generator, language.lexicon.brands, (count,))
    words[:, 3] = np.where(draws[:, 3] < 0.3, brand, np.where(draws[:, 3] < 0.5, anything, NO_WORD))
    words[:, 4:6] = np.where(
        draws[:, 4:6] < (0.35, 0.15), _zipf(generator, language.lexicon.models, (count, 2)), NO_WORD
    )
    noise = (0.95, 0.8, 0.6, 0.4, 0.25)
    words[:, 6:] = np.where(draws[:, 6:] < noise, _zipf(generator, language.lexicon.common, (count, 5)), NO_WORD)
    return np.take_along_axis(words, _order(generator, kind, language.first[category]), axis=1)


def _order(generator: np.random.Generator, kind: NDArray[np.int8], first: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The order of each title's words: by random keys, changed so that the words of a pair are in theirs.

    Slots 0 and 2 hold x and y, slot 1 the connector. Of a *far* title the two keys are swapped where they are the wrong
    way round; in a *near* one the connector and y get keys just above x's, or just below where y comes first, so that
    the three are neighbours.
    """
    keys = generator.random((len(kind), _SLOTS))
    near, far = kind == _NEAR, kind == _FAR
    low, high = np.minimum(keys[:, 0], keys[:, 2]), np.maximum(keys[:, 0], keys[:, 2])
    keys[:, 0] = np.where(far, np.where(first, low, high), keys[:, 0])
    keys[:, 2] = np.where(far, np.where(first, high, low), keys[:, 2])
    step = np.where(first, 1e-9, -1e-9)
    keys[:, 1] = np.where(near, keys[:, 0] + step, keys[:, 1])
    keys[:, 2] = np.where(near, keys[:, 0] + 2 * step, keys[:, 2])
    return np.argsort(keys, axis=1)


def _draw_spellings(generator: np.random.Generator, words: NDArray[np.int64]) -> NDArray[np.int64]:
    """Word numbers to spelling numbers: a variant per word, a case per title."""
    variant = np.searchsorted(np.cumsum((0.8, 0.14, 0.03)), generator.random(words.shape))
    case = np.searchsorted(np.cumsum((0.8, 0.12)), generator.random((len(words), 1)))
    spellings = (words * _VARIANTS + variant) * _CASES + case
    return np.where(words == NO_WORD, NO_WORD, spellings)


def title_table(languages: Sequence[Language], block: Block) -> pl.DataFrame:
    """The columns ``title``, ``label_quality``, ``language`` and ``category`` of a block."""
    parts = []
    for number, language in enumerate(languages):
        rows = np.flatnonzero(block.language == number)
        words = block.words[rows]
        columns = [
            language.spellings.gather(pl.Series(column, dtype=pl.Int64).replace(NO_WORD, None)).alias(str(slot))
            for slot, column in enumerate(words.T)
        ]
        parts.append(
            pl.DataFrame(columns).select(
                pl.Series("at", rows),
                pl.concat_str(pl.all(), separator=" ", ignore_nulls=True).alias("title"),
                pl.Series("label_quality", np.where(block.reliable[rows], "reliable", "unreliable")),
                pl.lit(language.name).alias("language"),
                pl.Series("category", language.categories).gather(block.category[rows]),
            )
        )
    return pl.concat(parts).sort("at").drop("at")
