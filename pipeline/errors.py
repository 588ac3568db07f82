"""`tanda errors`: the titles that a run is most sure of and wrong about, and where among the titles it errs."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from jobs.data.dataset import SAME_WORDS, SEEN, Dataset, Split, TitleFacts
from jobs.data.identity import DataFiles, DatasetDefinition, fingerprint
from jobs.stages.evaluate import target
from jobs.storage import Storage
from jobs.task import Task
from jobs.training.metrics import PREDICTIONS
from jobs.training.run import check_trained_on, read_trained_recipe
from sharedfs.errors import DamagedFileError, InputError
from sharedfs.files import open_plain

LENGTHS = (3, 6, 10)  # tokens: up to each of these, and more
WORST_CATEGORIES = 10
NO_LANGUAGE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongTitle:
    """A title that got another category than its own; ``choices`` are the most probable with their probabilities.

    ``place`` is the file and the row in it, from 1, where the data set says it; ``title`` is what stands there, or else
    its tokens.
    """

    title: str
    place: str | None
    label: str
    choices: tuple[tuple[str, float], ...]
    language: str | None
    reliable: bool
    seen: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Some of the titles, and how many of them are wrong."""

    by: str
    value: str
    titles: int
    wrong: int

    @property
    def error(self) -> float:
        return self.wrong / self.titles


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Of one split: the wrong titles that the run was most sure of, and the slices."""

    split: str
    titles: int
    wrong: int
    worst: tuple[WrongTitle, ...]
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    label: NDArray[np.int64]
    top: NDArray[np.int64]  # (N, k)
    probability: NDArray[np.float64]  # (N, k)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        return np.asarray(self.top[:, 0] != self.label)


def find_errors(run: Path, *, split: str = "test", count: int = 20) -> Errors:
    """What a run gets wrong; ``run`` is its folder, or that of its evaluation.

    Raises InputError for a run without an evaluation, or with one that an earlier version made.
    """
    run = run.resolve()
    storage = Storage(run.parent.parent)
    evaluation = _evaluation_of(storage, run)
    trained = target(storage, Task.read(evaluation))
    dataset = Dataset.open(storage.dataset(read_trained_recipe(trained).dataset))
    check_trained_on(trained, dataset)
    return errors_of(storage, dataset, evaluation, split=split, count=count)


def errors_of(
    storage: Storage, dataset: Dataset, evaluation: Path, *, split: str = "test", count: int, from_files: bool = True
) -> Errors:
    """What an evaluation on a data set gets wrong; unless ``from_files`` titles are shown by their tokens alone.

    Raises InputError for an evaluation that an earlier version made, or of another data set, and for a damaged one.
    """
    answers, titles, facts = _answers(evaluation, split), dataset.splits[split], dataset.facts(split)
    if len(answers.label) != len(titles):
        raise InputError(
            f"{evaluation}: an evaluation of {len(answers.label)} titles, not of the {len(titles)} there are"
        )
    sure = np.flatnonzero(answers.wrong)
    sure = sure[np.argsort(-answers.probability[sure, 0], kind="stable")][:count]
    return Errors(
        split=split,
        titles=len(titles),
        wrong=int(answers.wrong.sum()),
        worst=tuple(_describe(storage, dataset, titles, facts, answers, sure, from_files)),
        slices=tuple(_slices(dataset, titles, facts, answers)),
    )


def _evaluation_of(storage: Storage, run: Path) -> Path:
    if (run / PREDICTIONS).exists():
        return run
    try:
        dataset = Task.read(run).settings.get("dataset")
    except FileNotFoundError as error:
        raise InputError(f"{run}: not a run's folder: give STORAGE/runs/ID") from error
    if isinstance(dataset, str):
        usual = Task(stage="evaluate", settings={"train": run.name}, needs=(dataset, run.name))
        if (storage.run(usual.id) / PREDICTIONS).exists():
            return storage.run(usual.id)
    for path in sorted(storage.runs.glob(f"*/{PREDICTIONS}")):  # of a search's winner, or with metrics of a plugin
        if target(storage, Task.read(path.parent)) == run:
            return path.parent
    raise InputError(f"{run}: has no evaluation: `tanda submit` makes it")


def _answers(evaluation: Path, split: str) -> _Answers:
    try:
        # Opened here: numpy leaves a file open that is no archive.
        with open_plain(evaluation / PREDICTIONS) as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name.startswith(f"{split}_")}
    except (ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise DamagedFileError(f"{evaluation / PREDICTIONS}: damaged, evaluate the run again: {error}") from error
    if f"{split}_top" not in arrays:
        raise InputError(
            f"{evaluation}: an earlier version evaluated it and kept no probabilities: "
            "`tanda submit MANIFEST --rerun changed` evaluates it again, without training"
        )
    return _Answers(
        label=arrays[f"{split}_label"].astype(np.int64),
        top=arrays[f"{split}_top"].astype(np.int64),
        probability=arrays[f"{split}_probability"].astype(np.float64),
    )


def _describe(
    storage: Storage,
    dataset: Dataset,
    titles: Split,
    facts: TitleFacts | None,
    answers: _Answers,
    chosen: NDArray[np.int64],
    from_files: bool,
) -> Iterable[WrongTitle]:
    places: Mapping[int, tuple[Path, int]] = {}
    texts: Mapping[int, str] = {}
    if facts is not None:
        places = places_of(storage, dataset, titles.name, facts, chosen)
        texts = _texts(dataset.meta.settings, titles.name, facts, places) if from_files else {}
    names, classes = dataset.vocabulary, dataset.classes
    for at in chosen.tolist():
        tokens = titles.tokens[titles.offsets[at] : titles.offsets[at + 1]]
        place = places.get(at)
        yield WrongTitle(
            title=texts.get(at) or " ".join(names[token] for token in tokens),
            place=None if place is None else f"{place[0]}: row {place[1] + 1}",
            label=classes[answers.label[at]],
            choices=tuple(
                (classes[category], float(chance))
                for category, chance in zip(answers.top[at], answers.probability[at], strict=True)
            ),
            language=None if facts is None else facts.names[facts.languages[at]] or None,
            reliable=bool(titles.reliable[at]),
            seen=None if facts is None else bool(facts.seen[at] & SEEN),
        )


def _part(definition: DatasetDefinition, split: str) -> str:
    return "source" if "source" in definition.sources else split


def places_of(
    storage: Storage, dataset: Dataset, split: str, facts: TitleFacts, chosen: NDArray[np.int64]
) -> dict[int, tuple[Path, int]]:
    """The file and the row of each title; none where nothing says any more where the data set's files are."""
    try:
        where = Task.read(storage.run(dataset.folder.name)).plumbing_as(DataFiles)
    except FileNotFoundError:
        return {}
    paths = where.files[_part(dataset.meta.settings, split)]
    return {at: (Path(paths[facts.files[at]]), int(facts.rows[at])) for at in chosen.tolist()}


