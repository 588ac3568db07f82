"""Groups of a manifest expanded into runs: runs, grids, zips, seeds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

from jobs.data.settings import Data
from jobs.errors import KeyPath, did_you_mean
from pipeline.manifest import naming
from pipeline.manifest.architectures import Architecture, Catalogue, Layer
from pipeline.manifest.datasets import DataSets, merged
from pipeline.manifest.model import Resources, Run
from pipeline.manifest.resources import explicit, resolve_resources, without_gpus
from pipeline.manifest.schema import Cluster, Group, Root, Stages
from pipeline.manifest.schema import Run as RunSection
from pipeline.manifest.validation import Findings

RUNS_MAX = 100_000
FIGURES = tuple(
    f"{split}_{figure}"
    for split in ("train", "validation", "test")
    for figure in ("loss", "balanced_accuracy", "accuracy", "macro_f1", "top5")
)
FORMS = ("runs", "grid", "zip")
GROUP_KEYS = tuple(Group.model_fields)
RUN_KEYS = tuple(RunSection.model_fields)
RESERVED = ("data",)  # preprocess tasks are shown under it


# What all groups and searches of one manifest are expanded with.


class Expansion:
    """The catalogue, the data sets and the resources of one manifest, and where its problems go."""

    def __init__(self, root: Root, found: Findings) -> None:
        self.found = found
        self.catalogue = Catalogue(root.defaults or {}, found)
        self.datasets = DataSets(root.data, found)
        layers = [explicit((root.cluster or Cluster()).resources), explicit(root.resources)]
        self._layers = {"network": layers, "estimator": [without_gpus(layer) for layer in layers]}
        self._usual = {kind: resolve_resources(*layers) for kind, layers in self._layers.items()}
        self._runs = 0

    def resources(self, architecture: Architecture, *own: Stages) -> Mapping[str, Resources]:
        """Resources by stage of an architecture's run, under a group's, a run's or a search's own.

        An estimator gets a GPU only where these ask for one.
        """
        layers = [layer for layer in map(explicit, own) if layer]
        return (
            resolve_resources(*self._layers[architecture.kind], *layers) if layers else self._usual[architecture.kind]
        )

    def count(self, runs: int, path: KeyPath) -> bool:
        """Whether so many more runs may be made; noted where not."""
        self._runs += runs
        if self._runs > RUNS_MAX:
            self.found.add(path, f"more than {RUNS_MAX:,} runs in all", key=True)
        return self._runs <= RUNS_MAX

    def check_name(self, name: str, path: KeyPath, *, key: bool = True) -> None:
        """Note a name that can't be a folder's; ``key`` false where it is a value."""
        problem = naming.unsafe(name)
        if problem is not None:
            self.found.add(path, f"{name!r} is {problem}", key=key)

    def check_seeds(self, seeds: Iterable[int], path: KeyPath) -> None:
        seen: set[int] = set()
        for position, seed in enumerate(seeds):
            if not 0 <= seed < 2**31:
                self.found.add((*path, position), f"must be from 0 to {2**31 - 1}, not {seed}")
            if seed in seen:
                self.found.add((*path, position), f"the seed {seed} is there twice")
            seen.add(seed)

    def check_reference(self, figures: Mapping[str, float], path: KeyPath) -> None:
        for name in figures:
            if name not in FIGURES:
                self.found.add((*path, name), f"unknown metric{did_you_mean(name, FIGURES)}", key=True)

    def check_settings(
        self, architecture: Architecture, settings: Mapping[str, Any], data: Data, path: KeyPath
    ) -> None:
        """Note what is wrong between settings, at the setting that the architecture's check names."""
        problem = architecture.check(settings, data.max_length)
        if problem is None:
            return
        name, colon, message = problem.partition(": ")
        if colon and name in architecture.settings:
            self.found.add((*path, name), message)
        else:
            self.found.add(path, problem)


# Groups of fixed runs: named ones, every combination of a grid, pairs of a zip; each for each of its seeds.


