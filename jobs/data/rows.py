"""The rows of all spools, in the order of parts and files: where each goes, and whether training has it too."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.data import overlap, text
from jobs.data.dataset import Ragged
from jobs.data.identity import DatasetDefinition
from jobs.data.meta import Account, Overlap
from jobs.data.progress import in_order
from jobs.data.settings import SPLITS, UNLABELLED
from jobs.data.shard_store import FileColumns, ShardStore
from jobs.data.split_assignment import (
    ELSEWHERE,
    NONE,
    TEST,
    TRAIN,
    VALIDATION,
    Part,
    SplitAssignment,
    assign_splits,
    sample_training,
)
from jobs.data.title_keys import Keys, PieceKeys

BLOCK_ROWS = 200_000
KEY_ROWS = 20_000  # as much as a processor's cache holds of the arrays that keys are computed with
_OVERLAP_ROWS = 500_000  # of training looked through at a time: copies of their keys are in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledFile:
    """A file's columns, and the spool they are in."""

    spool: int
    folder: Path
    columns: FileColumns

    def column(self, name: str) -> NDArray[Any]:
        """One of the spool's arrays of this file."""
        return self.columns.array(self.folder, name)

    def titles(self, rows: slice, pieces: slice) -> Ragged:
        """These rows' pieces of text."""
        return Ragged(self.column("pieces")[pieces], self.column("lengths")[rows].astype(np.int64))

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Runs of rows to work on at once, and the pieces of text that are theirs."""
        return self.columns.blocks(self.folder, BLOCK_ROWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignedFile:
    """A spooled file, and of each row its split (a position in ``SPLITS``, or NONE), its label, its overlap flags."""

    spooled: SpooledFile
    split: NDArray[np.uint8]
    labels: NDArray[np.int32]
    seen: NDArray[np.uint8]

    def blocks(self) -> Iterator[Block]:
        for rows, pieces in self.spooled.blocks():
            yield Block(file=self, rows=rows, pieces=pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive rows of a file, and which of its pieces of text are theirs."""

    file: AssignedFile
    rows: slice
    pieces: slice

    @property
    def spool(self) -> int:
        """The number of the spool they are in."""
        return self.file.spooled.spool

    @property
    def split(self) -> NDArray[np.uint8]:
        """Each row's split, (N,)."""
        return self.file.split[self.rows]

    def column(self, name: str) -> NDArray[Any]:
        return self.file.spooled.column(name)[self.rows]

    def titles(self, mask: NDArray[np.bool_]) -> Ragged:
        """The pieces of text of the rows where the mask is true."""
        titles = self.file.spooled.titles(self.rows, self.pieces)
        return titles if mask.all() else titles.keep_rows(mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileKeys:
    """The keys of a file's titles, (N,) each."""

    ordered: Keys
    bag: Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignedRows:
    """Where all rows went: the files, the categories by number, the account of each part, the overlap of each split.

    ``unlabelled`` are files without labels; their titles are TRAIN, or NONE where validation or test has them.
    """

    files: tuple[AssignedFile, ...]
    unlabelled: tuple[AssignedFile, ...]
    classes: list[str]
    accounts: dict[str, Account]
    overlap: dict[str, Overlap]


def assign_rows(
    spools: Sequence[ShardStore], piece_keys: Sequence[PieceKeys], settings: DatasetDefinition, *, threads: int
) -> AssignedRows:
    """Decide where each row goes.

    Spools hold files in any order and number labels each in its own way. Sorted by part and number, and with labels
    numbered by their names, the files give the same data set however many shards have read them. The arrays of a part
    are those of its files end to end: what is decided on a part is then cut at the files' ends again. Everything here
    is a few bytes a row, in memory at once; text stays on disk.
    """
    spooled = sorted(
        (
            SpooledFile(spool=number, folder=spool.folder, columns=columns)
            for number, spool in enumerate(spools)
            for columns in spool.file_columns
        ),
        key=lambda file: (file.columns.part, file.columns.number),
    )
    files = [file for file in spooled if file.columns.part != UNLABELLED]
    names, labels = _labels(spools, files)
    keys = [_keys(file, piece_keys[file.spool], threads) for file in files]
    parts = []
    for name in (name for name in (*SPLITS, "source") if name in settings.sources):
        of_part = [at for at, file in enumerate(files) if file.columns.part == name]
        parts.append(
            _part(
                name,
                [files[at] for at in of_part],
                [labels[at] for at in of_part],
                [keys[at] for at in of_part],
                settings,
            )
        )
    assignments = assign_splits(parts, settings)
    classes, final_labels = _classes(names, parts, assignments)
    assignments = sample_training(parts, assignments, settings)
    ends = dict.fromkeys(assignments, 0)  # of the files so far, in their part
    assigned = []
    for file, file_labels in zip(files, labels, strict=True):
        part = file.columns.part
        begin = ends[part]
        ends[part] = end = begin + file.columns.kept
        assigned.append(
            AssignedFile(
                spooled=file,
                split=assignments[part].split[begin:end],
                labels=final_labels[file_labels],
                seen=np.zeros(len(file_labels), np.uint8),
            )
        )
    accounts = {
        part.name: _account([file.columns for file in files if file.columns.part == part.name], assignments[part.name])
        for part in parts
    }
    counts = _mark_seen(assigned, keys, threads)
    unlabelled: tuple[AssignedFile, ...] = ()
    if UNLABELLED in settings.sources:
        without = [file for file in spooled if file.columns.part == UNLABELLED]
        their_keys = (_keys(file, piece_keys[file.spool], threads).ordered for file in without)
        is_judged = ((file.split == VALIDATION) | (file.split == TEST) for file in assigned)
        judged = [own.ordered[rows] for own, rows in zip(keys, is_judged, strict=True)]
        unlabelled = tuple(_assign_unlabelled(without, their_keys, np.concatenate(judged)))
        accounts[UNLABELLED] = _account_of_unlabelled(unlabelled)
    return AssignedRows(
        files=tuple(assigned), unlabelled=unlabelled, classes=classes, accounts=accounts, overlap=counts
    )


def _assign_unlabelled(files: Iterable[SpooledFile], keys: Iterable[Keys], judged: Keys) -> Iterator[AssignedFile]:
    """Unlabelled files without the titles whose keys are among those judged; ``keys`` has each file's."""
    wanted = overlap.Wanted(judged)
    for file, own in zip(files, keys, strict=True):
        nothing = np.zeros(len(own), np.uint8)
        split = np.where(wanted.among(own), NONE, TRAIN).astype(np.uint8)
        yield AssignedFile(spooled=file, split=split, labels=nothing.astype(np.int32), seen=nothing)


def _account_of_unlabelled(files: Sequence[AssignedFile]) -> Account:
    split = np.concatenate([file.split for file in files])
    left_out = int((split == NONE).sum())
    assignment = SplitAssignment(split=split, dropped={ELSEWHERE: left_out} if left_out else {})
    account = _account([file.spooled.columns for file in files], assignment)
    return replace(account, kept={"word vectors": len(split) - left_out})


def _labels(spools: Sequence[ShardStore], files: Sequence[SpooledFile]) -> tuple[list[str], list[NDArray[np.int32]]]:
    """The names of all labels, sorted, and of each file its rows' labels as positions among them."""
    written = sorted({label for spool in spools for label in spool.labels()})
    name_of = dict(zip(written, text.whole_number_labels(written), strict=True))
    names = sorted(set(name_of.values()))
    number_of = {name: number for number, name in enumerate(names)}
    maps = [np.array([number_of[name_of[label]] for label in spool.labels()], np.int32) for spool in spools]
    return names, [maps[file.spool][file.column("labels")] for file in files]


def _keys(file: SpooledFile, piece_keys: PieceKeys, threads: int) -> _FileKeys:
    blocks = list(file.columns.blocks(file.folder, KEY_ROWS))
    keys = _FileKeys(ordered=np.empty(file.columns.kept, np.uint64), bag=np.empty(file.columns.kept, np.uint64))
    work = (partial(piece_keys.of_titles, file.titles(*block)) for block in blocks)
    for (rows, _), (ordered, bag) in zip(blocks, in_order(work, threads), strict=True):
        keys.ordered[rows], keys.bag[rows] = ordered, bag
    return keys


def _part(
    name: str,
    files: Sequence[SpooledFile],
    labels: Sequence[NDArray[np.int32]],
    keys: Sequence[_FileKeys],
    settings: DatasetDefinition,
) -> Part:
    def joined(column: str, wanted: bool) -> NDArray[Any] | None:
        return np.concatenate([file.column(column) for file in files]) if wanted else None

    split = settings.split if name == "source" else None
    return Part(
        name=name,
        labels=np.concatenate(labels),
        reliable=np.concatenate([file.column("reliable") for file in files]),
        keys=np.concatenate([file_keys.ordered for file_keys in keys]) if len(keys) > 1 else keys[0].ordered,
        groups=joined("groups", split is not None and split.column is not None),
        times=joined("times", split is not None and split.time is not None),
    )


def _titles_of(file: AssignedFile, keys: _FileKeys, rows: slice, split: int) -> overlap.Titles:
    """Those titles among these rows that are in a split."""
    mask = file.split[rows] == split
    return overlap.Titles(ordered=keys.ordered[rows][mask], bag=keys.bag[rows][mask], labels=file.labels[rows][mask])


def _mark_seen(files: Sequence[AssignedFile], keys: Sequence[_FileKeys], threads: int) -> dict[str, Overlap]:
    """Mark the rows of validation and test that training has; returns the counts by split."""

    def titles(split: int) -> Iterator[Callable[[], overlap.Titles]]:
        for file, of_file in zip(files, keys, strict=True):
            for start in range(0, max(len(file.split), 1), _OVERLAP_ROWS):
                yield partial(_titles_of, file, of_file, slice(start, start + _OVERLAP_ROWS), split)

    counts = {}
    asked = {split: overlap.join(in_order(titles(split), threads)) for split in (VALIDATION, TEST)}
    seen = overlap.seen_in(titles(TRAIN), overlap.join(asked.values()), threads=threads)
    for split, flags in zip(asked, np.split(seen, [len(asked[VALIDATION].labels)]), strict=True):
        counts[SPLITS[split]] = overlap.count(flags)
        begin = 0
        for file in files:
            mask = file.split == split
            end = begin + int(mask.sum())
            file.seen[mask] = flags[begin:end]
            begin = end
    return counts


def _classes(
    names: Sequence[str], parts: Sequence[Part], assignments: Mapping[str, SplitAssignment]
) -> tuple[list[str], NDArray[np.int32]]:
    """The categories that training rows have, sorted, and each label's position among them (-1: none)."""
    in_training = np.zeros(len(names), bool)
    for part in parts:
        in_training[part.labels[assignments[part.name].split == TRAIN]] = True
    positions = np.where(in_training, np.cumsum(in_training) - 1, -1).astype(np.int32)
    return list(itertools.compress(names, in_training)), positions


def _account(files: Iterable[FileColumns], assignment: SplitAssignment) -> Account:
    files = list(files)
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
