"""What a data set is: its settings, with what is in its files and not where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jobs.data import DATASET_FORMAT, files, pretrained
from jobs.data.settings import (
    SPLITS,
    UNLABELLED,
    Data,
    Embeddings,
    Paths,
    Preprocessing,
    Split,
    TrainedVectors,
    Vocabulary,
)
from jobs.settings import deciding
from sharedfs.errors import InputError
from sharedfs.typed_json import Json

WHOLE_BYTES = 64 << 20
SAMPLED_BLOCKS = 1024
BLOCK_BYTES = 64 << 10
SOURCES = (*SPLITS, "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A data file: its format and a digest of its content."""

    format: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSource:
    """How many numbers a word vector has, and where they are from: a file, by its digest, or the titles, or neither.

    With an encoder, by the digest of its files, there are no words: the size is 0.
    """

    size: int
    fingerprint: str | None
    train: TrainedVectors | None = None
    encoder: str | None = None

    @property
    def is_random(self) -> bool:
        """Whether they are a random start."""
        return self.fingerprint is None and self.train is None


@dataclass(frozen=True, kw_only=True)
class DatasetDefinition(Preprocessing):
    """What decides a data set's content, as its preprocess task and its meta.json store it; ``sources`` by part."""

    sources: Mapping[str, tuple[SourceFile, ...]]
    embeddings: VectorSource
    dataset_format: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFiles:
    """Where a data set's files are, by part, its word vectors' and its encoder's: its preprocess task's plumbing."""

    files: Mapping[str, tuple[str, ...]]
    embeddings: str | None
    encoder: str | None = None


def identify(data: Data) -> tuple[dict[str, Json], dict[str, Json]]:
    """The settings that decide a data set's content, and the plumbing that says where its files are.

    They are the documents of a ``DatasetDefinition`` and of ``DataFiles``. Reads at most 64 MiB of each file.
    Raises FileNotFoundError for a missing file, ValueError for one whose format is not known.
    """
    if data.encoder is not None:
        # What makes or counts words makes no tokens of an encoder: data sets that differ in nothing else are one.
        text = replace(data.text, word_ngrams=1, character_ngrams=None, subwords=None)
        data = replace(data, text=text, vocabulary=Vocabulary(), embeddings=Embeddings())
    settings: dict[str, Json] = {**deciding(data)}
    if data.source is not None and data.split is None:
        settings["split"] = deciding(Split())
    absolute: dict[str, tuple[str, ...]] = {}
    sources: dict[str, list[dict[str, str]]] = {}

    def add(part: str, name: Paths, setting: str) -> None:
        if name is not None:
            paths = files.find_files(name, setting)
            absolute[part] = tuple(map(str, paths))
            sources[part] = [asdict(_describe(path, data.format)) for path in paths]

    for part in SOURCES:
        add(part, getattr(data, part), part)
    if not data.same_file:
        _check_different(absolute, sources)
    vectors: dict[str, Json] = {"size": data.embeddings.size, "fingerprint": None}
    file = None
    if data.embeddings.file is not None:
        file = files.find_files(data.embeddings.file, "embeddings.file")[0]
        vectors["fingerprint"] = fingerprint(file)
    if data.embeddings.train is not None:
        vectors["train"] = deciding(data.embeddings.train)
        # It may be a file of another part: titles of validation and test are left out by what they say.
        add(UNLABELLED, data.embeddings.train.unlabelled, "embeddings.train.unlabelled")
    if data.encoder is not None:
        vectors |= {"size": 0, "encoder": pretrained.check(Path(data.encoder), data.max_length)}
    where = DataFiles(files=absolute, embeddings=None if file is None else str(file), encoder=data.encoder)
    settings |= {"sources": sources, "embeddings": vectors, "dataset_format": DATASET_FORMAT}
    return settings, asdict(where)


def _check_different(paths: Mapping[str, Sequence[str]], sources: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Raise InputError where two parts have a file in common: what is scored would be what was learnt."""
    first: dict[str, tuple[str, str]] = {}
    for part, files_of in sources.items():
        for path, file in zip(paths[part], files_of, strict=True):
            other, same = first.setdefault(file["fingerprint"], (part, path))
            if other != part:
                raise InputError(
                    f"data.{part}: {path} has the content of data.{other}'s {same}: name another file, or set "
                    "data.same_file: true if that is meant"
                )


def _describe(path: Path, format_: str) -> SourceFile:
    return SourceFile(format=files.file_format(path, format_), fingerprint=fingerprint(path))


def fingerprint(path: Path) -> str:
    """A file's content as a digest: of all of it up to 64 MiB, else of its size and 1024 blocks spread evenly.

    A change inside a large file that keeps its size may go unseen between blocks; any rewritten compressed
    file differs nearly everywhere.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest = hashlib.sha256(str(size).encode())
        for number in range(SAMPLED_BLOCKS):
            file.seek(number * (size - BLOCK_BYTES) // (SAMPLED_BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return f"sampled:{digest.hexdigest()}"


def check_unchanged(path: Path, planned: str) -> None:
    """Raise InputError unless a file has the fingerprint that it was planned with: the task's id is made of that.

    Nor does a task then read another file that somebody has put into its task.json, which is nobody's alone.
    """
    if fingerprint(path) != planned:
        raise InputError(f"{path}: changed since the manifest was submitted: submit it again")
