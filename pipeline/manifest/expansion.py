"""What groups and searches are expanded with: the manifest's architectures, data sets, resources and checks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from jobs import models
from jobs.data.settings import SPLITS, Data
from jobs.plugins import METRICS, MODELS
from jobs.settings import DataShape, ModelSettings, Setting, Value, describe
from pipeline.manifest.model import Resources
from pipeline.manifest.resources import DEFAULTS, resolve_resources, without_gpus
from pipeline.manifest.schema import Cluster, EarlyStopping, Group, Root, Run, Search, Stages
from pipeline.manifest.validation import Findings, SettingError, explain, name_problem, read, read_value, validate
from sharedfs.errors import KeyPath, did_you_mean
from sharedfs.typed_json import Json

RUNS_MAX = 100_000
RESERVED = ("data",)  # preprocess tasks are shown under it
DATA_KEYS = tuple(setting.name for setting in describe(Data))


def figure_names() -> tuple[str, ...]:
    """What figures may be given as reference: each metric's on each split."""
    return tuple(f"{split}_{metric}" for split in SPLITS for metric in METRICS.names())


class Expansion:
    """The architectures, data sets and resources of one manifest, and where its problems go."""

    def __init__(self, root: Root, findings: Findings) -> None:
        self.findings = findings
        self.architectures = Architectures(root.defaults or {}, findings)
        self.datasets = DataSets(root.data, findings)
        sections = [(root.cluster or Cluster()).resources, root.resources]
        # Thousands of runs have no resources of their own: they share these.
        self._shared = {
            "network": resolve_resources(DEFAULTS, *sections),
            "estimator": resolve_resources(DEFAULTS, *map(without_gpus, sections)),
        }
        self._runs = 0

    def resources(self, architecture: Architecture, *own: Stages) -> Mapping[str, Resources]:
        """Resources by stage of an architecture's run, under a group's, a run's or a search's own.

        An estimator gets a GPU only where these ask for one.
        """
        return self.resources_of_kind(architecture.kind, *own)

    def resources_of_kind(self, kind: str, *own: Stages) -> Mapping[str, Resources]:
        """The same of what computes as a network or as an estimator does."""
        return resolve_resources(self._shared[kind], *(section for section in own if section.model_fields_set))

    def count_runs(self, runs: int, path: KeyPath) -> bool:
        """Whether this many more runs may be made; noted where not."""
        self._runs += runs
        if self._runs > RUNS_MAX:
            self.findings.add(path, f"more than {RUNS_MAX:,} runs in all", key=True)
        return self._runs <= RUNS_MAX

    def check_name(self, name: str, path: KeyPath, *, key: bool = True) -> None:
        """Note a name that can't be a folder's; ``key`` false where it is a value."""
        problem = name_problem(name)
        if problem is not None:
            self.findings.add(path, f"{name!r} is {problem}", key=key)

    def check_group_name(self, name: str, path: KeyPath) -> None:
        """Note a name that can't be a group's or a search's."""
        self.check_name(name, path)
        if name in RESERVED:
            self.findings.add(path, f"the name {name!r} is taken: preprocess tasks are shown under it", key=True)

    def check_seeds(self, seeds: Iterable[int], path: KeyPath) -> None:
        seen: set[int] = set()
        for position, seed in enumerate(seeds):
            if not 0 <= seed < 2**31:
                self.findings.add((*path, position), f"must be from 0 to {2**31 - 1}, not {seed}")
            if seed in seen:
                self.findings.add((*path, position), f"the seed {seed} is there twice")
            seen.add(seed)

    def check_reference(self, figures: Mapping[str, float], path: KeyPath) -> None:
        known = figure_names() if figures else ()
        for name in figures:
            if name not in known:
                self.findings.add((*path, name), f"unknown metric{did_you_mean(name, known)}", key=True)

    def check_settings(self, architecture: Architecture, settings: ModelSettings, data: Data, path: KeyPath) -> None:
        """Note what is wrong between settings, at the setting that their check names."""
        shape = DataShape(
            max_length=data.max_length,
            vector_size=data.embeddings.size,
            subwords=data.text.subwords is not None and data.encoder is None,
            encoder=data.encoder is not None,
        )
        problem = settings.problem(shape)
        if problem is None:
            return
        name, colon, message = problem.partition(": ")
        if colon and name in architecture.settings:
            self.findings.add((*path, name), message)
        else:
            self.findings.add(path, problem)


