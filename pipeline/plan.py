"""From a manifest to tasks and arrays, the same for the same manifest and the same files; reads their fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

from jobs.data.identity import identify
from jobs.data.settings import Data
from jobs.data.shards import shard_tasks
from jobs.models import Recipe
from jobs.models.ensemble import Settings as Ensemble
from jobs.plugins import METRICS, Part, identities, in_use
from jobs.search.algorithms import startups
from jobs.search.study import Definition
from jobs.settings import ModelSettings, beside, deciding, values
from jobs.storage import Storage
from jobs.task import STAGES, Task
from pipeline.manifest.model import ENSEMBLES, Manifest, Resources, Run, Search, members_of
from pipeline.manifest.yaml_nodes import composed
from pipeline.memory import collection_paused
from pipeline.sizing import Sizing, size_tasks
from sharedfs.errors import InputError, did_you_mean
from sharedfs.typed_json import Json

DATA_GROUP = "data"
Identify = Callable[[Data], tuple[Mapping[str, Json], Mapping[str, Json]]]  # as ``jobs.data.identity.identify``


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A task and where the manifest asks for it, which is no part of its identity.

    ``after`` are tasks that must have ended, done or not; the task's own ``needs`` must be done.
    """

    task: Task
    group: str
    run: str
    architecture: str | None = None
    seed: int | None = None
    settings: ModelSettings | Data
    resources: Resources
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.task.id

    @property
    def stage(self) -> str:
        return self.task.stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the tables: one trained run and the task that evaluates it.

    ``train`` is a train task's id or, for a search's winner, None: known once the search is over.
    """

    group: str
    run: str
    architecture: str
    seed: int
    settings: ModelSettings
    dataset: str
    train: str | None
    evaluate: str
    reference: Mapping[str, float]
    search: str | None = None  # the id of the search that the row's settings come from
    searched: frozenset[str] = frozenset()  # names of settings that the search decides
    across: bool = False  # the search decides the architecture too: until then ``settings`` say nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSearch:
    """A search as planned: its id, which is its folder's name on storage, and its trials in order."""

    id: str
    search: Search
    dataset: str
    trials: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedArray:
    """Tasks of one stage and group with equal resources; ``after`` are positions of earlier arrays."""

    stage: str
    group: str
    tasks: tuple[Planned, ...]
    resources: Resources
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a manifest asks for, done or not: each task once, needs before what needs them.

    ``missing`` are the data files that do not exist; ids that build on them are provisional. ``sizings`` say where
    resources that are `auto` are from.
    """

    manifest: Manifest
    tasks: tuple[Planned, ...]
    rows: tuple[Row, ...]
    searches: tuple[PlannedSearch, ...]
    missing: tuple[str, ...] = ()
    sizings: tuple[Sizing, ...] = ()

    def by_id(self) -> dict[str, Planned]:
        return {planned.id: planned for planned in self.tasks}


@collection_paused()
def make_plan(
    manifest: Manifest, *, only: str | None = None, provisional: bool = False, identify: Identify = identify
) -> Plan:
    """The plan of a manifest, or of one of its groups or searches.

    Reads the data files' fingerprints, where resources are `auto` what tasks left on the storage, and nothing else.
    With another ``identify`` no data files are read: it says what their fingerprints were.
    Raises FileNotFoundError for a data file that is not there, unless a ``provisional`` plan will do; ValueError for a
    group that the manifest lacks.
    """
    groups = [run.group for run in (*manifest.runs, *manifest.ensembles)]
    names = {*groups, *(search.name for search in manifest.searches)}
    only = None if only is None else composed(only)
    if only is not None and only not in names:
        raise InputError(f"{manifest.path}: no group or search {only!r}{did_you_mean(only, names)}")
    builder = _PlanBuilder(manifest, provisional=provisional, identify=identify)
    for run in manifest.runs:
        if only in (None, run.group) or (
            only == ENSEMBLES and manifest.is_member(run.group, f"{run.group}/{run.name}")
        ):
            builder.add_run(run)
    for search in manifest.searches:
        if only in (None, search.name) or (only == ENSEMBLES and manifest.is_member(search.name)):
            builder.add_search(search)
    if only in (None, ENSEMBLES):
        for ensemble in manifest.ensembles:
            builder.add_ensemble(ensemble)
    resources, sizings = size_tasks(Storage(manifest.storage), builder.tasks.values())
    tasks = [
        replace(planned, resources=resources[planned.id]) if planned.id in resources else planned
        for planned in builder.tasks.values()
    ]
    return Plan(
        manifest=manifest,
        tasks=tuple(sorted(tasks, key=lambda planned: STAGES.index(planned.stage))),
        rows=tuple(builder.rows),
        searches=tuple(builder.searches),
        missing=tuple(builder.missing),
        sizings=sizings,
    )


class _PlanBuilder:
    """Collects tasks by id: what two runs share is planned once, under the first that asks for it."""

    def __init__(self, manifest: Manifest, *, provisional: bool, identify: Identify) -> None:
        self._searches = {search.name: search for search in manifest.searches}
        self.tasks: dict[str, Planned] = {}
        self.rows: list[Row] = []
        self.searches: list[PlannedSearch] = []
        self.missing: list[str] = []
        self._provisional = provisional
        self._files_of = identify
        self._datasets: dict[Data, str] = {}

    def _keep(self, planned: Planned) -> str:
        self.tasks.setdefault(planned.id, planned)
        return planned.id

    def _add(self, task: Task, section: Run | Search, *, run: str, seed: int, after: tuple[str, ...] = ()) -> str:
        """Plan a task of a run or a search, with the resources that its section gives to the stage."""
        planned = Planned(
            task=task,
            group=section.group,
            run=run,
            architecture=section.architecture,
            seed=seed,
            settings=section.settings,
            resources=section.resources["train" if task.stage == "trial" else task.stage],
            after=after,
        )
        return self._keep(planned)

    def _add_row(
        self,
        evaluate: Task,
        section: Run | Search,
        *,
        run: str,
        seed: int,
        dataset: str,
        train: str | None,
        search: str | None = None,
        after: tuple[str, ...] = (),
    ) -> None:
        """Plan the evaluation of a run, and its row in the tables."""
        row = Row(
            group=section.group,
            run=run,
            architecture=section.architecture,
            seed=seed,
            settings=section.settings,
            dataset=dataset,
            train=train,
            evaluate=self._add(evaluate, section, run=run, seed=seed, after=after),
            reference=section.reference,
            search=search,
            searched=section.searched if isinstance(section, Search) else frozenset(),
            across=isinstance(section, Search) and bool(section.across),
        )
        self.rows.append(row)

    def _add_dataset(self, data: Data, resources: Resources) -> str:
        # The same for hundreds of runs: fingerprints of its files are taken once.
        dataset = self._datasets.get(data)
        if dataset is None:
            settings, plumbing = self._identify(data)
            task = Task(stage="preprocess", settings=settings, plumbing={**plumbing, "shards": resources.shards})
            shards = shard_tasks(task, resources.shards) if "sources" in settings else ()
            whole = Planned(task=task, group=DATA_GROUP, run=data.language or "all", settings=data, resources=resources)
            after = tuple(
                self._keep(replace(whole, task=shard, run=f"{whole.run} shard {number}"))
                for number, shard in enumerate(shards)
            )
            dataset = self._datasets[data] = self._keep(replace(whole, after=after))
        return dataset

    def _identify(self, data: Data) -> tuple[Mapping[str, Json], Mapping[str, Json]]:
        try:
            return self._files_of(data)
        except FileNotFoundError as error:
            if not self._provisional:
                raise
            self.missing.append(str(error))
            return {"provisional": values(data)}, {}

    def add_run(self, run: Run) -> None:
        dataset = self._add_dataset(run.data, run.resources["preprocess"])
        recipe = Recipe(architecture=run.architecture, dataset=dataset, settings=run.settings)
        settings, plumbing = recipe.divided
        train = Task(stage="train", settings=settings, needs=(dataset,), plumbing=plumbing)
        self._add(train, run, run=run.name, seed=run.seed)
        evaluate = _evaluation({"train": train.id}, dataset, train.id)
        self._add_row(evaluate, run, run=run.name, seed=run.seed, dataset=dataset, train=train.id)

    def add_ensemble(self, ensemble: Run) -> None:
        """An ensemble of rows that are planned: its members' names become ids, those of trials once these are over."""
        assert isinstance(ensemble.settings, Ensemble)
        names, rows = members_of(ensemble), self.rows
        rows = [row for row in rows if not names.isdisjoint((row.group, f"{row.group}/{row.run}"))]
        trained = [row.train for row in rows if row.train is not None]
        ranked = [(row, self.tasks[row.evaluate]) for row in rows if row.train is None]
        winners = ["{search}/{trials}/{rank}".format_map(planned.task.settings) for _, planned in ranked]
        # Sorted: the same members named in another order are the same ensemble.
        members = tuple(sorted({*trained, *winners}))
        recipe = Recipe(
            architecture=ensemble.architecture,
            dataset=rows[0].dataset,
            settings=replace(ensemble.settings, members=members),
        )
        settings, plumbing = recipe.divided
        task = Task(stage="train", settings=settings, needs=(recipe.dataset, *sorted(trained)), plumbing=plumbing)
        after = tuple(trial for _, planned in ranked for trial in planned.after)
        self._add(task, ensemble, run=ensemble.name, seed=0, after=tuple(dict.fromkeys(after)))
        evaluate = _evaluation({"train": task.id}, recipe.dataset, task.id)
        self._add_row(evaluate, ensemble, run=ensemble.name, seed=0, dataset=recipe.dataset, train=task.id)

    def _definition(self, search: Search, dataset: str) -> Definition:
        # Its data are those of the search that it continues, as the manifest was checked.
        earlier = self._searches.get(search.continues or "")
        continues = None if earlier is None else self._definition(earlier, dataset).id
        return replace(_definition(search, dataset), continues=continues)

    def add_search(self, search: Search) -> None:
        dataset = self._add_dataset(search.data, search.resources["preprocess"])
        definition = self._definition(search, dataset)
        plumbings = {name: beside(each.settings, varied=each.decided) for name, each in search.fixed.items()}
        plumbing: Mapping[str, Json] = plumbings if search.across else plumbings[search.architecture]
        search_id, document = definition.id, definition.document
        trials = []
        for number in range(search.trials):
            trial = Task(
                stage="trial", settings={"search": document, "number": number}, needs=(dataset,), plumbing=plumbing
            )
            trials.append(self._add(trial, search, run=f"trial {number}", seed=search.seed))
        after = tuple(trials)
        self.searches.append(PlannedSearch(id=search_id, search=search, dataset=dataset, trials=after))
        winner: Mapping[str, Json] = {"search": search_id, "trials": search.trials}
        for rank in range(1, search.evaluate_best + 1):
            evaluate = _evaluation({**winner, "rank": rank}, dataset)
            self._add_row(
                evaluate,
                search,
                run="winner" if rank == 1 else f"rank {rank}",
                seed=search.seed,
                dataset=dataset,
                train=None,
                search=search_id,
                after=after,
            )
        for seed in search.refit_seeds:
            settings = {**winner, "dataset": dataset, "seed": seed}
            train = Task(stage="train", settings=settings, needs=(dataset,), plumbing=plumbing)
            self._add(train, search, run="refit", seed=seed, after=after)
            evaluate = _evaluation({"train": train.id}, dataset, train.id)
            self._add_row(evaluate, search, run="refit", seed=seed, dataset=dataset, train=train.id, search=search_id)


