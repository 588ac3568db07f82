"""The second pass: from what shards have spooled to the arrays of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from jobs.data import DATASET_FORMAT, split_assignment, text, vocabulary
from jobs.data.dataset import UNK, Ragged, offsets
from jobs.data.progress import in_order
from jobs.data.settings import SPLITS
from jobs.data.shard_store import FileColumns, ShardStore, blocks
from jobs.errors import InputError
from jobs.storage import write_json, write_whole

BLOCK_ROWS = 200_000
_DIGEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A file's columns, the spool they are in, and where their rows go."""

    spool: int
    folder: Path
    columns: FileColumns
    split: NDArray[np.uint8]
    labels: NDArray[np.int32]


class Assembly:
    """Puts a data set together from spools; ``advance`` is told the phase, rows done and rows in all."""

    def __init__(
        self,
        spools: Sequence[ShardStore],
        settings: Mapping[str, Any],
        *,
        threads: int,
        advance: Callable[[str, int, int], None],
    ) -> None:
        self._settings = settings
        self._threads = threads
        self._advance = advance
        self._spools = spools
        self._placements, self.classes, self._accounts = _placed(spools, settings)
        self._total = sum(placement.columns.kept for placement in self._placements)
        self._words, self._titles = self._distinct_words()

    def write(self, folder: Path) -> tuple[vocabulary.Vocabulary, NDArray[np.int64], dict[str, Any]]:
        """Write arrays, vocabulary and classes; returns the vocabulary, how often each token stands in training,
        and what goes into meta.json. Raises ValueError for a split without rows."""
        self._check_splits()
        encoder = vocabulary.build(self._words, self._word_counts(), self._training, self._settings)
        known = encoder.vocabulary
        dtypes = {
            "tokens": "<u2" if len(known.tokens) <= 1 << 16 else "<u4",
            "labels": "<u2" if len(self.classes) <= 1 << 16 else "<i4",
        }
        splits, counts = self._write_splits(folder, encoder, dtypes)
        write_whole(folder / "vocabulary.json", orjson.dumps(list(known.tokens)))
        write_whole(folder / "classes.json", orjson.dumps(self.classes))
        with (folder / "word_ngrams.bin").open("xb") as file:
            known.sequences.astype("<i4").tofile(file)
        facts = {
            "dtypes": dtypes,
            "splits": splits,
            "parts": self._accounts,
            "classes": len(self.classes),
            "vocabulary": {
                "size": len(known.tokens),
                "words": known.words,
                "word_ngrams": len(known.sequences),
                "character_ngrams": known.parts,
            },
        }
        return known, counts, facts

    def _check_splits(self) -> None:
        for number, name in enumerate(SPLITS):
            if not any((placement.split == number).any() for placement in self._placements):
                raise InputError(
                    f"no {name} rows are left: {_told(self._accounts)}; look at data's language, quality, split and "
                    "min_rows_per_category, and at the files"
                )

    def _distinct_words(self) -> tuple[pl.Series, list[Ragged]]:
        """All distinct words, and per spool which of them each piece of text is made of."""
        flat, found = [], []
        for spool in self._spools:
            pieces = spool.pieces()
            if self._settings["columns"]["tokens"] is None:
                words, ragged = text.split_words(pieces, self._settings["text"], self._settings["language"])
            else:
                words, ragged = pieces, Ragged(np.arange(len(pieces)), np.ones(len(pieces), np.int64))
            flat.append(words)
            found.append(ragged)
        words, among = text.number_distinct(pl.concat(flat), np.array([len(part) for part in flat]))
        starts = offsets(among.lengths)
        return words, [
            Ragged(among.values[starts[number] : starts[number + 1]][ragged.values], ragged.lengths)
            for number, ragged in enumerate(found)
        ]

    def _word_counts(self) -> NDArray[np.int64]:
        counts = np.zeros(len(self._words), np.int64)
        for number, titles in enumerate(self._titles):
            pieces = np.zeros(len(titles), np.int64)
            work = (
                (lambda placement=placement, span=span, titles=titles: _count(placement, span, len(titles)))
                for placement in self._placements
                if placement.spool == number
                for span in blocks(placement.columns, placement.folder, BLOCK_ROWS)
            )
            for part in in_order(work, self._threads):
                pieces += part
            np.add.at(counts, titles.values, np.repeat(pieces, titles.lengths))
        return counts

    def _training(self) -> Iterator[Ragged]:
        work = (
            (lambda placement=placement, span=span: self._titles_of(placement, span, {split_assignment.TRAIN}))
            for placement in self._placements
            for span in blocks(placement.columns, placement.folder, BLOCK_ROWS)
        )
        yield from in_order(work, self._threads)

    def _titles_of(self, placement: Placement, span: tuple[slice, slice], splits: set[int]) -> Ragged:
        pieces = _pieces(placement, span)
        wanted = np.isin(placement.split[span[0]], list(splits))
        return (pieces if wanted.all() else pieces.keep_rows(wanted)).expand(self._titles[placement.spool])

    def _write_splits(
        self, folder: Path, encoder: vocabulary.Encoder, dtypes: Mapping[str, str]
    ) -> tuple[dict[str, Any], NDArray[np.int64]]:
        writers = [_Writer(folder, name, dtypes) for name in SPLITS]
        counts = np.zeros(len(encoder.vocabulary.tokens), np.int64)
        done = 0
        try:
            work = (
                (lambda placement=placement, span=span: self._encoded(placement, span, encoder))
                for placement in self._placements
                for span in blocks(placement.columns, placement.folder, BLOCK_ROWS)
            )
            for encoded in in_order(work, self._threads):
                for number, (titles, labels, reliable) in encoded.splits.items():
                    writers[number].add(titles, labels, reliable)
                    if number == split_assignment.TRAIN:
                        counts += np.bincount(titles.values, minlength=len(counts))
                done += encoded.rows
                self._advance("encoding", done, self._total)
        finally:
            for writer in writers:
                writer.close()
        return {writer.name: writer.facts() for writer in writers}, counts

    def _encoded(self, placement: Placement, span: tuple[slice, slice], encoder: vocabulary.Encoder) -> _Encoded:
        where = placement.split[span[0]]
        kept = where != split_assignment.NONE
        titles = encoder.encode(
            self._titles_of(
                placement, span, {split_assignment.TRAIN, split_assignment.VALIDATION, split_assignment.TEST}
            )
        )
        labels = placement.labels[span[0]][kept]
        reliable = placement.columns.array(placement.folder, "reliable")[span[0]][kept]
        where = where[kept]
        splits = {}
        for number in np.unique(where).tolist():
            mine = where == number
            splits[number] = (titles if mine.all() else titles.keep_rows(mine), labels[mine], reliable[mine])
        return _Encoded(rows=len(kept), splits=splits)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    rows: int
    splits: Mapping[int, tuple[Ragged, NDArray[Any], NDArray[np.uint8]]]


