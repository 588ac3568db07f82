"""The second pass: from what shards have spooled to the arrays of a data set."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from jobs.data import DATASET_FORMAT, text
from jobs.data.dataset import (
    CLASSES,
    META,
    UNK,
    VOCABULARY,
    WORD_NGRAMS,
    Account,
    Contents,
    Coverage,
    Dtypes,
    Ragged,
    SplitSize,
    StoredFile,
    VocabularySize,
    offsets,
)
from jobs.data.identity import DatasetDefinition
from jobs.data.progress import in_order
from jobs.data.settings import SPLITS
from jobs.data.shard_store import FileColumns, ShardStore
from jobs.data.split_assignment import NONE, TRAIN, Part, SplitAssignment, assign_splits
from jobs.data.vocabulary import Encoder, Vocabulary, build_encoder
from sharedfs.documents import write_json
from sharedfs.errors import InputError
from sharedfs.files import write_whole
from sharedfs.typed_json import Json

BLOCK_ROWS = 200_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignedFile:
    """A file's columns, the spool they are in, and each row's split (a position in ``SPLITS``, or NONE) and label."""

    spool: int
    folder: Path
    columns: FileColumns
    split: NDArray[np.uint8]
    labels: NDArray[np.int32]

    def blocks(self) -> Iterator[Block]:
        for rows, pieces in self.columns.blocks(self.folder, BLOCK_ROWS):
            yield Block(file=self, rows=rows, pieces=pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive rows of a file, and which of its pieces of text are theirs."""

    file: AssignedFile
    rows: slice
    pieces: slice

    @property
    def split(self) -> NDArray[np.uint8]:
        """Each row's split, (N,)."""
        return self.file.split[self.rows]

    def column(self, name: str) -> NDArray[Any]:
        return self.file.columns.array(self.file.folder, name)[self.rows]

    def titles(self, mask: NDArray[np.bool_]) -> Ragged:
        """The pieces of text of the rows where the mask is true."""
        pieces = self.file.columns.array(self.file.folder, "pieces")[self.pieces]
        titles = Ragged(pieces, self.column("lengths").astype(np.int64))
        return titles if mask.all() else titles.keep_rows(mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBlock:
    """The rows that were read, and of each split their token ids, labels, and whether those are reliable."""

    rows: int
    splits: Mapping[int, tuple[Ragged, NDArray[Any], NDArray[np.uint8]]]


class Assembly:
    """Puts a data set together from spools; ``advance`` is called with the phase, rows done and rows in all."""

    def __init__(
        self,
        spools: Sequence[ShardStore],
        settings: DatasetDefinition,
        *,
        threads: int,
        advance: Callable[[str, int, int], None],
    ) -> None:
        self._settings = settings
        self._threads = threads
        self._advance = advance
        self._spools = spools
        self._files, self.classes, self._accounts = _assign_rows(spools, settings)
        self._total = sum(file.columns.kept for file in self._files)
        self._words, self._words_of_pieces = self._distinct_words()

    def write(self, folder: Path) -> tuple[Vocabulary, NDArray[np.int64], Contents]:
        """Write arrays, vocabulary and classes.

        Returns the vocabulary, how often each token occurs in training, and what meta.json says of all that. Raises
        ValueError for a split without rows.
        """
        self._check_splits()
        encoder = build_encoder(self._words, self._word_counts(), self._training_titles, self._settings)
        vocabulary = encoder.vocabulary
        dtypes = Dtypes(
            tokens="<u2" if len(vocabulary.tokens) <= 1 << 16 else "<u4",
            labels="<u2" if len(self.classes) <= 1 << 16 else "<i4",
        )
        splits, counts = self._write_splits(folder, encoder, dtypes)
        write_whole(folder / VOCABULARY, orjson.dumps(list(vocabulary.tokens)))
        write_whole(folder / CLASSES, orjson.dumps(self.classes))
        with (folder / WORD_NGRAMS).open("xb") as file:
            vocabulary.word_ngrams.astype("<i4").tofile(file)
        size = VocabularySize(
            size=len(vocabulary.tokens),
            words=vocabulary.word_count,
            word_ngrams=len(vocabulary.word_ngrams),
            character_ngrams=len(vocabulary.tokens) - vocabulary.first_character_ngram,
        )
        contents = Contents(
            dtypes=dtypes,
            splits=splits,
            parts=self._accounts,
            classes=len(self.classes),
            alike=text.alike(self.classes),
            vocabulary=size,
        )
        return vocabulary, counts, contents

    def _check_splits(self) -> None:
        for number, name in enumerate(SPLITS):
            if not any((file.split == number).any() for file in self._files):
                raise InputError(
                    f"no {name} rows are left: {_describe(self._accounts)}; look at data's language, quality, split "
                    "and min_rows_per_category, and at the files"
                )

    def _distinct_words(self) -> tuple[pl.Series, list[Ragged]]:
        """All distinct words, and per spool which of them each piece of text is made of.

        Each spool numbers its own pieces and so its own words; the words of all spools are then numbered once more,
        together, and each spool's numbers replaced by those.
        """
        spool_words, spool_pieces = [], []
        for spool in self._spools:
            pieces = spool.pieces()
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

    def _each_block(self, work: Callable[[Block], T]) -> Iterator[T]:
        """What the work on each block of rows gives, in order, done on several threads."""
        blocks = (block for file in self._files for block in file.blocks())
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
        return block.file.spool, np.bincount(titles.values, minlength=len(self._words_of_pieces[block.file.spool]))

    def _training_titles(self) -> Iterator[Ragged]:
        return self._each_block(lambda block: self._titles(block, block.split == TRAIN))

    def _titles(self, block: Block, mask: NDArray[np.bool_]) -> Ragged:
        """The distinct words of the rows where the mask is true."""
        return block.titles(mask).expand(self._words_of_pieces[block.file.spool])

    def _write_splits(
        self, folder: Path, encoder: Encoder, dtypes: Dtypes
    ) -> tuple[dict[str, SplitSize], NDArray[np.int64]]:
        writers = [_Writer(folder, name, dtypes) for name in SPLITS]
        counts = np.zeros(len(encoder.vocabulary.tokens), np.int64)
        done = 0
        try:
            for encoded in self._each_block(partial(self._encode, encoder)):
                for number, (titles, labels, reliable) in encoded.splits.items():
                    writers[number].add(titles, labels, reliable)
                    if number == TRAIN:
                        counts += np.bincount(titles.values, minlength=len(counts))
                done += encoded.rows
                self._advance("encoding", done, self._total)
        finally:
            for writer in writers:
                writer.close()
        return {writer.name: writer.size() for writer in writers}, counts

    def _encode(self, encoder: Encoder, block: Block) -> EncodedBlock:
        kept = block.split != NONE
        titles = encoder.encode(self._titles(block, kept))
        labels, reliable, split = block.file.labels[block.rows][kept], block.column("reliable")[kept], block.split[kept]
        splits = {}
        for number in np.unique(split).tolist():
            mask = split == number
            splits[number] = (titles if mask.all() else titles.keep_rows(mask), labels[mask], reliable[mask])
        return EncodedBlock(rows=len(kept), splits=splits)


class _Writer:
    """Appends titles to one split's files."""

    def __init__(self, folder: Path, name: str, dtypes: Dtypes) -> None:
        self.name = name
        self._dtypes = {"tokens": dtypes.tokens, "offsets": "<i8", "labels": dtypes.labels, "reliable": "|u1"}
        self._files: dict[str, BinaryIO] = {part: (folder / f"{name}.{part}.bin").open("xb") for part in self._dtypes}
        self._rows = self._tokens = self._longest = self._wordless = 0
        self._write("offsets", np.zeros(1, np.int64))

    def add(self, titles: Ragged, labels: NDArray[Any], reliable: NDArray[np.uint8]) -> None:
        ends = offsets(titles.lengths)[1:] + self._tokens
        for part, array in (("tokens", titles.values), ("offsets", ends), ("labels", labels), ("reliable", reliable)):
            self._write(part, array)
        self._rows += len(titles)
        self._tokens += len(titles.values)
        self._longest = max(self._longest, int(titles.lengths.max(initial=0)))
        self._wordless += int((titles.sums(titles.values != UNK) == 0).sum())

    def _write(self, part: str, array: NDArray[Any]) -> None:
        self._files[part].write(np.ascontiguousarray(array, self._dtypes[part]).data)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def size(self) -> SplitSize:
        return SplitSize(
            rows=self._rows, tokens=self._tokens, longest=self._longest, without_known_tokens=self._wordless
        )


def _assign_rows(
    spools: Sequence[ShardStore], settings: DatasetDefinition
) -> tuple[list[AssignedFile], list[str], dict[str, Account]]:
    """Each file with its rows' splits and labels, in the order of parts and files; the classes; the accounts.

    Spools hold files in any order and number labels each in its own way. Sorted by part and number, and with labels
    numbered by their names, the files give the same data set however many shards have read them. The arrays of a part
    are those of its files end to end: what is decided on a part is then cut at the files' ends again. Everything here
    is a few bytes a row, in memory at once; text stays on disk.
    """
    files = sorted(
        ((number, spool, columns) for number, spool in enumerate(spools) for columns in spool.file_columns),
        key=lambda file: (file[2].part, file[2].number),
    )
    written = sorted({label for spool in spools for label in spool.labels()})
    name_of = dict(zip(written, text.whole_number_labels(written), strict=True))
    names = sorted(set(name_of.values()))
    number_of = {name: number for number, name in enumerate(names)}
    label_maps = [np.array([number_of[name_of[label]] for label in spool.labels()], np.int32) for spool in spools]
    labels = [label_maps[number][columns.array(spool.folder, "labels")] for number, spool, columns in files]
    parts = []
    for part in (name for name in (*SPLITS, "source") if name in settings.sources):
        indices = [index for index, (_, _, columns) in enumerate(files) if columns.part == part]
        arrays = {
            name: np.concatenate([files[index][2].array(files[index][1].folder, name) for index in indices])
            for name in ("reliable", *(["pairs"] if settings.deduplicate else []))
        }
        parts.append(Part(name=part, labels=np.concatenate([labels[index] for index in indices]), **arrays))
    assignments = assign_splits(parts, settings)
    classes, final_labels = _classes(names, parts, assignments)
    ends = dict.fromkeys(assignments, 0)  # of the files so far, in their part
    assigned = []
    for file_labels, (number, spool, columns) in zip(labels, files, strict=True):
        begin = ends[columns.part]
        ends[columns.part] = end = begin + columns.kept
        split = assignments[columns.part].split[begin:end]
        assigned.append(
            AssignedFile(
                spool=number, folder=spool.folder, columns=columns, split=split, labels=final_labels[file_labels]
            )
        )
    accounts = {
        part.name: _account([columns for *_, columns in files if columns.part == part.name], assignments[part.name])
        for part in parts
    }
    return assigned, classes, accounts


def _classes(
    names: Sequence[str], parts: Sequence[Part], assignments: Mapping[str, SplitAssignment]
) -> tuple[list[str], NDArray[np.int32]]:
    """The categories that training rows have, sorted, and each label's position among them (-1: none)."""
    in_training = np.zeros(len(names), bool)
    for part in parts:
        in_training[part.labels[assignments[part.name].split == TRAIN]] = True
    positions = np.where(in_training, np.cumsum(in_training) - 1, -1).astype(np.int32)
    return list(itertools.compress(names, in_training)), positions


def _account(files: Sequence[FileColumns], assignment: SplitAssignment) -> Account:
    dropped = Counter(assignment.dropped)
    for columns in files:
        dropped.update(columns.dropped)
    kept = {name: int((assignment.split == number).sum()) for number, name in enumerate(SPLITS)}
    return Account(
        read=sum(columns.rows for columns in files),
        kept={name: count for name, count in kept.items() if count},
        dropped=dict(sorted(dropped.items())),
        with_replaced_bytes=sum(columns.replaced for columns in files),
    )


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
