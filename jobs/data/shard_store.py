"""Rows of a preprocess task's files on local disk, in columns, until the data set is assembled from them.

The first pass over the data: text is read once, and what is needed of it is kept as numbers in a temporary folder, the
spool of one shard:

- ``pieces.json``, ``labels.json``: the distinct pieces of text and the distinct labels, by number;
- ``<part>.<number>.pieces``: for each file (``train.00000``) the numbers of all its rows' pieces, end to end (32 bits);
- ``....lengths``: how many of them each row has (32 bits);
- ``....labels``, ``....reliable``: the number of each row's label (32 bits), and 0 where it is marked unreliable (8);
- ``....rows``: each row's position in its file, from 0 (32 bits);
- ``....languages``: the number of each row's language in ``languages.json``, where the file has them (32 bits);
- ``....groups``, ``....times``: a 64-bit hash of the column that ``split.by`` names; that of ``split.time`` as numbers;
- ``shard.json``: counts for each file (``FileColumns``). It is written last: without it a folder is no spool.

Only rows that can be used are in the arrays. A row of ten words takes about 50 bytes, and nothing here grows with rows
in memory: numbers are appended chunk by chunk, and ``FileColumns.array`` maps a file instead of reading it. Numbers
depend on which thread came first; the assembly sorts them out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from jobs.context import Context
from jobs.data import text
from jobs.data.files import Chunk, EmptyFileError, Source
from jobs.data.formats import parse_jobs
from jobs.data.identity import DatasetDefinition, check_unchanged
from jobs.data.json_lines import NO_JSON, NO_OBJECT
from jobs.data.progress import Meter, in_order
from jobs.data.settings import UNLABELLED
from jobs.data.title_keys import WORDLESS
from sharedfs.documents import read_as, write_json
from sharedfs.errors import InputError
from sharedfs.files import write_whole

WRONG_LANGUAGE, NO_TITLE, NO_LABEL = "wrong language", "empty title", "empty label"
SPOOL = "shard.json"  # that of earlier versions, spool.json, stood for other arrays
_ARRAYS = {
    "pieces": "<u4", "lengths": "<u4", "labels": "<u4", "reliable": "|u1", "rows": "<u4", "languages": "<u4",
    "groups": "<u8", "times": "<f8",
}  # fmt: skip
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileColumns:
    """One file's rows in a spool: ``part`` is train, validation, test or source, ``number`` its position in the part.

    ``rows`` were read and ``kept`` are in the arrays, with ``pieces`` of text in all; ``replaced`` rows have U+FFFD
    in text or label, for what could not be read. ``languages``: the file has a column of them.
    """

    part: str
    number: int
    rows: int
    kept: int
    pieces: int
    replaced: int
    dropped: Mapping[str, int]
    languages: bool

    def array(self, folder: Path, name: str) -> NDArray[Any]:
        """One of the arrays, mapped into memory; all 0 where the file has no languages."""
        path = folder / f"{self.part}.{self.number:05d}.{name}"
        if not self.kept or (name == "languages" and not self.languages):
            return np.zeros(0 if name == "pieces" else self.kept, _ARRAYS[name])
        if not path.stat().st_size:  # rows without a single piece of text
            return np.zeros(0, _ARRAYS[name])
        array: NDArray[Any] = np.memmap(path, dtype=_ARRAYS[name], mode="r")
        return array

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

    def languages(self) -> list[str]:
        """The languages by their number, as they are written but for spaces; the first is that of a row without one."""
        return [name.strip() for name in read_as(list[str], self.folder / "languages.json", "languages")]


class ShardWriter:
    """Writes the spool of some of a data set's files into a folder."""

    def __init__(self, folder: Path, definition: DatasetDefinition, *, threads: int) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._definition = definition
        self._threads = threads
        self._pieces = text.Numbering()
        self._labels = text.Numbering()
        self._languages = text.Numbering()
        self._languages.number(pl.Series([""]))
        self._file_columns: list[FileColumns] = []

    def add_file(self, path: Path, part: str, number: int, meter: Meter) -> None:
        """Read one file, the one of this number in its part."""
        source = source_of(self._definition, path, part, number)
        counts: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        problem: str | None = None
        files: dict[str, BinaryIO] = {}
        try:
            work = ((lambda parse=parse: self._to_numbers(parse())) for parse in parse_jobs(source, meter.add_bytes))
            for parsed in in_order(work, self._threads):
                for name, array in parsed.arrays.items():
                    if name not in files:
                        files[name] = (self._folder / f"{part}.{number:05d}.{name}").open("xb")
                    shifted = array + counts["rows"] if name == "rows" else array
                    files[name].write(np.ascontiguousarray(shifted, _ARRAYS[name]).data)
                dropped.update(parsed.dropped)
                counts.update(parsed.counts)
                problem = problem or parsed.problem
                meter.add_rows(parsed.counts["rows"])
        except EmptyFileError:
            if len(self._definition.sources[part]) == 1:
                raise
        finally:
            for file in files.values():
                file.close()
        bad = dropped[NO_JSON] + dropped[NO_OBJECT]
        if problem is not None and bad > self._definition.bad_lines * counts["rows"]:
            share = f"{bad:,} of {counts['rows']:,} lines, more than data.bad_lines ({self._definition.bad_lines:g})"
            raise InputError(f"{problem} ({share})")
        self._file_columns.append(
            FileColumns(
                part=part,
                number=number,
                rows=counts["rows"],
                kept=counts["kept"],
                pieces=counts["pieces"],
                replaced=counts["replaced"],
                dropped=dict(sorted(dropped.items())),
                languages="languages" in files,
            )
        )

    def finish(self) -> ShardStore:
        """Write the distinct pieces and labels, and spool.json last."""
        distinct = {"pieces": self._pieces, "labels": self._labels, "languages": self._languages}
        for name, numbering in distinct.items():
            write_whole(self._folder / f"{name}.json", orjson.dumps(numbering.distinct().to_list()))
        write_json(self._folder / SPOOL, [asdict(columns) for columns in self._file_columns])
        return ShardStore(folder=self._folder, file_columns=tuple(self._file_columns))

    def _to_numbers(self, chunk: Chunk) -> _ParsedChunk:
        table, rows, dropped = _usable_rows(chunk, self._definition.language)
        if "tokens" in table.columns:
            lists = table["tokens"].list.drop_nulls()
            flat, lengths = lists.explode(empty_as_null=False), lists.list.len().to_numpy()
        else:
            flat, lengths = text.split_titles(table["text"])
        arrays = {
            "pieces": self._pieces.number(flat),
            "lengths": lengths,
            "rows": rows,
        }
        if "label" in table.columns:
            arrays |= {"labels": self._labels.number(table["label"]), "reliable": _reliable(table)}
        if "language" in table.columns:
            arrays["languages"] = self._languages.number(table["language"].fill_null(""))
        if "group" in table.columns:
            arrays["groups"] = _group_keys(table["group"])
        if "time" in table.columns:
            arrays["times"] = _times(table["time"])
        counts = {
            "rows": len(chunk.table) + sum(chunk.dropped.values()),
            "kept": len(table),
            "pieces": len(flat),
            "replaced": _replaced(chunk.table),
        }
        return _ParsedChunk(counts=counts, dropped={**chunk.dropped, **dropped}, arrays=arrays, problem=chunk.problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ParsedChunk:
    counts: Mapping[str, int]  # as in FileColumns
    dropped: Mapping[str, int]
    arrays: Mapping[str, NDArray[Any]]
    problem: str | None  # the first row that could not be read, and why


def _usable_rows(chunk: Chunk, language: str | None) -> tuple[pl.DataFrame, NDArray[np.int64], dict[str, int]]:
    """The rows that can be used, their positions in the chunk, and how many can't, by the first cause that holds."""
    dropped = {}
    table = chunk.table
    rows = np.arange(len(table)) if chunk.positions is None else np.asarray(chunk.positions, np.int64)
    has_tokens = "tokens" in table.columns
    if has_tokens and table.schema["tokens"] == pl.String:  # csv has no lists
        table = table.with_columns(pl.col("tokens").str.extract_all(r"\S+"))
    title = pl.col("tokens").is_not_null() if has_tokens else pl.col("text").str.strip_chars() != ""
    rules: list[tuple[str, pl.Expr]] = [(NO_TITLE, title)]
    if "label" in table.columns:  # unlabelled titles have none
        table = table.with_columns(text.normalised_labels(table["label"]))
        rules.append((NO_LABEL, pl.col("label") != ""))
    if language is not None:
        of_language = pl.col("language").str.strip_chars().str.to_lowercase() == language.lower()
        rules = [(WRONG_LANGUAGE, of_language), *rules]
    for cause, rule in rules:
        kept = table.select(rule.fill_null(value=False)).to_series()
        if not kept.all():  # of most chunks all are kept, and copying them takes longer than looking
            mask = kept.to_numpy()
            dropped[cause] = len(table) - int(mask.sum())
            table, rows = table.filter(kept), rows[mask]
    return table, rows, dropped


def _reliable(table: pl.DataFrame) -> NDArray[np.uint8]:
    if "quality" not in table.columns:
        return np.ones(len(table), np.uint8)
    unreliable = table["quality"].str.strip_chars().str.to_lowercase() == "unreliable"
    return (~unreliable.fill_null(value=False)).cast(pl.UInt8).to_numpy()


def _group_keys(values: pl.Series) -> NDArray[np.uint64]:
    """A hash of each value, 0 where there is none."""
    missing = values.is_null() | (values.str.strip_chars() == "")
    keys: NDArray[np.uint64] = values.hash(seed=1).to_numpy().copy()
    keys[missing.fill_null(value=True).to_numpy()] = WORDLESS
    return keys


def _times(values: pl.Series) -> NDArray[np.float64]:
    """Numbers as they are, dates as seconds since 1970; NaN where there is none."""
    text = values.str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() == text.null_count():
        return numbers.fill_null(float("nan")).to_numpy()
    dates = text.str.slice(0, 19).str.replace("T", " ", literal=True)
    seconds = [
        dates.str.to_datetime(form, strict=False).dt.epoch("s").cast(pl.Float64)
        for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M")
    ]
    seconds.append(dates.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime).dt.epoch("s").cast(pl.Float64))
    table = pl.DataFrame({str(at): series for at, series in enumerate([numbers, *seconds])})
    return table.select(pl.coalesce(pl.all()).fill_null(float("nan"))).to_series().to_numpy()