class _Writer:
    """Appends titles to one split's files."""

    def __init__(self, folder: Path, name: str, dtypes: Mapping[str, str]) -> None:
        self.name = name
        self._dtypes = {**dtypes, "offsets": "<i8", "reliable": "|u1"}
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

    def facts(self) -> dict[str, int]:
        return {
            "rows": self._rows,
            "tokens": self._tokens,
            "longest": self._longest,
            "without_known_tokens": self._wordless,
        }


def _pieces(placement: Placement, span: tuple[slice, slice]) -> Ragged:
    lengths = placement.columns.array(placement.folder, "lengths")[span[0]].astype(np.int64)
    return Ragged(placement.columns.array(placement.folder, "pieces")[span[1]], lengths)


def _count(placement: Placement, span: tuple[slice, slice], distinct: int) -> NDArray[np.int64]:
    training = placement.split[span[0]] == split_assignment.TRAIN
    if not training.any():
        return np.zeros(distinct, np.int64)
    pieces = _pieces(placement, span)
    return np.bincount((pieces if training.all() else pieces.keep_rows(training)).values, minlength=distinct)


def _placed(
    spools: Sequence[ShardStore], settings: Mapping[str, Any]
) -> tuple[list[Placement], list[str], dict[str, dict[str, Any]]]:
    """Each file's columns with its rows' splits and labels, in the order of parts and files; classes; accounts."""
    found = sorted(
        ((number, spool, columns) for number, spool in enumerate(spools) for columns in spool.file_columns),
        key=lambda item: (item[2].part, item[2].number),
    )
    names = sorted({label for spool in spools for label in spool.labels()})
    at = {name: number for number, name in enumerate(names)}
    maps = [np.array([at[label] for label in spool.labels()], np.int32) for spool in spools]
    labels = [maps[number][columns.array(spool.folder, "labels")] for number, spool, columns in found]
    parts = []
    for part in (name for name in (*SPLITS, "source") if name in settings["sources"]):
        mine = [index for index, (_, _, columns) in enumerate(found) if columns.part == part]
        files = [found[index] for index in mine]
        parts.append(
            split_assignment.Part(
                name=part,
                labels=np.concatenate([labels[index] for index in mine]),
                reliable=np.concatenate([columns.array(spool.folder, "reliable") for _, spool, columns in files]),
                pairs=np.concatenate([columns.array(spool.folder, "pairs") for _, spool, columns in files])
                if settings["deduplicate"]
                else None,
            )
        )
    placed = split_assignment.assign_splits(parts, settings)
    classes, final = _classes(names, parts, placed)
    taken = dict.fromkeys(placed, 0)
    placements = []
    for index, (number, spool, columns) in enumerate(found):
        begin = taken[columns.part]
        taken[columns.part] = end = begin + columns.kept
        split = placed[columns.part].split[begin:end]
        placements.append(
            Placement(spool=number, folder=spool.folder, columns=columns, split=split, labels=final[labels[index]])
        )
    accounts = {part.name: _account(part.name, [columns for *_, columns in found], placed[part.name]) for part in parts}
    return placements, classes, accounts


