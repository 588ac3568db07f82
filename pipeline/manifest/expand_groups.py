"""Groups of a manifest expanded into runs: named ones, grids, zips; each for each of its seeds."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import PurePath

from jobs.data.settings import Data
from jobs.settings import Value
from pipeline.manifest.expansion import RUNS_MAX, Architecture, Expansion, Layer, merged
from pipeline.manifest.model import Resources, Run
from pipeline.manifest.schema import Group
from pipeline.manifest.schema import Run as RunSection
from pipeline.manifest.validation import name_problem
from sharedfs.documents import digest
from sharedfs.errors import KeyPath, did_you_mean
from sharedfs.typed_json import Json

FORMS = ("runs", "grid", "zip")
_UNSAFE = re.compile(r"[^\w.=+-]+")


def expand_group(name: str, group: Group, expansion: Expansion) -> list[Run]:
    """The group's runs, in the manifest's order; problems go to the expansion's findings."""
    return _GroupExpansion(name, group, expansion).runs()


class _GroupExpansion:
    """One group on its way to runs."""

    def __init__(self, name: str, group: Group, expansion: Expansion) -> None:
        self.name, self.group, self.expansion = name, group, expansion
        self.path: KeyPath = ("experiments", name)
        self.findings = expansion.findings
        self._common: dict[str, tuple[Layer, Mapping[str, Resources]]] = {}
        self._runs: list[Run] = []
        self._names: list[str] = []

    def runs(self) -> list[Run]:
        self.expansion.check_group_name(self.name, self.path)
        forms = [form for form in FORMS if getattr(self.group, form) is not None]
        if self.group.seeds is not None:
            self._check_seeds(self.group.seeds, self.group.model_extra or {}, self.path)
        if not forms:
            self.findings.add(self.path, "is an empty group: give it runs, grid or zip", key=True)
        elif len(forms) > 1:
            self.findings.add(
                (*self.path, forms[1]), f"can't be combined with {forms[0]}: a group has one of them", key=True
            )
        elif not getattr(self.group, forms[0]):
            self.findings.add((*self.path, forms[0]), "is empty: a group needs at least one run", key=True)
        elif forms == ["runs"]:
            self._expand_named()
        else:
            self._expand_axes(forms[0])
        self._check_reference()
        return self._runs

    def _check_seeds(self, seeds: list[int], keys: Mapping[str, Json | Value], path: KeyPath) -> None:
        if not seeds:
            self.findings.add((*path, "seeds"), "must be a non-empty list")
        if "seed" in keys:
            self.findings.add((*path, "seed"), "can't be combined with seeds: give one", key=True)
        self.expansion.check_seeds(seeds, (*path, "seeds"))

    def _common_of(self, architecture: Architecture) -> tuple[Layer, Mapping[str, Resources]]:
        """What the group itself sets for one architecture, and the resources of a run with none of its own."""
        if architecture.name not in self._common:
            self._common[architecture.name] = (
                self.expansion.architectures.section_layer(architecture, self.group, self.path),
                self.expansion.resources(architecture, self.group.resources),
            )
        return self._common[architecture.name]

    def _expand_named(self) -> None:
        for name, section in (self.group.runs or {}).items():
            path = (*self.path, "runs", name)
            run = section or RunSection()
            self.expansion.check_name(name, path)
            self._names.append(name)
            inherited = run.architecture is None and self.group.architecture is not None
            architecture = self.expansion.architectures.get(
                run.architecture or self.group.architecture, self.path if inherited else path
            )
            if architecture is None:
                continue
            own = self.expansion.architectures.section_layer(architecture, run, path)
            if run.seeds is not None:
                self._check_seeds(run.seeds, own.settings, path)
            elif self.group.seeds is not None and "seed" in own.settings:
                self.findings.add((*path, "seed"), "the group has seeds: give one of them", key=True)
            resources = None
            if run.resources.model_fields_set:
                resources = self.expansion.resources(architecture, self.group.resources, run.resources)
            seeds = self.group.seeds if run.seeds is None else run.seeds
            self._add(name, architecture, own, resources, seeds, path)

    def _expand_axes(self, form: str) -> None:
        axes: dict[str, list[Json]] = getattr(self.group, form)
        path = (*self.path, form)
        if not self._axes_valid(axes, form, path):
            return
        ranges = [range(len(values)) for values in axes.values()]
        points: Iterable[tuple[int, ...]] = itertools.product(*ranges) if form == "grid" else zip(*ranges, strict=True)
        layers: dict[tuple[str, str, int], Layer] = {}
        members = []
        first: dict[tuple[str, str], int] = {}
        for number, point in enumerate(points, start=1):
            values = {axis: axes[axis][position] for axis, position in zip(axes, point, strict=True)}
            name = values.get("architecture", self.group.architecture)
            assert name is None or isinstance(name, str)  # else the axes are not valid
            architecture = self.expansion.architectures.get(name, path if "architecture" in values else self.path)
            if architecture is not None:
                own = self._layer_at(architecture, axes, point, path, layers)
                # Typed by now: what is written in two ways (0 and 0.0, adam and {adam: {}}) is one task.
                same = first.setdefault((architecture.name, repr((own.settings, own.data))), number)
                if same != number:
                    self.findings.add(path, f"its runs {same} and {number} are one: {name_of_values(values)}", key=True)
                members.append((name_of_values(values), architecture, own))
        self._names = unique_names(name for name, _, _ in members)
        for name, (_, architecture, own) in zip(self._names, members, strict=True):
            self._add(name, architecture, own, None, self.group.seeds, path)

    def _axes_valid(self, axes: Mapping[str, list[Json]], form: str, path: KeyPath) -> bool:
        """Whether the lists can be combined at all."""
        before = len(self.findings)
        for axis, values in axes.items():
            if not values:
                self.findings.add((*path, axis), "must be a non-empty list")
            seen: set[str] = set()
            for position, value in enumerate(values):
                if isinstance(value, float) and value.is_integer():
                    value = int(value)  # 0 and 0.0 are one setting, and so one task
                text = json.dumps(value, sort_keys=True)
                if form == "grid" and text in seen:
                    self.findings.add((*path, axis, position), f"the value {text} is there twice")
                seen.add(text)
                if axis == "architecture" and not isinstance(value, str):
                    self.findings.add((*path, axis, position), "must be an architecture's name")
        if "seed" in axes and self.group.seeds is not None:
            self.findings.add((*path, "seed"), "can't be combined with seeds: give one", key=True)
        if "architecture" in axes and self.group.architecture is not None:
            self.findings.add(
                (*path, "architecture"), "can't be combined with the group's architecture: give one", key=True
            )
        lengths = {axis: len(values) for axis, values in axes.items()}
        if form == "zip" and len(set(lengths.values())) > 1:
            listed = ", ".join(f"{axis} {length}" for axis, length in lengths.items())
            self.findings.add(path, f"lists of unequal lengths: {listed}", key=True)
        if form == "grid" and prod(lengths.values()) > RUNS_MAX:
            self.findings.add(path, f"{prod(lengths.values()):,} combinations: at most {RUNS_MAX:,} runs", key=True)
        return len(self.findings) == before

    def _layer_at(
        self,
        architecture: Architecture,
        axes: Mapping[str, list[Json]],
        point: tuple[int, ...],
        path: KeyPath,
        layers: dict[tuple[str, str, int], Layer],
    ) -> Layer:
        """What one combination sets; each value of each axis is read once, into ``layers``."""
        settings: dict[str, Value] = {}
        data: dict[str, Json] = {}
        for axis, position in zip(axes, point, strict=True):
            if axis == "architecture":
                continue
            key = (architecture.name, axis, position)
            if key not in layers:
                layers[key] = self._axis_layer(architecture, axis, axes[axis][position], position, path)
            settings.update(layers[key].settings)
            data.update(layers[key].data)
        return Layer(settings=settings, data=data)

    def _axis_layer(self, architecture: Architecture, axis: str, value: Json, position: int, path: KeyPath) -> Layer:
        architectures = self.expansion.architectures
        if axis in architecture.settings:
            setting = architecture.settings[axis]
            return Layer(settings={axis: architectures.value_of(setting, value, (*path, axis, position))}, data={})
        return architectures.layer(architecture, {axis: value}, path, also=("architecture",))

    def _add(
        self,
        name: str,
        architecture: Architecture,
        own: Layer,
        resources: Mapping[str, Resources] | None,
        seeds: list[int] | None,
        path: KeyPath,
    ) -> None:
        common, group_resources = self._common_of(architecture)
        values = {**architecture.base, **common.settings, **own.settings}
        data = self._data(common.data, own.data, path)
        if data is None:
            return
        settings = architecture.settings_class(**values)
        self.expansion.check_settings(architecture, settings, data, path)
        if seeds is not None and "seed" not in architecture.settings:
            self.findings.add((*self.path, "seeds"), f"{architecture.name} has no seed", key=True)
            return
        variants = [settings]
        if seeds is not None:
            variants = [architecture.settings_class(**{**values, "seed": seed}) for seed in seeds]
        if not self.expansion.count_runs(len(variants), self.path):
            return
        reference = (self.group.reference or {}).get(name, {})
        for variant in variants:
            self._runs.append(
                Run(
                    group=self.name,
                    name=name,
                    architecture=architecture.name,
                    settings=variant,
                    data=data,
                    resources=resources or group_resources,
                    reference=reference,
                )
            )

    def _data(self, common: Mapping[str, Json], own: Mapping[str, Json], path: KeyPath) -> Data | None:
        datasets = self.expansion.datasets
        if not own:
            return datasets.get(common, self.path)
        if not common:
            return datasets.get(own, path)
        return datasets.get(merged(common, own), path)

    def _check_reference(self) -> None:
        for name, figures in (self.group.reference or {}).items():
            path = (*self.path, "reference", name)
            if self._names and name not in self._names:
                self.findings.add(path, f"there is no run of this name{did_you_mean(name, self._names)}", key=True)
            self.expansion.check_reference(figures, path)