# Architectures as a manifest sees them: the settings of each, and what one section of the manifest sets.


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One architecture: its settings by name, their values where a run sets none, and its own check.

    ``kind`` is network or estimator.
    """

    name: str
    kind: str
    settings: Mapping[str, Setting]
    settings_class: type[ModelSettings]
    base: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one section of a manifest sets: settings in their types, and keys of `data` as written."""

    settings: Mapping[str, Value]
    data: Mapping[str, Json]


def setting_owners() -> dict[str, dict[str, Setting]]:
    """Every setting by name, as each architecture that has it describes it."""
    owners: dict[str, dict[str, Setting]] = {}
    for architecture in MODELS.names():
        for setting in models.all_settings(architecture):
            owners.setdefault(setting.name, {})[architecture] = setting
    return owners


class Architectures:
    """Every architecture, each described once, with the manifest's defaults in its base."""

    def __init__(self, defaults: Mapping[str, Json], findings: Findings) -> None:
        self._findings = findings
        self._described: dict[str, Architecture] = {}
        self._owners = setting_owners()
        self._defaults = self._read_defaults(defaults)

    def _read_defaults(self, defaults: Mapping[str, Json]) -> dict[str, Json]:
        values: dict[str, Json] = {}
        for name, value in defaults.items():
            path = ("defaults", name)
            if name == "early_stopping":
                stopping = validate(EarlyStopping, value, self._findings, path)
                values["patience"] = None if stopping is None else stopping.patience
            elif name in self._owners:
                values[name] = value
            elif name in DATA_KEYS:
                self._findings.add(path, "is no setting of an architecture: it belongs in data", key=True)
            else:
                hint = did_you_mean(name, [*self._owners, "early_stopping"])
                self._findings.add(path, f"unknown setting{hint}", key=True)
        if "early_stopping" in defaults and "patience" in defaults:
            self._findings.add(("defaults", "patience"), "early_stopping sets it too: give one", key=True)
        for name, value in values.items():  # each is read even where no run uses it
            if name in self._owners:
                self.value_of(next(iter(self._owners[name].values())), value, ("defaults", name))
        return values

    def get(self, name: str | None, path: KeyPath) -> Architecture | None:
        """The architecture that ``path`` names, or None with the problem noted."""
        if name is None:
            self._findings.add(path, "has no architecture: name one here or in the group")
            return None
        if name not in self._described:
            if name not in MODELS.names():
                hint = did_you_mean(name, MODELS.names())
                self._findings.add((*path, "architecture"), f"unknown architecture {name!r}{hint}")
                return None
            self._described[name] = self._describe(name)
        return self._described[name]

    def _describe(self, name: str) -> Architecture:
        settings = {setting.name: setting for setting in models.all_settings(name)}
        base = {}
        for setting in settings.values():
            value = self._defaults.get(setting.name, setting.default)
            base[setting.name] = self.value_of(setting, value, ("defaults", setting.name))
        kind, settings_class = MODELS.load(name).KIND, models.settings_class(name)
        return Architecture(name=name, kind=kind, settings=settings, settings_class=settings_class, base=base)

    def section_layer(self, architecture: Architecture, section: Run | Group | Search, path: KeyPath) -> Layer:
        """What a run, a group or a search sets for an architecture."""
        layer = self.layer(
            architecture,
            section.model_extra or {},
            path,
            also=[field.alias or name for name, field in type(section).model_fields.items()],
        )
        if section.early_stopping is None:
            return layer
        if "patience" not in architecture.settings:
            message = f"{architecture.name} is not trained by epochs: it can't stop early"
            self._findings.add((*path, "early_stopping"), message, key=True)
        elif "patience" in layer.settings:
            self._findings.add((*path, "patience"), "early_stopping sets it too: give one", key=True)
        else:
            return Layer(settings={**layer.settings, "patience": section.early_stopping.patience}, data=layer.data)
        return layer

    def layer(
        self, architecture: Architecture, keys: Mapping[str, Json], path: KeyPath, *, also: Iterable[str]
    ) -> Layer:
        """A section's keys, each a setting of the architecture or a key of `data`; ``also`` are other legal ones."""
        settings: dict[str, Value] = {}
        data: dict[str, Json] = {}
        for name, value in keys.items():
            if name in architecture.settings:
                settings[name] = self.value_of(architecture.settings[name], value, (*path, name))
            elif name in DATA_KEYS:
                data[name] = value
            else:
                self._findings.add((*path, name), self._unknown(architecture, name, also), key=True)
        return Layer(settings=settings, data=data)

    def _unknown(self, architecture: Architecture, name: str, also: Iterable[str]) -> str:
        """The message for a key that is no setting here."""
        owners = self._owners.get(name)
        if owners:
            have = "has" if len(owners) == 1 else "have"
            return f"{architecture.name} has no such setting; {', '.join(owners)} {have}"
        return f"unknown setting{did_you_mean(name, [*architecture.settings, *DATA_KEYS, *also])}"

    def value_of(self, setting: Setting, value: Any, path: KeyPath) -> Any:
        """A value in its setting's type; the setting's default with the problem noted."""
        try:
            return read_value(setting, value)
        except SettingError as error:
            for below, message, key in error.problems:
                self._findings.add((*path, *below), message, key=key)
            return setting.default


