"""A realistic data set in both formats of the real one: made up, seeded, the same bytes for the same numbers."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from jobs.data import text
from jobs.data.dataset import SPECIAL, UNK
from jobs.data.progress import in_order
from jobs.data.sample_titles import NO_WORD, OWN_WORDS, Block, Language, draw_titles, make_language, title_table
from jobs.data.settings import SPLITS, Text
from jobs.data.vocabulary import most_frequent
from sharedfs.errors import InputError
from sharedfs.files import write_whole

CATEGORIES = {"spanish": 632, "portuguese": 773}  # the real one's, by language
FORMATS = ("challenge", "university")
_BLOCK_ROWS = 100_000
_GZIP_LEVEL = 6
_TEST_SHARE = 0.05
_TEST_SEED = 1_000_000

MakeBlock = Callable[[], Block]


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
            make_language(name, np.random.Generator(np.random.PCG64([seed, number])), categories or count)
            for number, (name, count) in enumerate(CATEGORIES.items())
        ]

    def challenge(self, folder: Path) -> Iterator[Path]:
        rows = (partial(self._csv_rows, make) for make in self._blocks("train"))
        yield self._write(folder / "train.csv.gz", rows, header=b"title,label_quality,language,category\n")
        tables, done = [b"id,title,language\n"], 0
        for block in in_order(self._blocks("test"), 1):
            table = title_table(self._languages, block).select("title", "language").with_row_index("id", offset=done)
            tables.append(table.write_csv(include_header=False).encode())
            done += len(table)
        write_whole(folder / "test.csv", *tables)
        yield folder / "test.csv"

    def _csv_rows(self, make: MakeBlock) -> bytes:
        table = title_table(self._languages, make()).select("title", "label_quality", "language", "category")
        return table.write_csv(include_header=False).encode()

    def university(self, folder: Path) -> Iterator[Path]:
        for number, language in enumerate(self._languages):
            counts, sizes = self._spelling_counts_and_sizes(number)
            dictionary = _Dictionary(language, counts)
            path = folder / f"{language.name}_token_to_index.json.gz"
            write_whole(path, _packed(orjson.dumps(dictionary.index)))
            yield path
            for split in SPLITS:
                part, size = "test" if split == "test" else "train", sizes[split]
                rows = (partial(self._json_rows, make, number, dictionary, split, size) for make in self._blocks(part))
                yield self._write(folder / f"{language.name}.{split}.jsonl.gz", rows)

    def _json_rows(self, make: MakeBlock, number: int, dictionary: _Dictionary, split: str, size: int) -> bytes:
        block = make().of_split(number, split)
        table = title_table(self._languages, block)
        lines = []
        rows = zip(table.iter_rows(), block.words.tolist(), block.category.tolist(), strict=True)
        for (title, quality, language, category), words, target in rows:
            tokens = [token for word in words if word >= 0 and (token := dictionary.tokens[word]) is not None]
            row = {
                "language": language,
                "label_quality": quality,
                "title": title,
                "category": category,
                "split": split,
                "tokenized_title": tokens,
                "data": [dictionary.index.get(token, UNK) for token in tokens],
                "target": target,
                "n_labels": len(self._languages[number].categories),
                "size": size,
            }
            lines.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        return b"".join(lines)

    def vectors(self, folder: Path, size: int) -> Path:
        """Word vectors of four words in five, in word2vec's text format: words of one category lie together."""
        generator = np.random.Generator(np.random.PCG64([self._seed, 99]))
        words: dict[str, None] = {}
        for language in self._languages:
            lists = [language.lexicon.common, language.lexicon.brands, language.lexicon.own]
            words.update(dict.fromkeys(language.lexicon.words[at] for run in lists for at in run))
        kept = [word for word, draw in zip(words, generator.random(len(words)), strict=True) if draw < 0.8]
        group = np.arange(len(kept)) // OWN_WORDS
        centres = generator.standard_normal((group[-1] + 1, size))
        table = np.round(0.3 * (centres[group] + generator.standard_normal((len(kept), size))), 4)
        lines = [f"{len(kept)} {size}\n"]
        lines += [f"{word} {' '.join(map(repr, row))}\n" for word, row in zip(kept, table.tolist(), strict=True)]
        path = folder / "vectors.txt.gz"
        write_whole(path, _packed("".join(lines).encode()))
        return path

    def _blocks(self, part: str) -> Iterator[MakeBlock]:
        for number, start in enumerate(range(0, self._rows[part], _BLOCK_ROWS)):
            count = min(_BLOCK_ROWS, self._rows[part] - start)
            seed = [self._seed, number + 10 + (_TEST_SEED if part == "test" else 0)]
            yield partial(draw_titles, self._languages, seed, count, reliable=part == "test")

    def _write(self, path: Path, work: Iterable[Callable[[], bytes]], header: bytes = b"") -> Path:
        # A gzip file may have several members: each block is packed on its own thread.
        packed = ((lambda rows=rows: _packed(rows())) for rows in work)
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file:
            file.write(_packed(header) if header else b"")
            for block in in_order(packed, self._threads):
                file.write(block)
        temporary.replace(path)
        return path

    def _spelling_counts_and_sizes(self, number: int) -> tuple[NDArray[np.int64], dict[str, int]]:
        """How often each spelling of a language occurs in its titles, and the rows of each split."""
        counts = np.zeros(len(self._languages[number].spellings), np.int64)
        sizes = dict.fromkeys(SPLITS, 0)
        for part in ("train", "test"):
            for block in in_order(self._blocks(part), self._threads):
                for split in ("test",) if part == "test" else ("train", "validation"):
                    rows = block.of_split(number, split)
                    counts += np.bincount(rows.words[rows.words != NO_WORD], minlength=len(counts))
                    sizes[split] += len(rows)
        return counts, sizes


class _Dictionary:
    """The university's ``token_to_index`` and, per spelling, its token: lower case, three letters or more."""

    def __init__(self, language: Language, counts: NDArray[np.int64]) -> None:
        words, ragged = text.split_words(language.spellings, Text(stop_words="auto"), language.name)
        totals = np.zeros(len(words), np.int64)
        owner = np.repeat(np.arange(len(ragged)), ragged.lengths)
        np.add.at(totals, ragged.values, counts[owner])
        frequent = words.gather(most_frequent(words, totals, min_count=2, limit=50_000))
        self.index = {token: number for number, token in enumerate([*SPECIAL, *frequent.to_list()])}
        names = np.array([None, *words.to_list()], dtype=object)
        # Every spelling is one token or none: its words were made of letters, or dropped.
        single = np.zeros(len(ragged), np.int64)
        single[owner] = ragged.values + 1
        self.tokens: list[str | None] = names[single].tolist()


def _packed(content: bytes) -> bytes:
    """One gzip member, the same bytes at any time."""
    return gzip.compress(content, _GZIP_LEVEL, mtime=0)
