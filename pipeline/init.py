"""A starting manifest from a data file: its columns, languages, categories and sizes are read, not asked for."""

from __future__ import annotations

import codecs
import io
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import polars as pl
import yaml

from jobs.data import Quotes, csv_text, encodings, files, formats, json_lines
from jobs.data.settings import SPLITS, Columns
from pipeline.manifest.validation import name_problem, safe_name
from pipeline.manifest.yaml_nodes import composed
from sharedfs.errors import InputError

TEMPLATE = Path(__file__).with_name("init.yaml.jinja")
LOOK_BYTES = 32 << 20
LOOK_ROWS = 200_000
TEXTS = ("title", "titulo", "título", "text", "texto", "nombre", "name", "product_name", "product", "producto")
LABELS = ("category", "categoria", "categoría", "label", "class", "clase", "aisle", "department", "target")
LANGUAGES = ("language", "lang", "idioma")
QUALITIES = ("label_quality", "quality")
_WHOLE_NUMBER = r"^[+-]?[0-9]+(\.0*)?$"
_ROWS_PER_NUMBER = 4  # at least, on average: a column with fewer holds keys or amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class DataProfile:
    """What a data file holds; counts are of the rows looked at."""

    columns: dict[str, str]
    rows: int
    complete: bool  # all of the file was looked at
    header: bool  # csv and tsv: whether the first line names the columns; if not, they are called 1, 2, ...
    quotes: Quotes
    encoding: str
    categories: int
    rare_categories: int  # with a single row: they can't be split
    languages: dict[str, int]  # rows by language, the most frequent first
    longest: int  # words of a title, at the 99th percentile


def profile_data(path: Path, quotes: Quotes = "checked") -> DataProfile:
    """Look at the start of a data file; ``quotes`` is the manifest's ``data.quotes``.

    Raises ValueError when no text or label column can be made out, and where reading it would.
    """
    encoding = _encoding(path)
    table, complete, header = _read_start(path, quotes, encoding)
    if table.height == 0:
        raise InputError(f"{path}: has no rows")
    columns = _columns(path, table)
    counts = table[columns["label"]].drop_nulls().value_counts()["count"]
    words = table[columns["text"]].drop_nulls().str.split(" ").list.len()
    languages: dict[str, int] = {}
    if "language" in columns:
        counted = table[columns["language"]].drop_nulls().value_counts(sort=True)
        languages = dict(counted.head(9).iter_rows())
    return DataProfile(
        columns=columns,
        rows=table.height,
        complete=complete,
        header=header,
        quotes=quotes,
        encoding=encoding,
        categories=counts.len(),
        rare_categories=int((counts == 1).sum()),
        languages=languages,
        longest=int(words.quantile(0.99) or 1),
    )


def _encoding(path: Path) -> str:
    """The encoding of a file's text: ``auto`` where that reads it, else the one that it is likely in."""
    start = files.head(path, LOOK_BYTES)
    if encodings.marked_encoding(start) is not None or start.startswith(files.PARQUET):
        return encodings.AUTO
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return encodings.likely_encoding(start) or encodings.AUTO
    return encodings.AUTO


def _read_start(path: Path, quotes: Quotes, encoding: str) -> tuple[pl.DataFrame, bool, bool]:
    """The first rows, whether they are all, and whether their columns have names of their own."""
    kind = files.file_format(path)
    if kind == "parquet":
        try:
            table = pl.scan_parquet(path).head(LOOK_ROWS + 1).collect()
        except pl.exceptions.PolarsError as error:
            raise InputError(f"{path}: can't be read as parquet: {str(error).splitlines()[0]}") from error
        return table.head(LOOK_ROWS), table.height <= LOOK_ROWS, True
    if kind == "jsonl":
        return *_read_jsonl(path, encoding), True
    table, complete = _read_csv(path, kind, quotes, encoding, header=True)
    if _header_is_a_row(table):
        return *_read_csv(path, kind, quotes, encoding, header=False), False
    return table, complete, True


def _read_jsonl(path: Path, encoding: str) -> tuple[pl.DataFrame, bool]:
    source = files.Source(path=path, format="jsonl", columns={}, required=frozenset(), encoding=encoding)
    content = files.start_of(json_lines.as_lines(source, source.blocks())[1], LOOK_BYTES)
    cut = len(content) == LOOK_BYTES
    content = content[: content.rfind(b"\n") + 1] if cut else content
    try:
        table = pl.read_ndjson(io.BytesIO(content), infer_schema_length=1000, ignore_errors=True)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: can't be read as jsonl: {str(error).splitlines()[0]}") from error
    return table.head(LOOK_ROWS), not cut and table.height <= LOOK_ROWS