# How the runs of a grid are called.


def name_of_values(values: Mapping[str, Json]) -> str:
    """A run's name from what sets it apart: `hidden_layers=256-128,dropout=0.1`."""
    name = ",".join(f"{key}={_UNSAFE.sub('_', _text(value))}" for key, value in values.items())
    if name_problem(name) is None:
        return name
    return f"{name[:40]}-{digest(json.dumps(values, sort_keys=True))}"


def unique_names(names: Iterable[str]) -> list[str]:
    """The names with `-2`, `-3`, .. behind those that were there before."""
    result: dict[str, None] = {}
    for name in names:
        candidate, number = name, 2
        while candidate in result:
            candidate, number = f"{name}-{number}", number + 1
        result[candidate] = None
    return list(result)


def _text(value: Json) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "-".join(map(_text, value))
    if isinstance(value, Mapping):
        inner = value.items()
        return "-".join(_part(key, each) if isinstance(each, Mapping) else _text(each) for key, each in inner)
    return PurePath(value).name if isinstance(value, str) else str(value)


def _part(name: str, settings: Mapping[str, Json]) -> str:
    """A part with its settings, as `sgd-momentum=0.8`: two parts may have one value."""
    return "-".join((name, *(f"{key}={_text(value)}" for key, value in settings.items())))
