"""`tanda predict`: new titles from a file or standard input, and a line of answers for each."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.data import encodings, files
from jobs.data.identity import DatasetDefinition
from jobs.storage import Storage
from pipeline.manifest.plugins import with_plugins
from sharedfs.errors import InputError

if TYPE_CHECKING:
    from jobs.predict import Choice

# What ends a line somewhere or a field here: a space in its place keeps one line a title, and its fields apart.
_BREAK = re.compile(r"[\0-\x1f\x7f\x85\u2028\u2029]")


def print_answers(
    run: Path, file: Path | None, *, plugins: Sequence[Path], top: int, json: bool, column: str | None
) -> None:
    """Print each title's most probable categories, in the order of the titles, as soon as they are known.

    Raises InputError for a folder without a trained model, and for a file that has rows which cannot be read.
    """
    from jobs.predict import definition_of, predict

    storage = run.resolve().parent.parent
    lines: list[str] = []  # those of which the answers are awaited

    def remembered(titles: Iterable[str]) -> Iterator[str]:
        for title in titles:
            lines.append(title)
            yield title

    titles = new_titles(file, definition_of(storage, run), column)
    answers = with_plugins(Storage(storage), plugins, lambda: predict(storage, run, remembered(titles), top=top))
    for choices in answers:
        title = lines.pop(0)
        print(_json(title, choices) if json else _tabbed(title, choices), flush=file is None)


def _tabbed(title: str, choices: Sequence[Choice]) -> str:
    fields = [field for choice in choices for field in (choice.category, f"{choice.probability:.3f}")]
    return "\t".join(_BREAK.sub(" ", field) for field in (*fields, title))


def _json(title: str, choices: Sequence[Choice]) -> str:
    import orjson

    top = [{"category": choice.category, "probability": choice.probability} for choice in choices]
    document = orjson.dumps({"title": title, "categories": top}).decode()
    return _BREAK.sub(lambda character: f"\\u{ord(character[0]):04x}", document)


def new_titles(file: Path | None, definition: DatasetDefinition, column: str | None) -> Iterator[str]:
    """The titles of a file: the rows of one that is named as training's are, else its lines; standard input's lines.

    What is not UTF-8 in lines becomes U+FFFD, and a last word on standard error counts them.
    """
    format_ = None if file is None else files.format_by_name(file)
    if file is not None and format_ is not None:
        return _rows(file, format_, definition, column)
    stream = (
        sys.stdin.buffer if file is None else _lines(encodings.to_utf8(file, files.blocks(file), "auto", replace=True))
    )
    return _decoded(str(file or "standard input"), stream)


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines as ``wc -l`` counts them, and what follows the last line feed."""
    pending = b""
    for block in blocks:
        *lines, pending = (pending + block).split(b"\n")
        yield from lines
    if pending:
        yield pending


def _decoded(name: str, lines: Iterable[bytes]) -> Iterator[str]:
    broken, first = 0, 0
    for number, line in enumerate(lines, start=1):
        title = line.removesuffix(b"\n").removesuffix(b"\r")
        title = title.removeprefix(encodings.BOM) if number == 1 else title
        try:
            yield title.decode()
        except UnicodeDecodeError:
            broken, first = broken + 1, first or number
            yield title.decode("utf-8", "replace")
    if broken:
        print(
            f"tanda: {name}:{first}: not UTF-8: {broken} title{'s' * (broken > 1)} with U+FFFD for what can't be read",
            file=sys.stderr,
        )


def _rows(file: Path, format_: str, definition: DatasetDefinition, column: str | None) -> Iterator[str]:
    """The titles of a table, read as the run's own data was; a row that cannot be read would shift all that follow."""
    from jobs.data.formats import parse_jobs

    ours = "text" if definition.columns.tokens is None else "tokens"
    theirs = column or (definition.columns.text if definition.columns.tokens is None else definition.columns.tokens)
    source = files.Source(
        path=file,
        format=format_,
        columns={ours: theirs},
        required=frozenset({ours}),
        header=definition.header,
        quotes=definition.quotes,
        encoding=definition.encoding,
        replace_bytes=True,
    )
    for parse in parse_jobs(source, lambda _: None):
        chunk = parse()
        if chunk.dropped:
            causes = ", ".join(f"{cause} {count}" for cause, count in chunk.dropped.items())
            raise InputError(f"{file}: rows that can't be read: {causes}; a title a line in a .txt needs no format")
        for value in chunk.table[ours].to_list():
            yield " ".join(token or "" for token in value) if isinstance(value, list) else value or ""