def _evaluation(whose: Mapping[str, Json], *needs: str) -> Task:
    """An evaluation; metrics that are plugins are in its id: it has their figures, as they compute them now."""
    metrics = identities(Part(METRICS.name, name) for name in METRICS.names()) if in_use() else {}
    return Task(stage="evaluate", settings={**whose, "metrics": metrics} if metrics else whose, needs=needs)


def _definition(search: Search, dataset: str) -> Definition:
    plugins = identities(search.parts) if in_use() else {}
    fixed: dict[str, Mapping[str, Json]] = {}
    for architecture, each in search.fixed.items():
        decide = deciding(each.settings, varied=each.decided)
        fixed[architecture] = {name: value for name, value in decide.items() if name not in each.searched}
    baseline = startups(search.algorithm)
    return Definition(
        architecture=search.architecture,
        dataset=dataset,
        algorithm=search.algorithm,
        metric=search.metric,
        space=search.space,
        stopping=search.stopping,
        seed=search.seed,
        settings={} if search.across else fixed[search.architecture],
        across=fixed if search.across else None,
        plugins=plugins or None,
        startup=None if baseline is None or search.startup == baseline[1] else search.startup,
        points=search.points or None,
    )


def make_arrays(tasks: Iterable[Planned]) -> tuple[PlannedArray, ...]:
    """Group tasks into arrays by stage, group and resources, each array after those it waits for."""
    kinds: dict[tuple[str, str, Resources, bool], list[Planned]] = {}
    for planned in tasks:
        # A refit waits for its search: it must not hold up the group's other training tasks.
        key = (planned.stage, planned.group, planned.resources, bool(planned.after))
        kinds.setdefault(key, []).append(planned)
    groups = list(kinds.values())
    array_of = {planned.id: position for position, members in enumerate(groups) for planned in members}
    waits = [
        # A need that is met already is in no array.
        {array_of[need] for planned in members for need in (*planned.task.needs, *planned.after) if need in array_of}
        - {position}
        for position, members in enumerate(groups)
    ]
    order = _topological(waits)
    rank = {position: number for number, position in enumerate(order)}
    return tuple(
        PlannedArray(
            stage=groups[position][0].stage,
            group=groups[position][0].group,
            tasks=tuple(groups[position]),
            resources=groups[position][0].resources,
            after=tuple(sorted(rank[other] for other in waits[position])),
        )
        for position in order
    )


def _topological(waits: Iterable[set[int]]) -> list[int]:
    """Positions, each after those it waits for; among those that could come next, the first in the plan comes first."""
    sorter = TopologicalSorter(dict(enumerate(waits)))
    sorter.prepare()
    order: list[int] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        sorter.done(*ready)
        order += ready
    return order
