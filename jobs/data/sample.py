"""A realistic data set in both formats of the real one: made up, seeded, the same bytes for the same numbers.

A category is of one of three kinds. Of a *bag* category the words say what it is. The others come in pairs whose
titles hold the same words: in one ``x`` comes before ``y`` and in the other after it, beside each other (*near*)
or anywhere (*far*). A mean of word vectors can't tell such a pair, convolutions see the near ones, a recurrent
network can see both. Unreliable labels are partly wrong, words are misspelt, and nothing is certain.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from jobs.data import sample_words, text
from jobs.data.progress import in_order
from jobs.data.settings import Text
from jobs.errors import InputError
from jobs.storage import write_whole

LANGUAGES = ("spanish", "portuguese")
CATEGORIES = {"spanish": 632, "portuguese": 773}
FORMATS = ("challenge", "university")
_BLOCK_ROWS = 100_000
_GZIP_LEVEL = 6
_TEST_SHARE, _VALIDATION_SHARE, _RELIABLE_SHARE, _WRONG_SHARE = 0.05, 0.2, 0.2, 0.12
_BAG, _NEAR, _FAR = 0, 1, 2
_OWN_WORDS = 8  # per category
_SLOTS = 11
_NO_WORD = -1
_TEST_SEED = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """All that titles of one language are drawn from."""

    name: str
    lexicon: sample_words.Lexicon
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


def write_sample(
    folder: Path,
    rows: int,
    seed: int = 0,
    *,
    categories: int | None = None,
    formats: Sequence[str] = FORMATS,
    vector_size: int = 50,
    threads: int | None = None,
) -> list[Path]:
    """Write a sample of ``rows`` training titles and a twentieth as many test titles; returns the files.

    Both formats hold the same titles: the challenge's in one file, the university's by language with a fifth of
    them for validation. ``categories`` per language, else 632 and 773. Raises ValueError for fewer than 100 rows.
    """
    if rows < 100:
        raise InputError(f"rows: must be at least 100, not {rows}")
    folder.mkdir(parents=True, exist_ok=True)
    maker = _Maker(rows, seed, categories, threads or len(os.sched_getaffinity(0)))
    files = [*maker.challenge(folder)] if "challenge" in formats else []
    if "university" in formats:
        files += maker.university(folder)
    return [*files, maker.vectors(folder, vector_size)]


class _Maker:
    def __init__(self, rows: int, seed: int, categories: int | None, threads: int) -> None:
        self._rows = {"train": rows, "test": max(20, int(rows * _TEST_SHARE))}
        self._seed = seed
        self._threads = threads
        self._languages = [
            _language(name, np.random.Generator(np.random.PCG64([seed, number])), categories or CATEGORIES[name])
            for number, name in enumerate(LANGUAGES)
        ]

    def challenge(self, folder: Path) -> Iterator[Path]:
        yield self._write(folder / "train.csv.gz", (self._csv_rows(block) for block in self._blocks("train")))
        first = pl.DataFrame({"id": [], "title": [], "language": []}).write_csv().encode()
        tables, done = [], 0
        for block in in_order(self._blocks("test"), 1):
            table = self._table(block).select("title", "language").with_row_index("id", offset=done)
            tables.append(table.write_csv(include_header=False).encode())
            done += len(table)
        write_whole(folder / "test.csv", first, *tables)
        yield folder / "test.csv"

    def _csv_rows(self, make: Any) -> Any:
        def work() -> bytes:
            table = self._table(make()).select("title", "label_quality", "language", "category")
            return table.write_csv(include_header=False).encode()

        return work

    def university(self, folder: Path) -> Iterator[Path]:
        for number, language in enumerate(self._languages):
            dictionary = _Dictionary(language, self._counts(number))
            path = folder / f"{language.name}_token_to_index.json.gz"
            write_whole(path, _packed(orjson.dumps(dictionary.index)))
            yield path
            sizes = self._sizes(number)
            for split in ("train", "validation", "test"):
                part = "test" if split == "test" else "train"
                facts = {"split": split, "n_labels": len(language.categories), "size": sizes[split]}
                work = (self._json_rows(make, number, dictionary, facts) for make in self._blocks(part))
                yield self._write(folder / f"{language.name}.{split}.jsonl.gz", work, header=b"")

    def _json_rows(self, make: Any, number: int, dictionary: _Dictionary, facts: Mapping[str, Any]) -> Any:
        def work() -> bytes:
            block = _select(make(), number, facts["split"])
            return _json_lines(self._table(block), block, dictionary, facts)

        return work

    def vectors(self, folder: Path, size: int) -> Path:
        """Word vectors of four words in five, in word2vec's text format: words of one category lie together."""
        generator = np.random.Generator(np.random.PCG64([self._seed, 99]))
        words: dict[str, None] = {}
        for language in self._languages:
            lists = [language.lexicon.common, language.lexicon.brands, language.lexicon.own]
            words.update(dict.fromkeys(language.lexicon.words[at] for run in lists for at in run))
        kept = [word for word, draw in zip(words, generator.random(len(words)), strict=True) if draw < 0.8]
        group = np.arange(len(kept)) // _OWN_WORDS
        centres = generator.standard_normal((group[-1] + 1, size))
        table = np.round(0.3 * (centres[group] + generator.standard_normal((len(kept), size))), 4)
        lines = [f"{len(kept)} {size}\n"]
        lines += [f"{word} {' '.join(map(repr, row))}\n" for word, row in zip(kept, table.tolist(), strict=True)]
        path = folder / "vectors.txt.gz"
        write_whole(path, _packed("".join(lines).encode()))
        return path

    def _blocks(self, part: str) -> Iterator[Any]:
        for number, start in enumerate(range(0, self._rows[part], _BLOCK_ROWS)):
            count = min(_BLOCK_ROWS, self._rows[part] - start)
            seed = [self._seed, number + 10 + (_TEST_SEED if part == "test" else 0)]
            yield lambda count=count, seed=seed, part=part: _draw(
                self._languages, np.random.Generator(np.random.PCG64(seed)), count, reliable=part == "test"
            )

    def _write(self, path: Path, work: Any, header: bytes = b"title,label_quality,language,category\n") -> Path:
        # A gzip file may have several members: each block is packed on its own thread.
        packed = ((lambda piece=piece: _packed(piece())) for piece in work)
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file:
            file.write(_packed(header) if header else b"")
            for block in in_order(packed, self._threads):
                file.write(block)
        temporary.replace(path)
        return path

    def _table(self, block: Block) -> pl.DataFrame:
        parts = []
        for number, language in enumerate(self._languages):
            mine = np.flatnonzero(block.language == number)
            words = block.words[mine]
            columns = [
                language.spellings.gather(pl.Series(column, dtype=pl.Int64).replace(_NO_WORD, None)).alias(str(slot))
                for slot, column in enumerate(words.T)
            ]
            parts.append(
                pl.DataFrame(columns).select(
                    pl.Series("at", mine),
                    pl.concat_str(pl.all(), separator=" ", ignore_nulls=True).alias("title"),
                    pl.Series("label_quality", np.where(block.reliable[mine], "reliable", "unreliable")),
                    pl.lit(language.name).alias("language"),
                    pl.Series("category", language.categories).gather(block.category[mine]),
                )
            )
        return pl.concat(parts).sort("at").drop("at")

    def _counts(self, number: int) -> NDArray[np.int64]:
        counts = np.zeros(len(self._languages[number].spellings), np.int64)
        for part in ("train", "test"):
            for block in in_order(self._blocks(part), self._threads):
                words = block.words[block.language == number]
                counts += np.bincount(words[words != _NO_WORD], minlength=len(counts))
        return counts

    def _sizes(self, number: int) -> dict[str, int]:
        sizes = dict.fromkeys(("train", "validation", "test"), 0)
        for part in ("train", "test"):
            for block in in_order(self._blocks(part), self._threads):
                for split in ("test",) if part == "test" else ("train", "validation"):
                    sizes[split] += len(_select(block, number, split).category)
        return sizes