def _replaced(table: pl.DataFrame) -> int:
    """Rows with a character in text or label that stands for what could not be read."""
    name = "text" if "text" in table.columns else "tokens"
    title = table[name] if table.schema[name] == pl.String else table[name].list.join(" ")
    broken = title.str.contains(_REPLACEMENT, literal=True).fill_null(value=False)
    # Of few: most chunks have none.
    if "label" in table.columns and table["label"].unique().str.contains(_REPLACEMENT, literal=True).any():
        broken |= table["label"].str.contains(_REPLACEMENT, literal=True).fill_null(value=False)
    return int(broken.sum())


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


def source_of(definition: DatasetDefinition, path: Path, part: str, number: int) -> Source:
    """A file of a data set's part as it is read: which columns, and which of them must be there."""
    named = definition.columns
    content = {"text": named.text} if named.tokens is None else {"tokens": named.tokens}
    columns = {**content, "label": named.label, "language": named.language, "quality": named.quality}
    required = {"label", *content}
    if part == UNLABELLED:
        del columns["label"], columns["quality"]
        required.remove("label")
    if definition.language is not None:
        required.add("language")
    if definition.quality == "reliable" and part in ("train", "source"):
        required.add("quality")
    extra = {}
    if part == "source" and definition.split is not None:
        chosen = {"group": definition.split.column, "time": definition.split.time}
        extra = {ours: theirs for ours, theirs in chosen.items() if theirs is not None}
        required |= extra.keys()
    return Source(
        path=path,
        format=definition.sources[part][number].format,
        columns={**columns, **extra},
        required=frozenset(required),
        header=definition.header,
        quotes=definition.quotes,
        encoding=definition.encoding,
        replace_bytes=definition.replace_bytes,
    )