def _read_csv(path: Path, kind: str, quotes: Quotes, encoding: str, *, header: bool) -> tuple[pl.DataFrame, bool]:
    """The first rows as preprocess reads them, with its errors."""
    source = files.Source(
        path=path, format=kind, columns={}, required=frozenset(), header=header, quotes=quotes, encoding=encoding
    )
    names = csv_text.column_names(source, source.blocks())
    source = replace(source, columns={name: name for name in names if names.count(name) == 1})
    chunks: list[pl.DataFrame] = []
    pieces = csv_text.parse_jobs(source, source.blocks(), formats.CHUNK_BYTES)
    for piece in itertools.islice(pieces, LOOK_BYTES // formats.CHUNK_BYTES):
        chunks.append(piece().table)
        if sum(chunk.height for chunk in chunks) > LOOK_ROWS:
            break
    table = pl.concat(chunks) if chunks else pl.DataFrame(schema=dict.fromkeys(source.columns, pl.String))
    return table.head(LOOK_ROWS), table.height <= LOOK_ROWS and next(pieces, None) is None


def _header_is_a_row(table: pl.DataFrame) -> bool:
    """Whether what was read as a header is the first row: no name that we know, and a cell seen again below."""
    if any(_find_column(table.columns, names) for names in (TEXTS, LABELS, LANGUAGES)):
        return False
    return any((table[name] == name).any() for name in table.columns)


def _columns(path: Path, table: pl.DataFrame) -> dict[str, str]:
    """Which column is what: by its name, else by what it holds."""
    texts = [name for name, dtype in table.schema.items() if dtype == pl.String]
    flat = [name for name, dtype in table.schema.items() if not dtype.is_nested()]
    chosen = {"text": _find_column(texts, TEXTS), "label": _find_column(flat, LABELS)}
    language, quality = _find_column(texts, LANGUAGES), _find_column(texts, QUALITIES)
    remaining = [name for name in texts if name not in (*chosen.values(), language, quality)]
    if chosen["text"] is None and remaining:
        lengths = {name: float(table[name].str.len_chars().mean() or 0) for name in remaining}  # type: ignore[arg-type]
        longest = max(remaining, key=lambda name: lengths[name])
        chosen["text"] = longest
        remaining.remove(longest)
    if chosen["label"] is None:
        textual = [
            name for name in remaining if table[name].cast(pl.Float64, strict=False).null_count() > table.height // 2
        ]
        distinct = {name: table[name].n_unique() for name in textual}
        # A column of prices or keys has about as many values as rows; a short look at many categories may too.
        several = [name for name in textual if 2 <= distinct[name] < table.height]
        chosen["label"] = max(
            several, key=lambda name: (2 * distinct[name] <= table.height, distinct[name]), default=None
        ) or _numbered_categories(table, [name for name in flat if name not in (chosen["text"], language, quality)])
    columns = {ours: theirs for ours, theirs in chosen.items() if theirs is not None}
    if len(columns) < len(chosen):
        missing = " or ".join(name for name in chosen if name not in columns)
        raise InputError(f"{path}: no column looks like the {missing}; its columns are {', '.join(table.columns)}")
    return columns | {key: name for key, name in (("language", language), ("quality", quality)) if name is not None}


def _numbered_categories(table: pl.DataFrame, names: Sequence[str]) -> str | None:
    """The column of whole numbers that each stand for many rows: categories by number, as many data sets have them."""
    counts = {}
    for name in names:
        numbers = table[name].cast(pl.String).drop_nulls()
        distinct = numbers.n_unique()
        if 2 <= distinct <= table.height // _ROWS_PER_NUMBER and numbers.str.contains(_WHOLE_NUMBER).all():
            counts[name] = distinct
    return max(counts, key=lambda name: counts[name], default=None)


def _find_column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[name] for name in names if name in lower), None)


def starting_manifest(data: Path, target: Path, quotes: Quotes = "checked") -> str:
    """The text of a first manifest for a data file, with paths as ``target``'s folder sees them.

    Raises FileNotFoundError for a missing file, ValueError for one that can't be made sense of.
    """
    profile = profile_data(data, quotes)
    name = composed(data.name.split(".")[0])
    usual = Columns()
    template = jinja2.Template(  # nothing is escaped: it is YAML, and `_inline_yaml` quotes
        TEMPLATE.read_text(encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text: str = template.render(
        summary=_printable(_summary(data, profile)),
        target=target.name,
        name=name if name_problem(name) is None else safe_name(name) or "experiments",
        sources={key: _path(path, target) for key, path in (_parts(data) or {"source": data}).items()},
        profile=profile,
        columns={ours: theirs for ours, theirs in profile.columns.items() if getattr(usual, ours) != theirs},
        languages=list(profile.languages),
        max_length=max(8, profile.longest),
        inline_yaml=_inline_yaml,
        printable=_printable,
    )
    return text


def write_starting_manifest(data: Path, target: Path, quotes: Quotes = "checked") -> Path:
    """Write a first manifest; raises ValueError when there is a file of this name already."""
    text = starting_manifest(data, target, quotes)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{target}: exists already; name another file, or delete it first") from error
    return target


def _summary(data: Path, profile: DataProfile) -> str:
    rows = f"{profile.rows:,} rows" if profile.complete else f"the first {profile.rows:,} rows"
    text = f"{data.name}: {rows} have {profile.categories:,} categories"
    if profile.rare_categories:
        text += f", {profile.rare_categories:,} of them with a single row"
    if profile.languages:
        text += "; " + ", ".join(f"{name} {count:,}" for name, count in profile.languages.items())
    return text


def _printable(text: str) -> str:
    """A text for a comment, which it must not end."""
    return re.sub(r"[^\w\s.,;:()/+-]", "?", text).replace("\n", " ")


def _parts(data: Path) -> dict[str, Path]:
    """The three files of a split, where the one given is one of them: `x.train.jsonl.gz` and its like."""
    for part in SPLITS:
        if re.search(rf"(?<![a-z]){part}(?![a-z])", data.name):
            files_of = {other: data.with_name(data.name.replace(part, other, 1)) for other in SPLITS}
            return files_of if all(path.is_file() for path in files_of.values()) else {}
    return {}


def _path(path: Path, target: Path) -> str:
    return os.path.relpath(path.absolute(), target.absolute().parent).replace("$", "$$")


def _inline_yaml(value: str | dict[str, str]) -> str:
    """A value as YAML on one line, quoted where it has to be."""
    text: str = yaml.safe_dump(value, allow_unicode=True, width=10_000, default_flow_style=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
