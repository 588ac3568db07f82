"""What a report reads from storage: records, epochs, evaluations, data sets."""

from __future__ import annotations

import io
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypedDict, cast
from zipfile import BadZipFile, ZipFile

import numpy as np
import orjson
from numpy.lib import format as npy

from jobs.data.settings import Data
from jobs.settings import Value, shown, values
from jobs.training.metrics import EVALUATION, PREDICTIONS
from jobs.training.run import read_trained_recipe
from pipeline.manifest.model import Manifest
from pipeline.plan import Row
from sharedfs.errors import DamagedFileError
from sharedfs.files import read_plain
from sharedfs.typed_json import Json

RunKey = tuple[str, str, int]  # group, run, seed; of a search, its name alone


# Reading what tasks left on storage, thousands at a time and while others are still writing.


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split's figures per category: ``recall`` (C,) with NaN where it has no title, ``support`` (C,)."""

    recall: np.ndarray
    support: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """One split's answers, a title each: ``label``, ``predicted`` and ``reliable``, all (N,)."""

    label: np.ndarray
    predicted: np.ndarray
    reliable: np.ndarray


class _SplitFigures(TypedDict):
    """What evaluation.json says of one split, as far as a report needs it."""

    recall: Sequence[float | None]
    support: list[int]


