"""A manifest as the rest of the pipeline sees it: complete, expanded and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from jobs.data.settings import Data
from jobs.models.ensemble import Settings as Ensemble
from jobs.plugins import ALGORITHMS, METRICS, MODELS, STOPPING, Part
from jobs.search.across import ARCHITECTURE, space_of
from jobs.search.space import samples
from jobs.settings import ModelSettings, Value, describe, parts_of
from sharedfs.typed_json import Json
from slurm.array import Site

ENSEMBLES = "ensembles"  # the group of all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one task of a stage gets; ``throttle`` caps how many run at once, ``pack`` shares one allocation.

    A task whose GPU is used less than ``idle_below`` percent for ``idle_min`` minutes is ended; 0: never. ``auto``
    names those of cpus, mem_gb and time_min that are taken from finished tasks (``pipeline.sizing``); their values here
    are the defaults where there are none.
    """

    cpus: int = 2
    gpus: int = 0
    mem_gb: float = 8.0
    time_min: int = 60
    throttle: int | None = None
    pack: int = 1
    shards: int = 1
    idle_min: int = 0
    idle_below: float = 1.0
    auto: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster(Site):
    """A cluster profile: a site's rules for jobs, none of which changes a result.

    ``stages`` are the options by which jobs of a stage differ from the rest, by stage: None for one that is left out.
    """

    executor: str = "slurm"
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def site(self, stage: str) -> Site:
        """The options for jobs of a stage: its own stand above the profile's."""
        everywhere = {option.name: getattr(self, option.name) for option in fields(Site)}
        if stage == "close" and self.container is not None:
            # It calls Slurm's programs, which are in no image: it runs as whoever submits does.
            everywhere |= {"container": None, "python": None}
        if stage not in ("train", "trial"):
            # Only training goes on where a shorter limit ended it.
            everywhere |= {"least_min": None}
        own = self.stages.get("train" if stage == "trial" else stage, {})
        extra = {**self.extra, **own.get("extra", {})}
        return Site(**{**everywhere, **own, "extra": extra})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One fixed experiment: every setting of its architecture, the seed among them."""

    group: str
    name: str  # as the manifest calls it; the same for all seeds of a run
    architecture: str
    settings: ModelSettings
    data: Data
    resources: Mapping[str, Resources]  # by stage
    reference: Mapping[str, float] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return int(getattr(self.settings, "seed", 0))


def members_of(ensemble: Run) -> frozenset[str]:
    """The groups, searches and `group/run` that an ensemble of a manifest names."""
    assert isinstance(ensemble.settings, Ensemble)
    return frozenset(ensemble.settings.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What a search fixes of one architecture: ``settings``, but for those that ``searched`` names."""

    settings: ModelSettings
    searched: frozenset[str]
    decided: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search: ``settings`` are the fixed ones, but for those that ``searched`` names: every point has its own.

    ``decided`` are all those that some point has a value for.
    ``space`` has a distribution for each of these, and for those that depend on what was drawn.
    ``across`` has these of each architecture where several are searched: then ``architecture`` is their names together.
    """

    name: str
    architecture: str
    algorithm: str
    trials: int
    parallel: int
    metric: str
    space: Mapping[str, Json]
    stopping: Mapping[str, Mapping[str, Value]] | None
    seed: int
    settings: ModelSettings
    searched: frozenset[str]
    decided: frozenset[str] = frozenset()
    data: Data
    resources: Mapping[str, Resources]
    evaluate_best: int = 1
    refit_seeds: tuple[int, ...] = ()
    reference: Mapping[str, float] = field(default_factory=dict)
    startup: int | None = None  # trials with a result before the algorithm proposes
    points: tuple[Mapping[str, Value], ...] = ()  # tried first
    continues: str | None = None  # the name of the search whose trials are history
    across: Mapping[str, Fixed] = field(default_factory=dict)

    @property
    def fixed(self) -> Mapping[str, Fixed]:
        """What is fixed, by the names of the architectures that are searched."""
        only = Fixed(settings=self.settings, searched=self.searched, decided=self.decided)
        return self.across or {self.architecture: only}

    @property
    def examples(self) -> Iterator[tuple[str, ModelSettings]]:
        """Trials that show every option of the space's choices, and its ranges at both ends, by architecture."""
        for point in samples(space_of(self.space, tuple(self.fixed))):
            name = str(point.pop(ARCHITECTURE, self.architecture))
            settings = self.fixed[name].settings
            known = {setting.name: setting for setting in describe(type(settings))}
            yield name, replace(settings, **{key: known[key].read(value) for key, value in point.items()})

    @property
    def group(self) -> str:
        """Its tasks and rows are a group of its name."""
        return self.name

    @property
    def parts(self) -> tuple[Part, ...]:
        """What decides which points are tried, and what they train: by name, in settings and in the space."""
        named = [(ALGORITHMS, self.algorithm), *((MODELS, name) for name in self.fixed)]
        named += [(METRICS, self.metric.partition("_")[2]), *((STOPPING, name) for name in self.stopping or ())]
        tried = [parts_of(settings) for _, settings in self.examples]
        usual = [parts_of(fixed.settings) for fixed in self.fixed.values()]
        parts = (Part(room.name, name) for room, name in named)
        return tuple(dict.fromkeys((*parts, *(part for each in (*tried, *usual) for part in each))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A complete manifest; paths are absolute."""

    name: str
    path: Path
    document: Mapping[str, Json]  # after include and --set, before expansion: what a submission keeps
    storage: Path
    cluster: Cluster
    runs: tuple[Run, ...]
    searches: tuple[Search, ...]
    resources: Mapping[str, Resources]
    ensembles: tuple[Run, ...] = ()  # whose members are groups, searches and runs by name
    language: str = "en"  # of the report
    tracking_uri: str | None = None
    retries: int = 2
    canary: bool = False
    brake_after: int = 3
    notify: str | None = None  # a shell command that gets messages; this user's own, never another's
    mail: str | None = None  # whom Slurm tells that a closing job has ended
    umask: int | None = None  # of what is written to the storage

    def is_member(self, *names: str) -> bool:
        """Whether an ensemble has one of these names among its members."""
        return any(not members_of(ensemble).isdisjoint(names) for ensemble in self.ensembles)

    def take_umask(self) -> None:
        """Give this process the umask that the manifest has, if any: for all that is written of it from here on."""
        if self.umask is not None:
            os.umask(self.umask)
