"""What all groups and searches of one manifest are expanded with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jobs.data.settings import Data
from pipeline.manifest import names
from pipeline.manifest.allotment import allot, said, without_gpus
from pipeline.manifest.catalogue import Architecture, Catalogue
from pipeline.manifest.datasets import DataSets
from pipeline.manifest.errors import Path, nearest
from pipeline.manifest.sections import Cluster, Root, Stages
from pipeline.manifest.shape import Findings
from pipeline.manifest.types import Resources

RUNS_MAX = 100_000
FIGURES = tuple(
    f"{split}_{figure}"
    for split in ("train", "validation", "test")
    for figure in ("loss", "balanced_accuracy", "accuracy", "macro_f1", "top5")
)


class Expansion:
    """The catalogue, the data sets and the resources of one manifest, and where its problems go."""

    def __init__(self, root: Root, found: Findings) -> None:
        self.found = found
        self.catalogue = Catalogue(root.defaults or {}, found)
        self.datasets = DataSets(root.data, found)
        layers = [said((root.cluster or Cluster()).resources), said(root.resources)]
        self._layers = {"network": layers, "estimator": [without_gpus(layer) for layer in layers]}
        self._usual = {kind: allot(*layers) for kind, layers in self._layers.items()}
        self._runs = 0

    def resources(self, architecture: Architecture, *own: Stages) -> Mapping[str, Resources]:
        """Resources by stage of an architecture's run, under a group's, a run's or a search's own.

        An estimator gets a GPU only where these ask for one.
        """
        layers = [layer for layer in map(said, own) if layer]
        return allot(*self._layers[architecture.kind], *layers) if layers else self._usual[architecture.kind]

    def count(self, runs: int, path: Path) -> bool:
        """Whether so many more runs may be made; noted where not."""
        self._runs += runs
        if self._runs > RUNS_MAX:
            self.found.add(path, f"more than {RUNS_MAX:,} runs in all", key=True)
        return self._runs <= RUNS_MAX

    def check_name(self, name: str, path: Path, *, key: bool = True) -> None:
        """Note a name that can't be a folder's; ``key`` false where it is a value."""
        problem = names.unsafe(name)
        if problem is not None:
            self.found.add(path, f"{name!r} is {problem}", key=key)

    def check_seeds(self, seeds: Iterable[int], path: Path) -> None:
        seen: set[int] = set()
        for position, seed in enumerate(seeds):
            if not 0 <= seed < 2**31:
                self.found.add((*path, position), f"must be from 0 to {2**31 - 1}, not {seed}")
            if seed in seen:
                self.found.add((*path, position), f"the seed {seed} is there twice")
            seen.add(seed)

    def check_reference(self, figures: Mapping[str, float], path: Path) -> None:
        for name in figures:
            if name not in FIGURES:
                self.found.add((*path, name), f"unknown metric{nearest(name, FIGURES)}", key=True)

    def check_settings(self, architecture: Architecture, settings: Mapping[str, Any], data: Data, path: Path) -> None:
        """Note what is wrong between settings, at the setting that the architecture's check names."""
        problem = architecture.check(settings, data.max_length)
        if problem is None:
            return
        name, colon, message = problem.partition(": ")
        if colon and name in architecture.settings:
            self.found.add((*path, name), message)
        else:
            self.found.add(path, problem)
