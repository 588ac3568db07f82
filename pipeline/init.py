"""A starting manifest from a data file: its columns, languages, categories and sizes looked at, not asked for."""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jobs.data import files
from jobs.data.files import Quotes
from jobs.data.settings import SPLITS, Columns
from jobs.errors import InputError
from pipeline.manifest.validation import name_problem

if TYPE_CHECKING:
    import polars as pl

LOOK_BYTES = 32 << 20
LOOK_ROWS = 200_000
TEXTS = ("title", "titulo", "título", "text", "texto", "nombre", "name", "product_name", "product", "producto")
LABELS = ("category", "categoria", "categoría", "label", "class", "clase", "aisle", "department", "target")
LANGUAGES = ("language", "lang", "idioma")
QUALITIES = ("label_quality", "quality")
_UNSAFE = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataProfile:
    """What a data file was seen to hold; counts are of the rows looked at."""

    columns: dict[str, str]
    rows: int
    whole: bool  # all of the file was looked at
    header: bool  # csv and tsv: whether the first line names the columns; if not, they are called 1, 2, ...
    quotes: Quotes
    categories: int
    rare_categories: int  # with a single row: they can't be split
    languages: dict[str, int]  # rows by language, the most frequent first
    longest: int  # words of the longest title but for one in a hundred


def profile_data(path: Path, quotes: Quotes = "checked") -> DataProfile:
    """Look at the start of a data file; ``quotes`` is what ``data.quotes`` says.

    Raises ValueError when no text or label column can be made out, and where reading it would.
    """
    table, whole, header = _start(path, quotes)
    if table.height == 0:
        raise InputError(f"{path}: has no rows")
    columns = _columns(path, table)
    counts = table[columns["label"]].drop_nulls().value_counts()["count"]
    words = table[columns["text"]].drop_nulls().str.split(" ").list.len()
    languages: dict[str, int] = {}
    if "language" in columns:
        found = table[columns["language"]].drop_nulls().value_counts(sort=True)
        languages = dict(found.head(9).iter_rows())
    return DataProfile(
        columns=columns,
        rows=table.height,
        whole=whole,
        header=header,
        quotes=quotes,
        categories=counts.len(),
        rare_categories=int((counts == 1).sum()),
        languages=languages,
        longest=int(words.quantile(0.99) or 1),
    )


def _start(path: Path, quotes: Quotes) -> tuple[pl.DataFrame, bool, bool]:
    """The first rows, whether they are all, and whether their columns have names of their own."""
    import polars as pl

    kind = files.file_format(path)
    if kind == "parquet":
        table = pl.scan_parquet(path).head(LOOK_ROWS + 1).collect()
        return table.head(LOOK_ROWS), table.height <= LOOK_ROWS, True
    if kind == "jsonl":
        return *_read_jsonl(path), True
    table, whole = _read_csv(path, kind, quotes, header=True)
    if _is_a_row(table):
        return *_read_csv(path, kind, quotes, header=False), False
    return table, whole, True


def _read_jsonl(path: Path) -> tuple[pl.DataFrame, bool]:
    import polars as pl

    from jobs.data import files

    content = files.head(path, LOOK_BYTES)
    cut = len(content) == LOOK_BYTES
    content = content[: content.rfind(b"\n") + 1] if cut else content
    try:
        table = pl.read_ndjson(io.BytesIO(content), infer_schema_length=1000, ignore_errors=True)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: can't be read as jsonl: {str(error).splitlines()[0]}") from error
    return table.head(LOOK_ROWS), not cut and table.height <= LOOK_ROWS


