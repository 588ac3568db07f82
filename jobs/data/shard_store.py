"""Rows of a preprocess task's files on local disk, in columns, until the data set is assembled from them.

The first pass over the data: text is read once, and what is needed of it is kept as numbers in a temporary folder, the
spool of one shard:

- ``pieces.json``, ``labels.json``: the distinct pieces of text and the distinct labels, by number;
- ``<part>.<number>.pieces``: for each file (``train.00000``) the numbers of all its rows' pieces, end to end (32 bits);
- ``....lengths``: how many of them each row has (32 bits);
- ``....labels``, ``....reliable``: the number of each row's label (32 bits), and 0 where it is marked unreliable (8);
- ``....pairs``: two 64-bit hashes of each row's text and label, only where duplicates are dropped;
- ``spool.json``: counts for each file (``FileColumns``). It is written last: without it a folder is no spool.

Only rows that can be used are in the arrays. A row of ten words takes about 50 bytes, and nothing here grows with rows
in memory: numbers are appended chunk by chunk, and ``FileColumns.array`` maps a file instead of reading it. Numbers
depend on which thread came first; the assembly sorts them out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from jobs.context import Context
from jobs.data import text
from jobs.data.files import Chunk, Source
from jobs.data.formats import parse_jobs
from jobs.data.identity import DatasetDefinition, check_unchanged
from jobs.data.progress import Meter, in_order
from sharedfs.documents import read_as, write_json
from sharedfs.files import write_whole

WRONG_LANGUAGE, NO_TITLE, NO_LABEL = "wrong language", "empty title", "empty label"
SPOOL = "spool.json"
_ARRAYS = {"pieces": "<u4", "lengths": "<u4", "labels": "<u4", "reliable": "|u1", "pairs": "<u8"}
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileColumns:
    """One file's rows in a spool: ``part`` is train, validation, test or source, ``number`` its position in the part.

    ``rows`` were read and ``kept`` are in the arrays, with ``pieces`` of text in all; ``replaced`` rows had bytes that
    are not UTF-8.
    """

    part: str
    number: int
    rows: int
    kept: int
    pieces: int
    replaced: int
    dropped: Mapping[str, int]

    def array(self, folder: Path, name: str) -> NDArray[Any]:
        """One of ``pieces``, ``lengths``, ``labels``, ``reliable``, ``pairs`` (kept, 2), mapped into memory."""
        path = folder / f"{self.part}.{self.number:05d}.{name}"
        if not path.stat().st_size:
            return np.zeros((0, 2) if name == "pairs" else 0, _ARRAYS[name])
        array: NDArray[Any] = np.memmap(path, dtype=_ARRAYS[name], mode="r")
        return array.reshape(-1, 2) if name == "pairs" else array

    def blocks(self, folder: Path, rows: int) -> Iterator[tuple[slice, slice]]:
        """Runs of this many consecutive rows, and the pieces of text that are theirs."""
        lengths = self.array(folder, "lengths")
        begin = 0
        for start in range(0, self.kept, rows):
            stop = min(start + rows, self.kept)
            end = begin + int(lengths[start:stop].sum(dtype=np.int64))
            yield slice(start, stop), slice(begin, end)
            begin = end


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStore:
    """A finished spool folder."""

    folder: Path
    file_columns: tuple[FileColumns, ...]

    @classmethod
    def open(cls, folder: Path) -> ShardStore:
        """Open a spool that was finished; raises FileNotFoundError, or DamagedFileError, naming the file."""
        return cls(folder=folder, file_columns=read_as(tuple[FileColumns, ...], folder / SPOOL, "a spool"))

    @property
    def files(self) -> set[tuple[str, int]]:
        """The files in it, as part and position in the part."""
        return {(columns.part, columns.number) for columns in self.file_columns}

    def pieces(self) -> pl.Series:
        """The distinct pieces of text by their number."""
        return pl.Series(read_as(list[str], self.folder / "pieces.json", "pieces of text"), dtype=pl.String)

    def labels(self) -> list[str]:
        """The distinct labels by their number."""
        return read_as(list[str], self.folder / "labels.json", "labels")


class ShardWriter:
    """Writes the spool of some of a data set's files into a folder."""

    def __init__(self, folder: Path, definition: DatasetDefinition, *, threads: int) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._definition = definition
        self._threads = threads
        self._pieces = text.Numbering()
        self._labels = text.Numbering()
        self._file_columns: list[FileColumns] = []

    def add_file(self, path: Path, part: str, number: int, meter: Meter) -> None:
        """Read one file, the one of this number in its part."""
        source = _source(self._definition, path, part, number)
        counts: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        names = [name for name in _ARRAYS if name != "pairs" or self._definition.deduplicate]
        files = {name: (self._folder / f"{part}.{number:05d}.{name}").open("xb") for name in names}
        try:
            work = ((lambda parse=parse: self._to_numbers(parse())) for parse in parse_jobs(source, meter.add_bytes))
            for parsed in in_order(work, self._threads):
                for name, file in files.items():
                    file.write(np.ascontiguousarray(parsed.arrays[name], _ARRAYS[name]).data)
                dropped.update(parsed.dropped)
                counts.update(parsed.counts)
                meter.add_rows(parsed.counts["rows"])
        finally:
            for file in files.values():
                file.close()
        self._file_columns.append(
            FileColumns(
                part=part,
                number=number,
                rows=counts["rows"],
                kept=counts["kept"],
                pieces=counts["pieces"],
                replaced=counts["replaced"],
                dropped=dict(sorted(dropped.items())),
            )
        )

    def finish(self) -> ShardStore:
        """Write the distinct pieces and labels, and spool.json last."""
        for name, numbering in (("pieces", self._pieces), ("labels", self._labels)):
            write_whole(self._folder / f"{name}.json", orjson.dumps(numbering.distinct().to_list()))
        write_json(self._folder / SPOOL, [asdict(columns) for columns in self._file_columns])
        return ShardStore(folder=self._folder, file_columns=tuple(self._file_columns))

    def _to_numbers(self, chunk: Chunk) -> _ParsedChunk:
        table, dropped = _usable_rows(chunk, self._definition.language)
        if "tokens" in table.columns:
            lists = table["tokens"].list.drop_nulls()
            flat, lengths = lists.explode(empty_as_null=False), lists.list.len().to_numpy()
        else:
            flat, lengths = text.split_titles(table["text"])
        arrays = {
            "pieces": self._pieces.number(flat),
            "lengths": lengths,
            "labels": self._labels.number(table["label"]),
            "reliable": _reliable(table),
        }
        if self._definition.deduplicate:
            arrays["pairs"] = _pairs(table)
        counts = {
            "rows": len(chunk.table) + sum(chunk.dropped.values()),
            "kept": len(table),
            "pieces": len(flat),
            "replaced": _replaced(chunk.table),
        }
        return _ParsedChunk(counts=counts, dropped={**chunk.dropped, **dropped}, arrays=arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ParsedChunk:
    counts: Mapping[str, int]  # as in FileColumns
    dropped: Mapping[str, int]
    arrays: Mapping[str, NDArray[Any]]


def _usable_rows(chunk: Chunk, language: str | None) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows that can be used, and how many can't, by cause; a row is counted under the first cause that holds."""
    dropped = {}
    table = chunk.table.with_columns(pl.col("label").str.strip_chars())
    has_tokens = "tokens" in table.columns
    if has_tokens and table.schema["tokens"] == pl.String:  # csv has no lists
        table = table.with_columns(pl.col("tokens").str.extract_all(r"\S+"))
    title = pl.col("tokens").is_not_null() if has_tokens else pl.col("text").str.strip_chars() != ""
    rules: Sequence[tuple[str, pl.Expr]] = [(NO_TITLE, title), (NO_LABEL, pl.col("label") != "")]
    if language is not None:
        of_language = pl.col("language").str.strip_chars().str.to_lowercase() == language.lower()
        rules = [(WRONG_LANGUAGE, of_language), *rules]
    for cause, rule in rules:
        kept = table.filter(rule)
        if len(kept) < len(table):
            dropped[cause] = len(table) - len(kept)
        table = kept
    return table, dropped


def _reliable(table: pl.DataFrame) -> NDArray[np.uint8]:
    if "quality" not in table.columns:
        return np.ones(len(table), np.uint8)
    unreliable = table["quality"].str.strip_chars().str.to_lowercase() == "unreliable"
    return (~unreliable.fill_null(value=False)).cast(pl.UInt8).to_numpy()


def _pairs(table: pl.DataFrame) -> NDArray[np.uint64]:
    """128 bits for each (text, label): equal for equal pairs, and for others with a chance below 1e-20."""
    content = pl.col("tokens").list.join("\x1f") if "tokens" in table.columns else pl.col("text")
    pair = table.select(pl.concat_str(content, pl.col("label"), separator="\x1e").alias("pair"))["pair"]
    return np.stack([pair.hash(seed=seed).to_numpy() for seed in (1, 2)], axis=1)


def _replaced(table: pl.DataFrame) -> int:
    column = "text" if "text" in table.columns else "label"
    return int(table[column].str.contains(_REPLACEMENT, literal=True).sum())


# Reading a preprocess task's files into a spool.


def read_files(
    context: Context,
    definition: DatasetDefinition,
    paths: Mapping[str, Sequence[str]],
    files: Mapping[str, list[int]],
    folder: Path,
) -> ShardStore:
    """Read the files at these positions of each part, of which ``paths`` has all, into a new spool.

    Raises ValueError when a file is not what was planned, or is not of its format.
    """
    chosen = [(Path(paths[part][number]), part, number) for part, numbers in files.items() for number in numbers]
    for path, part, number in chosen:
        check_unchanged(path, definition.sources[part][number].fingerprint)
    writer = ShardWriter(folder, definition, threads=context.cpus)
    meter = Meter(context, "reading", sum(path.stat().st_size for path, _, _ in chosen))
    for path, part, number in chosen:
        writer.add_file(path, part, number, meter)
    return writer.finish()


def _source(definition: DatasetDefinition, path: Path, part: str, number: int) -> Source:
    named = definition.columns
    content = {"text": named.text} if named.tokens is None else {"tokens": named.tokens}
    required = {"label", *content}
    if definition.language is not None:
        required.add("language")
    if definition.quality == "reliable" and part in ("train", "source"):
        required.add("quality")
    return Source(
        path=path,
        format=definition.sources[part][number].format,
        columns={**content, "label": named.label, "language": named.language, "quality": named.quality},
        required=frozenset(required),
        header=definition.header,
        quotes=definition.quotes,
    )