def _language(name: str, generator: np.random.Generator, count: int) -> Language:
    lexicon = sample_words.lexicon(name, generator, count * _OWN_WORDS)
    kinds = np.zeros(count, np.int8)
    paired = int(count * 0.45) // 2 * 2
    kinds[:paired] = np.where(np.arange(paired) // 2 % 5 < 3, _NEAR, _FAR)
    own = np.array(lexicon.own).reshape(count, _OWN_WORDS)
    own[1:paired:2] = own[0:paired:2]
    # Neighbouring bag categories share words, as laptops and tablets do.
    own[paired + 1 :, :2] = own[paired:-1, 2:4]
    order = generator.permutation(count)
    shares = 1.0 / (np.arange(count) + 4.0) ** 0.8
    brands = np.array(lexicon.brands)[generator.integers(0, len(lexicon.brands), (count, 5))]
    return Language(
        name=name,
        lexicon=lexicon,
        spellings=pl.Series(sample_words.spellings(lexicon.words, generator)),
        categories=tuple(np.array(sample_words.category_names(count))[generator.permutation(count)].tolist()),
        shares=shares / shares.sum(),
        kinds=kinds[order],
        own=own[order],
        first=(np.arange(count) % 2 == 0)[order],
        brands=brands,
    )


def _draw(languages: Sequence[Language], generator: np.random.Generator, count: int, *, reliable: bool) -> Block:
    language = (generator.random(count) < 0.5).astype(np.int8)
    shown = np.zeros(count, np.int64)
    words = np.full((count, _SLOTS), _NO_WORD)
    sure = generator.random(count) < _RELIABLE_SHARE
    if reliable:
        sure[:] = True
    wrong = ~sure & (generator.random(count) < _WRONG_SHARE)
    validation = generator.random(count) < _VALIDATION_SHARE
    for number, spoken in enumerate(languages):
        mine = np.flatnonzero(language == number)
        true = _some_categories(spoken, generator, len(mine))
        other = _some_categories(spoken, generator, len(mine))
        shown[mine] = np.where(wrong[mine], other, true)
        words[mine] = _spelt(generator, _titles(spoken, generator, true))
    return Block(language=language, category=shown, reliable=sure, validation=validation, words=words)


def _some_categories(language: Language, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    found = np.searchsorted(language.shares.cumsum(), generator.random(count))
    return np.minimum(found, len(language.shares) - 1)


def _zipf(generator: np.random.Generator, run: range, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Positions in a run, each less likely than the one before: rank r with a share near 1 / r."""
    return run.start + ((len(run) + 1.0) ** generator.random(shape) - 1).astype(np.int64)


def _titles(language: Language, generator: np.random.Generator, category: NDArray[np.int64]) -> NDArray[np.int64]:
    """Words of each title in order, (N, slots), -1 where there is none."""
    count = len(category)
    kind = language.kinds[category]
    half = _OWN_WORDS // 2
    words = np.full((count, _SLOTS), _NO_WORD)
    rank = np.minimum(generator.geometric(0.35, (count, 3)) - 1, _OWN_WORDS - 1)
    paired = kind != _BAG
    pick = np.where(paired[:, None], rank % half, rank)
    pick[:, 2] += np.where(paired, half, 0)
    own = np.take_along_axis(language.own[category], pick, axis=1)
    draws = generator.random((count, _SLOTS))
    words[:, 0] = own[:, 0]
    words[:, 1] = np.where(paired, _zipf(generator, language.lexicon.connectors, (count,)), own[:, 1])
    words[:, 2] = own[:, 2]
    # The words that tell are missing now and then: no method can be right about all titles.
    absent = draws[:, :3] > np.where(paired[:, None], (0.97, 0.7, 0.97), (0.95, 0.6, 0.35))
    words[:, :3][absent] = _NO_WORD
    brand = language.brands[category, np.minimum(generator.geometric(0.4, count) - 1, 4)]
    anything = _zipf(generator, language.lexicon.brands, (count,))
    words[:, 3] = np.where(draws[:, 3] < 0.3, brand, np.where(draws[:, 3] < 0.5, anything, _NO_WORD))
    words[:, 4:6] = np.where(
        draws[:, 4:6] < (0.35, 0.15), _zipf(generator, language.lexicon.models, (count, 2)), _NO_WORD
    )
    noise = (0.95, 0.8, 0.6, 0.4, 0.25)
    words[:, 6:] = np.where(draws[:, 6:] < noise, _zipf(generator, language.lexicon.common, (count, 5)), _NO_WORD)
    return np.take_along_axis(words, _order(generator, kind, language.first[category]), axis=1)


def _order(generator: np.random.Generator, kind: NDArray[np.int8], first: NDArray[np.bool_]) -> NDArray[np.int64]:
    keys = generator.random((len(kind), _SLOTS))
    near, far = kind == _NEAR, kind == _FAR
    low, high = np.minimum(keys[:, 0], keys[:, 2]), np.maximum(keys[:, 0], keys[:, 2])
    keys[:, 0] = np.where(far, np.where(first, low, high), keys[:, 0])
    keys[:, 2] = np.where(far, np.where(first, high, low), keys[:, 2])
    step = np.where(first, 1e-9, -1e-9)
    keys[:, 1] = np.where(near, keys[:, 0] + step, keys[:, 1])
    keys[:, 2] = np.where(near, keys[:, 0] + 2 * step, keys[:, 2])
    return np.argsort(keys, axis=1)


def _spelt(generator: np.random.Generator, words: NDArray[np.int64]) -> NDArray[np.int64]:
    """Word numbers to spelling numbers: a variant per word, a case per title."""
    variant = np.searchsorted(np.cumsum((0.8, 0.14, 0.03)), generator.random(words.shape))
    case = np.searchsorted(np.cumsum((0.8, 0.12)), generator.random((len(words), 1)))
    spelt = (words * sample_words.VARIANTS + variant) * sample_words.CASES + case
    return np.where(words == _NO_WORD, _NO_WORD, spelt)


def _select(block: Block, number: int, split: str) -> Block:
    mine = block.language == number
    if split != "test":
        mine &= block.validation == (split == "validation")
    return Block(
        language=block.language[mine],
        category=block.category[mine],
        reliable=block.reliable[mine],
        validation=block.validation[mine],
        words=block.words[mine],
    )


class _Dictionary:
    """The university's ``token_to_index`` and, per spelling, its token: lower case, three letters or more."""

    def __init__(self, language: Language, counts: NDArray[np.int64]) -> None:
        settings = Text(stop_words="auto").model_dump()
        words, ragged = text.words(language.spellings, settings, language.name)
        totals = np.zeros(len(words), np.int64)
        owner = np.repeat(np.arange(len(ragged)), ragged.lengths)
        np.add.at(totals, ragged.values, counts[owner])
        frame = pl.DataFrame({"word": words, "count": totals}).filter(pl.col("count") >= 2)
        frame = frame.sort(["count", "word"], descending=[True, False]).head(50_000)
        self.index = {"<PAD>": 0, "<UNK>": 1, **{word: at + 2 for at, word in enumerate(frame["word"].to_list())}}
        names = np.array([None, *words.to_list()], dtype=object)
        # Every spelling is one token or none: its words were made of letters, or dropped.
        single = np.zeros(len(ragged), np.int64)
        single[owner] = ragged.values + 1
        self.tokens: list[str | None] = names[single].tolist()


def _json_lines(table: pl.DataFrame, block: Block, dictionary: _Dictionary, facts: Mapping[str, Any]) -> bytes:
    lines = []
    rows = zip(table.iter_rows(), block.words.tolist(), block.category.tolist(), strict=True)
    for (title, quality, language, category), words, target in rows:
        tokens = [token for word in words if word >= 0 and (token := dictionary.tokens[word]) is not None]
        row = {
            "language": language,
            "label_quality": quality,
            "title": title,
            "category": category,
            "split": facts["split"],
            "tokenized_title": tokens,
            "data": [dictionary.index.get(token, 1) for token in tokens],
            "target": target,
            "n_labels": facts["n_labels"],
            "size": facts["size"],
        }
        lines.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return b"".join(lines)


def _packed(content: bytes) -> bytes:
    """One gzip member, the same bytes at any time."""
    return gzip.compress(content, _GZIP_LEVEL, mtime=0)