def read_evaluation(folder: str, cache: ClassCache | None = None) -> tuple[tuple[str, ...], dict[str, Split]] | None:
    """The categories and each split's recall, or None; raises ValueError when the file is not as it should be.

    ``cache`` remembers the categories between the evaluations of one data set.
    """
    try:
        text = read_plain(f"{folder}/{EVALUATION}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    cache = cache or ClassCache()
    try:
        classes, document = _with_classes(text, cache)
        found = {name: value for name, value in document.items() if isinstance(value, dict) and "recall" in value}
        splits = {
            name: Split(recall=_recall(figures["recall"]), support=cache.support(name, figures["support"]))
            for name, figures in cast(Mapping[str, _SplitFigures], found).items()
        }
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedFileError(f"{folder}/{EVALUATION}: not an evaluation: {error}") from error
    if any(len(split.recall) != len(classes) or len(split.support) != len(classes) for split in splits.values()):
        raise DamagedFileError(f"{folder}/{EVALUATION}: recall, support and classes differ in length")
    return classes, splits


def _recall(values: Sequence[float | None]) -> np.ndarray:
    try:
        # Twice as fast as numpy's own way from a list; a category without titles is null there, and NaN here.
        recall = np.frombuffer(array("d", values))  # type: ignore[type-var]
    except TypeError:
        recall = np.array(values, dtype=np.float64)
    if recall.ndim != 1 or ((recall < 0) | (recall > 1)).any():
        raise ValueError("recall must be shares from 0 to 1, one a category")
    return recall


class ClassCache:
    """What the evaluations of one data set share: their beginning with the categories, and each split's support."""

    def __init__(self) -> None:
        self.head = b""
        self.classes: tuple[str, ...] = ()
        self._supports: dict[str, tuple[list[int], np.ndarray]] = {}

    def support(self, split: str, values: list[int]) -> np.ndarray:
        """These numbers as an array, the same one as long as they are the same."""
        cached = self._supports.get(split)
        if cached is None or cached[0] != values:
            support = np.array(values, dtype=np.int64)
            if support.ndim != 1 or (support < 0).any():
                raise ValueError("support must be counts, one a category")
            cached = self._supports[split] = values, support
        return cached[1]


def _with_classes(text: bytes, cache: ClassCache) -> tuple[tuple[str, ...], Mapping[str, Json]]:
    if cache.head and text.startswith(cache.head):
        return cache.classes, orjson.loads(b"{" + text[len(cache.head) :])
    document = orjson.loads(text)
    classes = tuple(document["classes"])
    if not all(isinstance(name, str) for name in classes):
        raise ValueError("classes must be names")
    # Keys are written in order, so the categories come first; a file that is otherwise is read whole.
    end = text.find(b"],") + 2
    if end > 1 and _is_head(text[:end], classes):
        cache.head, cache.classes = text[:end], classes
    return classes, document


def _is_head(head: bytes, classes: tuple[str, ...]) -> bool:
    """Whether these bytes are an object's beginning with the categories in it, and nothing else."""
    try:
        return bool(orjson.loads(head[:-1] + b"}") == {"classes": list(classes)})
    except orjson.JSONDecodeError:
        return False


def read_predictions(folder: str, split: str, classes: int) -> Predictions | None:
    """One split's answers, or None where there are none, or they are not answers of this many categories."""
    try:
        with ZipFile(f"{folder}/{PREDICTIONS}") as archive:
            label = _array(archive.read(f"{split}_label.npy"))
            predicted = _array(archive.read(f"{split}_predicted.npy"))
            reliable = _array(archive.read(f"{split}_reliable.npy"))
    except (OSError, KeyError, ValueError, EOFError, BadZipFile, zlib.error):
        return None
    if not len(label) == len(predicted) == len(reliable) or not all(
        given.dtype.kind in "iu" and (given.size == 0 or (given.min() >= 0 and given.max() < classes))
        for given in (label, predicted)
    ):
        return None
    return Predictions(label=label, predicted=predicted, reliable=reliable)


def _array(content: bytes) -> np.ndarray:
    """A flat array of numbers from the bytes of a ``.npy``; raises ValueError when it is anything else."""
    begin = 10 + int.from_bytes(content[8:10], "little")
    kind, count = _header(content[:begin])
    return np.frombuffer(content, dtype=kind, count=count, offset=begin)


@lru_cache(maxsize=64)  # thousands of files have a dozen different ones, and numpy compiles each as Python
def _header(head: bytes) -> tuple[np.dtype[Any], int]:
    file = io.BytesIO(head)
    if npy.read_magic(file) != (1, 0):
        raise ValueError("not of version 1.0 of numpy's format")
    shape, _, kind = npy.read_array_header_1_0(file)
    if kind.hasobject or len(shape) != 1:
        raise ValueError(f"must be flat numbers, not {kind} {shape}")
    return kind, shape[0]


def figures(result: Mapping[str, Json]) -> dict[str, float]:
    """The numbers among a record's results, by name."""
    numbers = {name: value for name, value in result.items() if type(value) in (int, float)}
    return cast(dict[str, float], numbers)


def fingerprint(result: Mapping[str, Json]) -> str | None:
    """What test titles an evaluation scored; None where an earlier version made it."""
    value = result.get("test_fingerprint")
    return value if isinstance(value, str) else None


# Keys of the manifest's ``data`` that tell runs apart: shown as if they were hyperparameters.


def run_key(row: Row) -> RunKey:
    """Where a row's keys are found in ``data_settings``."""
    return (row.group, "", 0) if row.search else (row.group, row.run, row.seed)


def data_settings(manifest: Manifest) -> dict[RunKey, dict[str, Value]]:
    """Keys of ``data`` that differ between runs, and always the language, by (group, run, seed)."""
    flat = {(run.group, run.name, run.seed): run.data for run in (*manifest.runs, *manifest.ensembles)}
    for search in manifest.searches:
        flat[search.name, "", 0] = search.data
    # Hundreds of runs share one section, or have equal ones: each distinct one is flattened once.
    distinct: dict[Data, dict[str, Value]] = {}
    sections: dict[int, dict[str, Value]] = {}
    for data in {id(data): data for data in flat.values()}.values():
        if data not in distinct:
            distinct[data] = dict(_flatten(values(data)))
        sections[id(data)] = distinct[data]
    names = dict.fromkeys(name for section in distinct.values() for name in section)
    first = next(iter(distinct.values()), {})
    varying = [name for name in names if any(section.get(name) != first.get(name) for section in distinct.values())]
    if "language" not in varying and first.get("language") is not None:
        varying.append("language")
    return {key: {name: sections[id(data)].get(name) for name in varying} for key, data in flat.items()}


def _flatten(section: Mapping[str, Value], before: str = "") -> Iterable[tuple[str, Value]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def decided(row: Row, folder: str) -> Row:
    """A row whose architecture a search decides, as its training was begun with; as it was before that."""
    if not row.across:
        return row
    try:
        recipe = read_trained_recipe(folder)
    except (OSError, ValueError):
        return row
    return replace(row, architecture=recipe.architecture, settings=recipe.settings, searched=frozenset(), across=False)


def settings_written(folder: str) -> Mapping[str, Value]:
    """What a run was trained with, in the order of its file; empty before it begins."""
    try:
        return dict(sorted(shown(read_trained_recipe(folder).settings).items()))
    except (OSError, ValueError):
        return {}
