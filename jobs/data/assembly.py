"""The second pass: from what shards have spooled to the arrays of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from jobs.data import DATASET_FORMAT, text, title_keys
from jobs.data.dataset import (
    CLASSES,
    LANGUAGES,
    META,
    NGRAMS,
    SUBWORD_LENGTHS,
    SUBWORDS,
    VOCABULARY,
    WORD_NGRAMS,
    Ragged,
    offsets,
)
from jobs.data.identity import DatasetDefinition
from jobs.data.meta import Account, Contents, Coverage, Dtypes, StoredFile, VocabularySize
from jobs.data.progress import in_order
from jobs.data.rows import AssignedFile, Block, assign_rows
from jobs.data.settings import SPLITS
from jobs.data.shard_store import ShardStore
from jobs.data.split_assignment import NONE, TRAIN
from jobs.data.split_writer import SplitWriter
from jobs.data.tokens import TokenEncoder
from jobs.data.vocabulary import Encoder, Subwords, build_encoder
from sharedfs.documents import write_json
from sharedfs.errors import InputError
from sharedfs.files import write_whole
from sharedfs.typed_json import Json

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRows:
    """Rows of one split: their token ids, and by the names of a split's other files what is stored of each, or of
    each of its tokens (``words``).

    ``languages`` are positions among the data set's; ``texts`` stable keys of the raw titles, where they are asked for.
    """

    titles: Ragged
    columns: Mapping[str, NDArray[Any]]
    languages: NDArray[np.int64]
    texts: title_keys.Keys | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBlock:
    """How many rows were read, and those of each split."""

    rows: int
    splits: Mapping[int, EncodedRows]


class Assembly:
    """Puts a data set together from spools; ``advance`` is called with the phase, rows done and rows in all.

    Titles become words; with ``tokens`` those of an encoder, and words tell only which titles are equal.
    """

    def __init__(
        self,
        spools: Sequence[ShardStore],
        settings: DatasetDefinition,
        *,
        threads: int,
        advance: Callable[[str, int, int], None],
        tokens: TokenEncoder | None = None,
    ) -> None:
        self._settings = settings
        self._threads = threads
        self._advance = advance
        self._spools = spools
        self._tokens = tokens
        self._texts: list[pl.Series] = []  # with ``tokens``, of each spool's pieces: what is tokenized
        self._text_keys: list[title_keys.Keys] = []  # of each spool's pieces, as they are written
        self._words, self._words_of_pieces = self._distinct_words()
        word_keys = title_keys.word_keys(self._words)
        piece_keys = [title_keys.PieceKeys.of(pieces, word_keys) for pieces in self._words_of_pieces]
        self._assigned = assign_rows(spools, piece_keys, settings, threads=threads)
        self._total = sum(len(file.split) for file in self._assigned.files)
        self._languages = sorted({name for spool in spools for name in spool.languages()})
        number_of = {name: number for number, name in enumerate(self._languages)}
        self._language_maps = [np.array([number_of[name] for name in spool.languages()]) for spool in spools]

    def write(self, folder: Path) -> tuple[Encoder, NDArray[np.int64], Contents]:
        """Write arrays, vocabulary and classes.

        Returns what turned words into tokens, how often each token occurs in training, and what meta.json says of all
        that. Raises ValueError for a split without rows.
        """
        self._check_splits()
        if self._tokens is None:
            encoder = build_encoder(self._words, self._word_counts(), self._training_titles, self._settings)
        else:
            encoder = self._tokens.encoder
        vocabulary = encoder.vocabulary
        dtypes = Dtypes(
            tokens="<u2" if len(vocabulary.tokens) <= 1 << 16 else "<u4",
            labels="<u2" if len(self._assigned.classes) <= 1 << 16 else "<i4",
        )
        writers, counts = self._write_splits(folder, encoder, dtypes)
        write_whole(folder / VOCABULARY, orjson.dumps(list(vocabulary.tokens)))
        write_whole(folder / CLASSES, orjson.dumps(self._assigned.classes))
        write_whole(folder / LANGUAGES, orjson.dumps(self._languages))
        with (folder / WORD_NGRAMS).open("xb") as file:
            vocabulary.word_ngrams.astype("<i4").tofile(file)
        if encoder.subwords is not None:
            _write_subwords(folder, encoder.subwords)
        size = VocabularySize(
            size=len(vocabulary.tokens),
            words=vocabulary.word_count,
            word_ngrams=len(vocabulary.word_ngrams),
            character_ngrams=len(vocabulary.tokens) - vocabulary.first_character_ngram,
        )
        contents = Contents(
            dtypes=dtypes,
            splits={writer.name: writer.size() for writer in writers},
            parts=self._assigned.accounts,
            classes=len(self._assigned.classes),
            alike=text.alike(self._assigned.classes),
            overlap=self._assigned.overlap,
            statement={writer.name: writer.statement(self._languages) for writer in writers},
            vocabulary=size,
        )
        return encoder, counts, contents

    def known_words(self, encoder: Encoder) -> Iterator[Ragged]:
        """The words of training and unlabelled titles, as token ids, block by block."""
        files = (*self._assigned.files, *self._assigned.unlabelled)
        total = sum(int((file.split == TRAIN).sum()) for file in files)
        done = 0
        for titles in self._each_block(lambda block: self._titles(block, block.split == TRAIN), files):
            yield Ragged(encoder.ids[titles.values], titles.lengths)
            done += len(titles)
            self._advance("word vectors", done, total)

    def _check_splits(self) -> None:
        for number, name in enumerate(SPLITS):
            if not any((file.split == number).any() for file in self._assigned.files):
                raise InputError(
                    f"no {name} rows are left: {_describe(self._assigned.accounts)}; look at data's language, quality, "
                    "split and min_rows_per_category, and at the files"
                )

        leaked = {name: count for name, count in self._assigned.overlap.items() if count.exact}
        if self._settings.overlap == "error" and leaked:
            counts = ", ".join(f"{count.exact:,} of {count.titles:,} {name} titles" for name, count in leaked.items())
            raise InputError(
                f"{counts} are in training too (data.overlap: error); data.overlap: drop takes them out of it"
            )

    def _distinct_words(self) -> tuple[pl.Series, list[Ragged]]:
        """All distinct words, and per spool which of them each piece of text is made of.

        Each spool numbers its own pieces and so its own words; the words of all spools are then numbered once more,
        together, and each spool's numbers replaced by those.
        """
        spool_words, spool_pieces = [], []
        for spool in self._spools:
            pieces = spool.pieces()
            self._text_keys.append(title_keys.stable_keys(pieces))
            if self._tokens is not None:
                self._texts.append(text.without_markup(pieces))
            if self._settings.columns.tokens is None:
                words, ragged = text.split_words(pieces, self._settings.text, self._settings.language)
            else:
                words, ragged = pieces, Ragged(np.arange(len(pieces)), np.ones(len(pieces), np.int64))
            spool_words.append(words)
            spool_pieces.append(ragged)
        lengths = np.array([len(words) for words in spool_words])
        distinct, numbers = text.number_distinct(pl.concat(spool_words), lengths)
        starts = offsets(lengths)
        return distinct, [
            Ragged(numbers.values[starts[spool] : starts[spool + 1]][ragged.values], ragged.lengths)
            for spool, ragged in enumerate(spool_pieces)
        ]

    def _each_block(self, work: Callable[[Block], T], files: Iterable[AssignedFile] | None = None) -> Iterator[T]:
        """What the work on each block of rows, of all labelled files or these, gives, in order, on several threads."""
        blocks = (block for file in files or self._assigned.files for block in file.blocks())
        return in_order((partial(work, block) for block in blocks), self._threads)

    def _word_counts(self) -> NDArray[np.int64]:
        """How often each distinct word occurs in training, counted by pieces of text, of which there are fewer."""
        piece_counts = [np.zeros(len(pieces), np.int64) for pieces in self._words_of_pieces]
        for spool, counts in self._each_block(self._training_pieces):
            piece_counts[spool] += counts
        word_counts = np.zeros(len(self._words), np.int64)
        for counts, words in zip(piece_counts, self._words_of_pieces, strict=True):
            np.add.at(word_counts, words.values, np.repeat(counts, words.lengths))
        return word_counts

    def _training_pieces(self, block: Block) -> tuple[int, NDArray[np.int64]]:
        titles = block.titles(block.split == TRAIN)
        return block.spool, np.bincount(titles.values, minlength=len(self._words_of_pieces[block.spool]))

    def _training_titles(self) -> Iterator[Ragged]:
        return self._each_block(lambda block: self._titles(block, block.split == TRAIN))

    def _titles(self, block: Block, mask: NDArray[np.bool_]) -> Ragged:
        """The distinct words of the rows where the mask is true."""
        return block.titles(mask).expand(self._words_of_pieces[block.spool])

    def _write_splits(
        self, folder: Path, encoder: Encoder, dtypes: Dtypes
    ) -> tuple[list[SplitWriter], NDArray[np.int64]]:
        own_ids = encoder.subwords is not None
        writers = [SplitWriter(folder, name, dtypes, self._assigned.classes, own_ids=own_ids) for name in SPLITS]
        counts = np.zeros(len(encoder.vocabulary.tokens), np.int64)
        done = 0
        try:
            for encoded in self._each_block(partial(self._encode, encoder)):
                for number, rows in encoded.splits.items():
                    writers[number].add(rows.titles, rows.columns, rows.languages, rows.texts)
                    if number == TRAIN:
                        counts += np.bincount(rows.titles.values, minlength=len(counts))
                done += encoded.rows
                self._advance("encoding", done, self._total)
        finally:
            for writer in writers:
                writer.close()
        return writers, counts

    def _encode(self, encoder: Encoder, block: Block) -> EncodedBlock:
        kept = block.split != NONE
        titles, words = self._ids(encoder, block, kept)
        split, every = block.split[kept], np.flatnonzero(kept)
        split_of_token = np.repeat(split, titles.lengths)
        splits = {}
        for number in np.unique(split).tolist():
            mask, tokens = split == number, split_of_token == number
            rows = every[mask]
            columns = {"labels": block.file.labels[block.rows][rows], "reliable": block.column("reliable")[rows]}
            languages = self._language_maps[block.spool][block.column("languages")[rows]]
            if words is not None:
                columns["words"] = words[tokens]
            texts = None
            if number != TRAIN:
                columns |= {
                    "row": block.column("rows")[rows],
                    "file": np.full(len(rows), block.file.spooled.columns.number),
                    "language": languages,
                    "seen": block.file.seen[block.rows][rows],
                }
                pieces = block.titles(block.split == number)
                texts = title_keys.in_order(self._text_keys[block.spool][pieces.values], pieces.lengths)
            splits[number] = EncodedRows(
                titles=titles if mask.all() else Ragged(titles.values[tokens], titles.lengths[mask]),
                columns=columns,
                languages=languages,
                texts=texts,
            )
        return EncodedBlock(rows=len(kept), splits=splits)

    def _ids(self, encoder: Encoder, block: Block, mask: NDArray[np.bool_]) -> tuple[Ragged, NDArray[np.uint32] | None]:
        """The token ids of the rows where the mask is true, and those with the own ids of unknown words."""
        if self._tokens is not None:
            return self._tokens.encode(text.joined(self._texts[block.spool], block.titles(mask))), None
        words = self._titles(block, mask)
        return encoder.encode(words), encoder.encode_words(words)


def _write_subwords(folder: Path, subwords: Subwords) -> None:
    write_whole(folder / NGRAMS, orjson.dumps(list(subwords.ngrams)))
    for name, array in ((SUBWORDS, subwords.table.values), (SUBWORD_LENGTHS, subwords.table.lengths)):
        with (folder / name).open("xb") as file:
            array.astype("<u4").tofile(file)


def _describe(accounts: Mapping[str, Account]) -> str:
    lines = []
    for part, account in accounts.items():
        causes = ", ".join(f"{cause} {count}" for cause, count in account.dropped.items()) or "none dropped"
        lines.append(f"{part}: {account.read} read, {causes}")
    return "; ".join(lines)


def write_meta(
    folder: Path, settings: Mapping[str, Json], contents: Contents, vectors: Coverage, *, threads: int
) -> None:
    """Write the ``Meta`` of the task's settings, as they stand, with size and SHA-256 of each of the other files."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    with ThreadPoolExecutor(threads) as pool:
        described = zip(paths, pool.map(_describe_file, paths), strict=True)
        files = {path.name: asdict(file) for path, file in described}
    stated = {"format": DATASET_FORMAT, "settings": settings, "vectors": vectors.document, "files": files}
    write_json(folder / META, {**asdict(contents), **stated})


def _describe_file(path: Path) -> StoredFile:
    with path.open("rb") as file:
        return StoredFile(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
