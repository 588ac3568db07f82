"""What the data of a group's runs is: where every row went, and what training shares with validation and test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jobs.data.dataset import Dataset
from jobs.data.identity import DataFiles
from jobs.data.meta import Account, Meta
from jobs.data.settings import BEYOND, SPLITS
from jobs.storage import Storage
from jobs.task import Task
from pipeline.report.collect import Collected
from pipeline.report.groups import Entry, Group
from pipeline.report.i18n import SPLIT_WORDS, Messages
from pipeline.report.table import EMPTY, Cell, Column, Table, number

ORDER = 6
_NUMBERS = (
    "rows read", "rows dropped", "titles", "categories", "fewest titles", "most titles", "unreliable labels",
    "in training too", "same words", "under another label",
)  # fmt: skip
DIGEST = 23  # characters of a file's digest that are shown


def build(group: Group, collected: Collected, messages: Messages) -> Table | None:
    rows: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for dataset in _datasets(group.entries, collected):
        rows += _rows(dataset)
        notes += _notes(dataset, collected.storage, messages)
    if not rows:
        return None
    return Table(
        name="data",
        group=group.name,
        title=f"{group.name}: {messages('data').lower()}",
        columns=(
            Column(key="data_set", title=messages("data set"), number=False),
            Column(key="part", title=messages("part"), number=False),
            *(Column(key=name.replace(" ", "_"), title=messages(name)) for name in _NUMBERS),
        ),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _datasets(entries: Sequence[Entry], collected: Collected) -> Iterator[Dataset]:
    """The data sets of these runs that are there; an earlier version's do not say what these tables are about."""
    for name in dict.fromkeys(entry.first.row.dataset for entry in entries):
        try:
            dataset = Dataset.open(collected.storage.dataset(name))
        except (OSError, ValueError):  # not made yet, or damaged: its own task's row says so
            continue
        if dataset.meta.statement:
            yield dataset


def _rows(dataset: Dataset) -> Iterable[tuple[Cell, ...]]:
    meta = dataset.meta
    if "source" in meta.parts:
        account = meta.parts["source"]
        counts = [number(account.read, 0), number(sum(account.dropped.values()), 0)]
        yield (Cell(dataset.folder.name[:8]), Cell("source"), *counts, *[EMPTY] * (len(_NUMBERS) - len(counts)))
    for split in SPLITS:
        yield Cell(dataset.folder.name[:8]), Cell(SPLIT_WORDS[split]), *_cells(meta, split)


def _cells(meta: Meta, split: str) -> list[Cell]:
    account, statement, overlap = meta.parts.get(split), meta.statement[split], meta.overlap.get(split)
    present = [count for count in statement.supports if count]
    rows = meta.splits[split].rows
    return [
        number(None if account is None else account.read, 0),
        number(None if account is None else sum(account.dropped.values()), 0),
        number(rows, 0),
        Cell(f"{len(present)} / {len(statement.supports)}", len(present)),
        number(min(present, default=0), 0),
        number(max(present, default=0), 0),
        _share(statement.unreliable, rows),
        *(
            (EMPTY,) * 3
            if overlap is None
            else (_share(count, rows) for count in (overlap.exact, overlap.same_words, overlap.other_label))
        ),
    ]


def _share(count: int, rows: int) -> Cell:
    return Cell(f"{count} ({count / rows:.1%})" if count and rows else str(count), count)


def _notes(dataset: Dataset, storage: Storage, messages: Messages) -> Iterable[str]:
    meta, name = dataset.meta, dataset.folder.name[:8]
    for part, account in meta.parts.items():
        if causes := _causes(account):
            yield f"{name}, {part}: {messages('note dropped', causes=causes)}"
        if account.with_replaced_bytes:
            yield f"{name}, {part}: {messages('note replaced', count=account.with_replaced_bytes)}"
    for split, statement in meta.statement.items():
        if len(statement.languages) > 1 or "" not in statement.languages:
            counts = ", ".join(f"{language or '–'} {count}" for language, count in statement.languages.items())
            yield f"{name}, {SPLIT_WORDS[split]}: {messages('note languages', counts=counts)}"
        quartiles = ", ".join(map(str, statement.lengths))
        yield f"{name}, {SPLIT_WORDS[split]}: {messages('note lengths', quartiles=quartiles)}"
        if statement.fingerprint is not None:
            yield f"{name}, {SPLIT_WORDS[split]}: {messages('note fingerprint', fingerprint=statement.fingerprint)}"
    if meta.vectors.types_share is not None:
        types, tokens = f"{meta.vectors.types_share:.1%}", f"{meta.vectors.tokens_share:.1%}"
        key = "note vectors made" if meta.vectors.fingerprint is None else "note vectors"
        yield f"{name}: {messages(key, types=types, tokens=tokens)}"
    for names in meta.alike:
        yield f"{name}: {messages('note alike', names=', '.join(names))}"
    for part, path, fingerprint in _sources(dataset, storage):
        yield f"{name}, {part}: {path} {fingerprint[:DIGEST]}"


def dropped_notes(entries: Sequence[Entry], collected: Collected, messages: Messages) -> list[str]:
    """How many test rows are in no score, and why; of a source, which is split after most causes, how many of all."""
    notes: dict[str, None] = {}
    for dataset in _datasets(entries, collected):
        for part, word in (("test", SPLIT_WORDS["test"]), ("source", "source")):
            account = dataset.meta.parts.get(part)
            if account is None:
                continue
            causes = {cause: count for cause, count in account.dropped.items() if cause != BEYOND}
            if causes:
                dropped, text = sum(causes.values()), ", ".join(f"{cause} {count}" for cause, count in causes.items())
                said = messages(
                    "note dropped titles", part=messages.name(word), dropped=dropped, read=account.read, causes=text
                )
                notes[said] = None
    return list(notes)


def _causes(account: Account) -> str:
    return ", ".join(f"{cause} {count}" for cause, count in account.dropped.items())


def _sources(dataset: Dataset, storage: Storage) -> Iterator[tuple[str, str, str]]:
    try:
        where = Task.read(storage.run(dataset.folder.name)).plumbing_as(DataFiles).files
    except (OSError, ValueError):  # its task's folder is gone or of another version: the digests are still told
        where = {}
    for part, files in dataset.meta.settings.sources.items():
        for at, file in enumerate(files):
            paths = where.get(part, ())
            yield part, Path(paths[at]).name if at < len(paths) else "–", file.fingerprint