# Data sets that runs ask for: the manifest's `data` with what a run changes of it.


class DataSets:
    """Each distinct data set read once, however many runs share it."""

    def __init__(self, base: Mapping[str, Json], findings: Findings) -> None:
        self._base = base
        self._findings = findings
        self._read: dict[str, Data | None] = {}

    def get(self, changes: Mapping[str, Json], path: KeyPath) -> Data | None:
        """The data set of a run that changes these keys at ``path``; None with the problems noted."""
        key = json.dumps(changes, sort_keys=True)
        if key not in self._read:
            self._read[key] = self._make(changes, path)
        return self._read[key]

    def _make(self, changes: Mapping[str, Json], path: KeyPath) -> Data | None:
        try:
            return read(Data, merged(_without_other_sources(self._base, changes), changes))
        except ValidationError as error:
            for below, message, key in explain(Data, error):
                own = bool(below) and below[0] in changes and _reaches(changes, below)
                above = path if own or (not below and changes) else ("data",)
                self._findings.add((*above, *below), message, key=key)
            return None


def _reaches(changes: Mapping[str, Json], path: KeyPath) -> bool:
    """Whether the value at a path is the run's own, not the manifest's that it is merged with."""
    value: Json = changes
    for part in path:
        if not isinstance(value, Mapping):
            return True
        if part not in value:
            return False
        value = value[str(part)]
    return True


def _without_other_sources(base: Mapping[str, Json], changes: Mapping[str, Json]) -> Mapping[str, Json]:
    """A run with its own `source` leaves the manifest's three files aside, and the other way round."""
    if changes.get("source") is not None:
        return {key: value for key, value in base.items() if key not in SPLITS}
    if any(changes.get(part) is not None for part in SPLITS):
        return {key: value for key, value in base.items() if key not in ("source", "split")}
    return base


def merged(base: Mapping[str, Json], above: Mapping[str, Json]) -> dict[str, Json]:
    """Two sections merged key by key, ``above`` winning."""
    result = dict(base)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