class GroupExpansion:
    """One group on its way to runs."""

    def __init__(self, name: str, group: Group, whole: Expansion) -> None:
        self.name, self.group, self.whole = name, group, whole
        self.path: KeyPath = ("experiments", name)
        self.found = whole.found
        self._layers: dict[str, Layer] = {}
        self._resources: dict[str, Mapping[str, Resources]] = {}
        self._runs: list[Run] = []
        self._names: list[str] = []

    def runs(self) -> list[Run]:
        """The group's runs, in the manifest's order; problems go to the findings."""
        self.whole.check_name(self.name, self.path)
        if self.name in RESERVED:
            self.found.add(self.path, f"the name {self.name!r} is taken: preprocess tasks are shown under it", key=True)
        forms = [form for form in FORMS if getattr(self.group, form) is not None]
        if self.group.seeds is not None:
            self._check_seeds(self.group.seeds, self.group.model_extra or {}, self.path)
        if not forms:
            self.found.add(self.path, "is an empty group: give it runs, grid or zip", key=True)
        elif len(forms) > 1:
            self.found.add((*self.path, forms[1]), f"stands beside {forms[0]}: a group has one of them", key=True)
        elif not getattr(self.group, forms[0]):
            self.found.add((*self.path, forms[0]), "is empty: a group needs at least one run", key=True)
        elif forms == ["runs"]:
            self._named()
        else:
            self._axes(forms[0])
        self._check_reference()
        return self._runs

    def _check_seeds(self, seeds: list[int], keys: Mapping[str, Any], path: KeyPath) -> None:
        if not seeds:
            self.found.add((*path, "seeds"), "must be a non-empty list")
        if "seed" in keys:
            self.found.add((*path, "seed"), "stands beside seeds: give one", key=True)
        self.whole.check_seeds(seeds, (*path, "seeds"))

    def _layer(self, architecture: Architecture) -> Layer:
        """What the group itself sets, for one architecture."""
        if architecture.name not in self._layers:
            self._layers[architecture.name] = self.whole.catalogue.layer(
                architecture,
                self.group.model_extra or {},
                self.path,
                stopping=self.group.early_stopping,
                also=GROUP_KEYS,
            )
        return self._layers[architecture.name]

    def _of_group(self, architecture: Architecture) -> Mapping[str, Resources]:
        """The resources of a run of the group that says nothing of its own."""
        if architecture.name not in self._resources:
            self._resources[architecture.name] = self.whole.resources(architecture, self.group.resources)
        return self._resources[architecture.name]

    def _named(self) -> None:
        for name, section in (self.group.runs or {}).items():
            path = (*self.path, "runs", name)
            run = section or RunSection()
            self.whole.check_name(name, path)
            self._names.append(name)
            place = path if run.architecture is not None else self.path
            if run.architecture is None and self.group.architecture is None:
                place = path
            architecture = self.whole.catalogue.get(run.architecture or self.group.architecture, place)
            if architecture is None:
                continue
            own = self.whole.catalogue.layer(
                architecture, run.model_extra or {}, path, stopping=run.early_stopping, also=RUN_KEYS
            )
            if run.seeds is not None:
                self._check_seeds(run.seeds, own.settings, path)
            elif self.group.seeds is not None and "seed" in own.settings:
                self.found.add((*path, "seed"), "the group has seeds: give one of them", key=True)
            resources = self._of_group(architecture)
            if run.resources.model_fields_set:
                resources = self.whole.resources(architecture, self.group.resources, run.resources)
            seeds = self.group.seeds if run.seeds is None else run.seeds
            self._add(name, architecture, own, resources, seeds, path)

    def _axes(self, form: str) -> None:
        axes: dict[str, list[Any]] = getattr(self.group, form)
        path = (*self.path, form)
        if not self._sound(axes, form, path):
            return
        order = range(len(next(iter(axes.values()))))
        positions: Iterable[tuple[int, ...]] = (
            itertools.product(*(range(len(values)) for values in axes.values()))
            if form == "grid"
            else zip(*(order for _ in axes), strict=True)
        )
        layers: dict[tuple[str, str, int], Layer] = {}
        members = []
        for chosen in positions:
            values = {axis: axes[axis][position] for axis, position in zip(axes, chosen, strict=True)}
            kind = values.get("architecture", self.group.architecture)
            architecture = self.whole.catalogue.get(kind, path if "architecture" in values else self.path)
            if architecture is not None:
                own = self._point(architecture, axes, chosen, path, layers)
                members.append((naming.of_values(values), architecture, own))
        self._names = naming.unique(name for name, _, _ in members)
        for name, (_, architecture, own) in zip(self._names, members, strict=True):
            self._add(name, architecture, own, self._of_group(architecture), self.group.seeds, path)

    def _sound(self, axes: Mapping[str, list[Any]], form: str, path: KeyPath) -> bool:
        """Whether the lists can be combined at all."""
        before = len(self.found)
        for axis, values in axes.items():
            if not values:
                self.found.add((*path, axis), "must be a non-empty list")
            seen: set[str] = set()
            for position, value in enumerate(values):
                text = json.dumps(value, sort_keys=True)
                if text in seen:
                    self.found.add(
                        (*path, axis, position), f"the value {text} is there twice" if form == "grid" else ""
                    )
                if form == "grid":
                    seen.add(text)
                if axis == "architecture" and not isinstance(value, str):
                    self.found.add((*path, axis, position), "must be an architecture's name")
        if "seed" in axes and self.group.seeds is not None:
            self.found.add((*path, "seed"), "stands beside seeds: give one", key=True)
        if "architecture" in axes and self.group.architecture is not None:
            self.found.add((*path, "architecture"), "stands beside the group's architecture: give one", key=True)
        lengths = {axis: len(values) for axis, values in axes.items()}
        if form == "zip" and len(set(lengths.values())) > 1:
            listed = ", ".join(f"{axis} {length}" for axis, length in lengths.items())
            self.found.add(path, f"lists of unequal lengths: {listed}", key=True)
        if form == "grid" and prod(lengths.values()) > RUNS_MAX:
            self.found.add(path, f"{prod(lengths.values()):,} combinations: at most {RUNS_MAX:,} runs", key=True)
        return len(self.found) == before

    def _point(
        self,
        architecture: Architecture,
        axes: Mapping[str, list[Any]],
        chosen: tuple[int, ...],
        path: KeyPath,
        known: dict[tuple[str, str, int], Layer],
    ) -> Layer:
        """One combination; each value of each axis is read once."""
        settings: dict[str, Any] = {}
        data: dict[str, Any] = {}
        for axis, position in zip(axes, chosen, strict=True):
            if axis == "architecture":
                continue
            key = (architecture.name, axis, position)
            if key not in known:
                known[key] = self._value(architecture, axis, axes[axis][position], (*path, axis, position))
            settings.update(known[key].settings)
            data.update(known[key].data)
        return Layer(settings=settings, data=data)

    def _value(self, architecture: Architecture, axis: str, value: Any, path: KeyPath) -> Layer:
        catalogue = self.whole.catalogue
        if axis in architecture.settings:
            return Layer(settings={axis: catalogue.value_of(architecture.settings[axis], value, path)}, data={})
        return catalogue.layer(architecture, {axis: value}, path[:-2], also=("architecture",))

    def _add(
        self,
        name: str,
        architecture: Architecture,
        own: Layer,
        resources: Mapping[str, Resources],
        seeds: list[int] | None,
        path: KeyPath,
    ) -> None:
        common = self._layer(architecture)
        settings = {**architecture.base, **common.settings, **own.settings}
        data = self._data(common, own, path)
        if data is None:
            return
        self.whole.check_settings(architecture, settings, data, path)
        if seeds is not None and "seed" not in architecture.settings:
            self.found.add((*self.path, "seeds"), f"{architecture.name} has no seed", key=True)
            return
        if not self.whole.count(1 if seeds is None else len(seeds), self.path):
            return
        reference = (self.group.reference or {}).get(name, {})
        for values in _seeded(settings, seeds):
            self._runs.append(
                Run(
                    group=self.name,
                    name=name,
                    architecture=architecture.name,
                    settings=values,
                    data=data,
                    resources=resources,
                    reference=reference,
                )
            )

    def _data(self, common: Layer, own: Layer, path: KeyPath) -> Data | None:
        datasets = self.whole.datasets
        if not own.data:
            return datasets.get(common.data, self.path)
        if not common.data:
            return datasets.get(own.data, path)
        return datasets.get(merged(common.data, own.data), path)

    def _check_reference(self) -> None:
        for name, figures in (self.group.reference or {}).items():
            path = (*self.path, "reference", name)
            if self._names and name not in self._names:
                self.found.add(path, f"there is no run of this name{did_you_mean(name, self._names)}", key=True)
            self.whole.check_reference(figures, path)


def _seeded(settings: Mapping[str, Any], seeds: list[int] | None) -> Iterator[Mapping[str, Any]]:
    if seeds is None:
        yield settings
        return
    for seed in seeds:
        yield {**settings, "seed": seed}