def _read_csv(path: Path, kind: str, quotes: Quotes, *, header: bool) -> tuple[pl.DataFrame, bool]:
    """The first rows as preprocess reads them, with its errors."""
    import polars as pl

    from jobs.data import csv_text, files, formats

    source = files.Source(path=path, format=kind, columns={}, required=frozenset(), header=header, quotes=quotes)
    names = csv_text.column_names(source, files.blocks(path))
    source = replace(source, columns={name: name for name in names})
    chunks: list[pl.DataFrame] = []
    pieces = csv_text.parse_jobs(source, files.blocks(path), formats.CHUNK_BYTES)
    for piece in itertools.islice(pieces, LOOK_BYTES // formats.CHUNK_BYTES):
        chunks.append(piece().table)
        if sum(chunk.height for chunk in chunks) > LOOK_ROWS:
            break
    table = pl.concat(chunks) if chunks else pl.DataFrame(schema=dict.fromkeys(source.columns, pl.String))
    return table.head(LOOK_ROWS), table.height <= LOOK_ROWS and next(pieces, None) is None


def _is_a_row(table: pl.DataFrame) -> bool:
    """Whether what was read as a header is the first row: no name that we know, and a cell seen again below."""
    if any(_named(table.columns, names) for names in (TEXTS, LABELS, LANGUAGES)):
        return False
    return any((table[name] == name).any() for name in table.columns)


def _columns(path: Path, table: pl.DataFrame) -> dict[str, str]:
    """Which column is what: by its name, else by what it holds."""
    import polars as pl

    texts = [name for name, dtype in table.schema.items() if dtype == pl.String]
    found = {"text": _named(texts, TEXTS), "label": _named(texts, LABELS)}
    language, quality = _named(texts, LANGUAGES), _named(texts, QUALITIES)
    left = [name for name in texts if name not in (*found.values(), language, quality)]
    if found["text"] is None and left:
        lengths = {name: float(table[name].str.len_chars().mean() or 0) for name in left}  # type: ignore[arg-type]
        longest = max(left, key=lambda name: lengths[name])
        found["text"] = longest
        left.remove(longest)
    if found["label"] is None:
        words = [name for name in left if table[name].cast(pl.Float64, strict=False).null_count() > table.height // 2]
        kinds = {name: table[name].n_unique() for name in words}
        # A column of prices or keys has about as many values as rows; a short look at many categories may too.
        several = [name for name in words if 2 <= kinds[name] < table.height]
        found["label"] = max(several, key=lambda name: (2 * kinds[name] <= table.height, kinds[name]), default=None)
    columns = {ours: theirs for ours, theirs in found.items() if theirs is not None}
    if len(columns) < len(found):
        missing = " or ".join(name for name in found if name not in columns)
        raise InputError(f"{path}: no column looks like the {missing}; its columns are {', '.join(table.columns)}")
    return columns | {key: name for key, name in (("language", language), ("quality", quality)) if name is not None}


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[name] for name in names if name in lower), None)


def starting_manifest(data: Path, target: Path, quotes: Quotes = "checked") -> str:
    """The text of a first manifest for a data file, with paths as ``target``'s folder sees them.

    Raises FileNotFoundError for a missing file, ValueError for one that can't be made sense of.
    """
    seen = profile_data(data, quotes)
    name = data.name.split(".")[0]
    name = name if name_problem(name) is None else _UNSAFE.sub("-", name).strip("-.") or "experiments"
    lines = [
        f"# {_words(data, seen)}",
        f"#   tanda plan {target.name}      what would run",
        f"#   tanda run {target.name}       run it here, then report",
        f"name: {_scalar(name)}",
        "storage: storage",
        "",
        "data:",
        *(f"  {line}" for line in _data(data, target, seen)),
        "",
        "defaults: {dropout: 0.2, learning_rate: 2e-3, epochs: 5, batch_size: 128, freeze_embeddings: false}",
        "",
        "experiments:                    # each group is a table of the report",
        "  baseline:",
        "    runs:",
        "      linear: {architecture: linear}      # what a network has to beat",
        "      MLP: {architecture: mlp, hidden_layers: [128]}",
        f"      CNN: {{architecture: cnn, filters_count: 100, filters_length: [{_lengths(seen)}]}}",
        "      RNN: {architecture: rnn, lstm_features: 128}",
        "",
        "# searches:                     # tanda submit with --only mlp queues this one alone",
        "#   mlp:",
        "#     architecture: mlp",
        "#     trials: 20",
        "#     parallel: 4",
        "#     space:",
        "#       dropout: {uniform: [0, 0.5]}",
        "#       learning_rate: {loguniform: [1e-4, 1e-2]}",
        "",
        "# resources:                    # what a task is given; a cluster profile may say it too",
        "#   train: {gpus: 1, cpus: 4, mem_gb: 16, time_min: 240}",
    ]
    return "\n".join(lines) + "\n"


