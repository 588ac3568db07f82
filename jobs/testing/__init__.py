"""What tests need: settings, recipes and descriptions of data sets made of a few values, the others as usual."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from jobs import models
from jobs.data import DATASET_FORMAT
from jobs.data.identity import VectorSource
from jobs.data.settings import Preprocessing
from jobs.models import Recipe
from jobs.search.study import METRIC, Definition
from jobs.settings import ModelSettings, Setting, deciding, describe, named
from sharedfs.typed_json import Json


def settings_with(architecture: str, **given: object) -> ModelSettings:
    """An architecture's settings: those given that it has, typed and unchecked, the others at their defaults."""
    return models.settings_class(architecture)(**_typed(models.all_settings(architecture), given))


def _typed(settings: Iterable[Setting], given: Mapping[str, object]) -> dict[str, Any]:
    return {setting.name: _read(setting, given[setting.name]) for setting in settings if setting.name in given}


def _read(setting: Setting, value: object) -> Any:
    if setting.room is None or is_dataclass(value):
        return setting.read(value)
    name, given = named(value)
    part = setting.room.settings(name)
    return part(**_typed(describe(part), given))


def recipe_with(architecture: str, dataset: str = "made", **given: object) -> Recipe:
    """A recipe with ``settings_with`` these."""
    return Recipe(architecture=architecture, dataset=dataset, settings=settings_with(architecture, **given))


def definition_with(architecture: str, dataset: str, space: Mapping[str, Json], **given: Any) -> Definition:
    """A search's definition as a plan makes it; ``given`` are its other fields, with ``settings`` of a few values."""
    decide = deciding(settings_with(architecture, **given.pop("settings", {})))
    fixed = {name: value for name, value in decide.items() if name not in space}
    usual = Definition(
        architecture=architecture,
        dataset=dataset,
        algorithm="random",
        metric=METRIC,
        space=space,
        stopping=None,
        seed=0,
        settings=fixed,
    )
    return replace(usual, **given)


def meta_with(splits: Mapping[str, tuple[int, int]], *, max_length: int, words: int, size: int) -> dict[str, Json]:
    """The meta.json of a data set made by hand: (rows, tokens) of its splits, its vocabulary, its vectors' numbers."""
    sizes = {"rows": 0, "tokens": 0, "longest": max_length, "without_known_tokens": 0}
    vectors = asdict(VectorSource(size=size, fingerprint=None))
    settings: dict[str, Json] = {**deciding(Preprocessing(max_length=max_length))}
    return {
        "format": DATASET_FORMAT,
        "settings": settings | {"sources": {}, "embeddings": vectors, "dataset_format": DATASET_FORMAT},
        "dtypes": {"tokens": "<u2", "labels": "<u2"},
        "splits": {name: {**sizes, "rows": rows, "tokens": tokens} for name, (rows, tokens) in splits.items()},
        "parts": {},
        "classes": 0,
        "vocabulary": {"size": words, "words": words, "word_ngrams": 0, "character_ngrams": 0},
        "vectors": vectors,
        "files": {},
    }