def _texts(
    definition: DatasetDefinition, split: str, facts: TitleFacts, places: Mapping[int, tuple[Path, int]]
) -> dict[int, str]:
    """The titles as they stand in their files; none of a file that is gone, or has changed since."""
    from jobs.data.formats import parse_jobs
    from jobs.data.shard_store import source_of

    part = _part(definition, split)
    texts: dict[int, str] = {}
    by_file: dict[int, dict[int, int]] = {}
    for at, (_, row) in places.items():
        by_file.setdefault(int(facts.files[at]), {})[row] = at
    for number, rows in by_file.items():
        path = places[next(iter(rows.values()))][0]
        if not path.exists() or fingerprint(path) != definition.sources[part][number].fingerprint:
            continue
        begin = 0
        for parse in parse_jobs(source_of(definition, path, part, number), lambda _: None):
            chunk = parse()
            positions = range(len(chunk.table)) if chunk.positions is None else chunk.positions
            for position, value in zip(positions, chunk.table.to_series(0).to_list(), strict=True):
                if (at := rows.get(begin + position, -1)) >= 0:
                    texts[at] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            begin += len(chunk.table) + sum(chunk.dropped.values())
            if begin > max(rows):
                break
    return texts


def _slices(dataset: Dataset, titles: Split, facts: TitleFacts | None, answers: _Answers) -> Iterable[Slice]:
    """By language, length, reliability, what training has; then the categories with the most wrong titles."""
    wrong, lengths = answers.wrong, titles.lengths

    def slices(by: str, masks: Mapping[str, NDArray[np.bool_]]) -> list[Slice]:
        made = [
            Slice(by=by, value=value, titles=int(mask.sum()), wrong=int((mask & wrong).sum()))
            for value, mask in masks.items()
        ]
        return [one for one in made if one.titles]

    if facts is not None:
        seen = (facts.seen & SEEN) > 0
        words = ((facts.seen & SAME_WORDS) > 0) & ~seen
        yield from slices("training has it", {"yes": seen, "in another order": words, "no": ~seen & ~words})
        named = {name or NO_LANGUAGE: np.asarray(facts.languages == at) for at, name in enumerate(facts.names)}
        yield from slices("language", named if len(named) > 1 else {})
    bounds = (0, *LENGTHS, int(lengths.max(initial=0)) + 1)
    yield from slices(
        "tokens",
        {
            f"{low + 1}–{high}" if high in LENGTHS else f"> {low}": (lengths > low) & (lengths <= high)
            for low, high in itertools.pairwise(bounds)
        },
    )
    marked = {"reliable": titles.reliable != 0, "unreliable": titles.reliable == 0}
    yield from slices("label", marked if (titles.reliable == 0).any() else {})
    count = np.bincount(answers.label[wrong], minlength=len(dataset.classes))
    worst = np.argsort(-count, kind="stable")[:WORST_CATEGORIES].tolist()
    yield from slices("category", {dataset.classes[at]: answers.label == at for at in worst if count[at]})


def print_errors(errors: Errors, console: Console) -> None:
    """The slices and the worst titles for people."""
    console.print(f"{errors.wrong:,} of {errors.titles:,} {errors.split} titles are wrong")
    print_table(
        console,
        ("titles by", "which", "titles", "wrong", "share wrong"),
        ((one.by, one.value, str(one.titles), str(one.wrong), f"{one.error:.3f}") for one in errors.slices),
    )
    print_table(
        console,
        ("title", "category", "taken for", "probability", "place"),
        (
            (worst.title, worst.label, worst.choices[0][0], f"{worst.choices[0][1]:.3f}", worst.place or "-")
            for worst in errors.worst
        ),
    )


def print_table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of texts as they stand."""
    from rich.text import Text

    table = Table()
    for name in columns:
        table.add_column(name)
    plain: Callable[[str], Text] = Text  # what people wrote is no markup
    for row in rows:
        table.add_row(*map(plain, row))
    console.print(table)