def _classes(
    names: Sequence[str], parts: Sequence[split_assignment.Part], placed: Mapping[str, split_assignment.SplitAssignment]
) -> tuple[list[str], NDArray[np.int32]]:
    """Categories met in training, sorted, and each label's position among them (-1: none)."""
    seen = np.zeros(len(names), bool)
    for part in parts:
        seen[part.labels[placed[part.name].split == split_assignment.TRAIN]] = True
    final = np.where(seen, np.cumsum(seen) - 1, -1).astype(np.int32)
    return [name for name, here in zip(names, seen.tolist(), strict=True) if here], final


def _account(part: str, files: Sequence[FileColumns], placed: split_assignment.SplitAssignment) -> dict[str, Any]:
    """Where every row of a part went: ``read`` is the sum of ``kept`` and ``dropped``."""
    mine = [columns for columns in files if columns.part == part]
    dropped: dict[str, int] = {}
    for columns in mine:
        for cause, count in columns.dropped.items():
            dropped[cause] = dropped.get(cause, 0) + count
    kept = {name: int((placed.split == number).sum()) for number, name in enumerate(SPLITS)}
    return {
        "read": sum(columns.rows for columns in mine),
        "kept": {name: count for name, count in kept.items() if count},
        "dropped": dict(sorted({**dropped, **placed.dropped}.items())),
        "with_replaced_bytes": sum(columns.replaced for columns in mine),
    }


def _told(accounts: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for part, account in accounts.items():
        causes = ", ".join(f"{cause} {count}" for cause, count in account["dropped"].items()) or "none dropped"
        lines.append(f"{part}: {account['read']} read, {causes}")
    return "; ".join(lines)


def digests(folder: Path, threads: int) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file in a folder."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    with ThreadPoolExecutor(threads) as pool:
        sums = list(pool.map(_digest, paths))
    return {path.name: {"bytes": path.stat().st_size, "sha256": total} for path, total in zip(paths, sums, strict=True)}


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_DIGEST_BYTES):
            total.update(block)
    return total.hexdigest()


def write_meta(folder: Path, settings: Mapping[str, Any], facts: Mapping[str, Any], threads: int) -> None:
    """Write meta.json, the last of a data set's files."""
    files = digests(folder, threads)
    write_json(folder / "meta.json", {"format": DATASET_FORMAT, "settings": settings, **facts, "files": files})
