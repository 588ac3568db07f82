"""Architectures, each one folder here, found by its name; their settings are read without importing torch.

A folder's ``__init__`` holds ``REVISION``, ``KIND`` (``network`` or ``estimator``) and ``Settings``, a class of
settings whose ``check(shape)`` may say what is wrong between them. It may hold ``SPACE``, what `space: default` of a
search stands for. A network's settings are ``NetworkSettings``, and
its ``network.py`` holds ``build`` (``jobs.models.protocol`` says what that may assume and must keep to), and may hold
``unsupported(device, precision)``, which returns why it can't be computed so on that device, or None; an estimator's
``estimator.py`` holds ``fit`` and ``load``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Gt, Le

from jobs.plugins import MODELS, Part, check_same, identities, in_use
from jobs.settings import (
    ORIGINAL,
    Baseline,
    DataShape,
    Doc,
    ModelSettings,
    Setting,
    Value,
    describe,
    divided,
    parts_of,
    settings,
    values,
)
from jobs.training.settings import TrainingSettings
from jobs.units import Unit
from sharedfs.documents import decode_as
from sharedfs.errors import DamagedFileError
from sharedfs.typed_json import Json, decode

Width = Annotated[int, Ge(1), Le(65_536)]
Share = Annotated[float, Ge(0), Le(0.95)]


@settings
class NetworkSettings(TrainingSettings):
    """Settings of every network: how it is trained, its word vectors, and the layers after the pooled title."""

    hidden_layers: Annotated[
        tuple[Width, ...],
        ORIGINAL,
        Doc("widths of the hidden layers; [] for none: a linear classifier of the pooled title"),
    ] = (256, 128)
    dropout: Annotated[Share, ORIGINAL, Doc("share of each hidden layer dropped in training")] = 0.0
    embedding_dropout: Annotated[
        Share, ORIGINAL, Doc("share of what the hidden layers are given (the pooled title) dropped in training")
    ] = 0.0
    embedding_scale: Annotated[
        float,
        Gt(0),
        Le(100),
        ORIGINAL,
        Doc("the word vectors are multiplied by it at the start: 0.01 turns a random start into a small one"),
    ] = 1.0
    word_dropout: Annotated[Share, ORIGINAL, Doc("share of a title's words hidden in training")] = 0.0
    subwords: Annotated[
        bool, Baseline(False), Doc("add the mean of the vectors of a word's parts to its own; takes `text.subwords`")
    ] = False

    @property
    def trains_vectors(self) -> bool:
        return self.subwords or super().trains_vectors

    def problem(self, shape: DataShape) -> str | None:
        if self.subwords and not shape.subwords:
            return "subwords: the data set has none: set text.subwords, as in [3, 5], or leave subwords false"
        return super().problem(shape)


NETWORK_SPACE: Mapping[str, Json] = {
    "learning_rate": {"loguniform": [1e-4, 1e-2]},
    "weight_decay": {"loguniform": [1e-7, 1e-3]},
    "batch_size": {"choice": [64, 128, 256, 512]},
    "dropout": {"uniform": [0.0, 0.5]},
    "word_dropout": {"uniform": [0.0, 0.3]},
}
"""What `space: default` of every network here searches, beside what is its own."""


def model_unit(architecture: str) -> Unit:
    """The code of the architecture itself; an estimator's unit is its whole training."""
    return Unit("estimator" if MODELS.load(architecture).KIND == "estimator" else "model", architecture)


def settings_class(architecture: str) -> type[ModelSettings]:
    """The class of an architecture's settings; raises InputError naming the legal architectures."""
    return MODELS.settings(architecture)


def all_settings(architecture: str) -> tuple[Setting, ...]:
    """Every setting that an architecture takes, those of training last."""
    return in_order(settings_class(architecture))


def own_settings(architecture: str) -> tuple[Setting, ...]:
    """The settings of an architecture that are not those of training."""
    shared = {setting.name for setting in _shared_settings(settings_class(architecture))}
    return tuple(setting for setting in all_settings(architecture) if setting.name not in shared)


def in_order(settings: type[ModelSettings]) -> tuple[Setting, ...]:
    """The settings of a class, those of training last."""
    shared = {setting.name: setting for setting in _shared_settings(settings)}
    described = {setting.name: setting for setting in describe(settings)}
    own = (setting for name, setting in described.items() if name not in shared)
    return (*own, *(described[name] for name in shared))


def deciding_names(settings: type[ModelSettings]) -> tuple[str, ...]:
    """The names of those settings of a class that decide a result, those of training last."""
    return tuple(setting.name for setting in in_order(settings) if not setting.plumbing)


def _shared_settings(settings: type[ModelSettings]) -> tuple[Setting, ...]:
    return describe(TrainingSettings) if issubclass(settings, TrainingSettings) else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a run is trained by: an architecture with its settings, and a data set by its id."""

    architecture: str
    dataset: str
    settings: ModelSettings

    @property
    def network(self) -> NetworkSettings:
        """The settings of a network; of an estimator's there are none."""
        assert isinstance(self.settings, NetworkSettings)
        return self.settings

    @property
    def identity(self) -> dict[str, Value]:
        """What decides the run's result: of plugins their digests or revisions too."""
        return self.divided[0]

    @property
    def divided(self) -> tuple[dict[str, Value], dict[str, Value]]:
        """``identity``, and the settings that are no part of it."""
        decide, rest = divided(self.settings)
        return self._with_plugins(decide), rest

    @property
    def document(self) -> dict[str, Value]:
        """All of it, as it is stored."""
        return self._with_plugins(values(self.settings))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The model, and what its settings choose by name."""
        return (Part(MODELS.name, self.architecture), *parts_of(self.settings))

    @property
    def units(self) -> tuple[Unit, ...]:
        """The code that decides what a training by it gives."""
        model, chosen = model_unit(self.architecture), parts_of(self.settings)
        shared = () if model.kind == "estimator" else (Unit("training"),)
        return (model, *(Unit(part.room, part.name) for part in chosen), *shared)

    def _with_plugins(self, settings: dict[str, Value]) -> dict[str, Value]:
        plugins = identities(self.parts) if in_use() else {}
        whole = {"architecture": self.architecture, "dataset": self.dataset, **settings}
        return whole | ({"plugins": plugins} if plugins else {})

    def with_seed(self, seed: int) -> Recipe:
        """The same with another seed."""
        return replace(self, settings=decode(type(self.settings), {**values(self.settings), "seed": seed}))


def read_recipe(document: Mapping[str, Json], where: object) -> Recipe:
    """A stored recipe; raises DamagedFileError naming ``where`` it was. See ``Baseline`` for settings that it lacks.

    Raises PluginNeededError where it was made with a plugin that is not in use.
    """
    stored = dict(document)
    if "plugins" in stored:
        check_same(decode(dict[str, str | int], stored.pop("plugins")), where)
    architecture, dataset = stored.pop("architecture", None), stored.pop("dataset", None)
    if not isinstance(architecture, str) or not isinstance(dataset, str):
        raise DamagedFileError(f"{where}: not a run's settings: train it again")
    read = decode_as(settings_class(architecture), stored, where, f"settings of {architecture}")
    return Recipe(architecture=architecture, dataset=dataset, settings=read)