def write_starting_manifest(data: Path, target: Path, quotes: Quotes = "checked") -> Path:
    """Write a first manifest; raises ValueError when there is a file of this name already."""
    text = starting_manifest(data, target, quotes)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{target}: is there already; name another file, or delete it first") from error
    return target


def _words(data: Path, seen: DataProfile) -> str:
    rows = f"{seen.rows:,} rows" if seen.whole else f"the first {seen.rows:,} rows"
    words = f"{data.name}: {rows} have {seen.categories:,} categories"
    if seen.rare_categories:
        words += f", {seen.rare_categories:,} of them with a single row"
    if seen.languages:
        words += "; " + ", ".join(f"{name} {count:,}" for name, count in seen.languages.items())
    return re.sub(r"[^\w\s.,;:()/+-]", "?", words).replace("\n", " ")


def _data(data: Path, target: Path, seen: DataProfile) -> list[str]:
    parts = _parts(data)
    if parts:
        lines = [f"{part}: {_path(path, target)}" for part, path in parts.items()]
    else:
        lines = [f"source: {_path(data, target)}", "split: {validation: 0.15, test: 0.15, seed: 0}   # stratified"]
    if not seen.header:
        lines.append("header: false                   # the columns are called 1, 2, ...")
    if seen.quotes != "checked":
        lines.append(f"quotes: {seen.quotes}")
    usual = Columns()
    given = {ours: theirs for ours, theirs in seen.columns.items() if getattr(usual, ours) != theirs}
    if given:
        lines.append("columns: {" + ", ".join(f"{ours}: {_scalar(theirs)}" for ours, theirs in given.items()) + "}")
    if len(seen.languages) > 1:
        lines.append(f"language: {_scalar(next(iter(seen.languages)))}   # or {', '.join(list(seen.languages)[1:4])}")
    if seen.rare_categories and not parts:
        lines.append("min_rows_per_category: 10   # rarer ones can't be learnt, nor measured")
    lines.append("vocabulary: {min_count: 2, max_size: 50000}")
    lines.append(f"max_length: {max(8, seen.longest)}")
    lines.append("embeddings: {size: 100}         # file: vectors in word2vec's or GloVe's format, if there are any")
    return lines


def _parts(data: Path) -> dict[str, Path]:
    """The three files of a split, where the one given is one of them: `x.train.jsonl.gz` and its like."""
    for part in SPLITS:
        if re.search(rf"(?<![a-z]){part}(?![a-z])", data.name):
            named = {other: data.with_name(data.name.replace(part, other, 1)) for other in SPLITS}
            return named if all(path.is_file() for path in named.values()) else {}
    return {}


def _path(path: Path, target: Path) -> str:
    relative = os.path.relpath(path.absolute(), target.absolute().parent)
    return _scalar(relative.replace("$", "$$"))


def _scalar(value: Any) -> str:
    """A text as YAML on one line, quoted where it has to be."""
    text: str = yaml.safe_dump(value, allow_unicode=True, width=10_000, default_flow_style=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _lengths(seen: DataProfile) -> str:
    return ", ".join(str(length) for length in (1, 2, 3) if length <= max(8, seen.longest))
