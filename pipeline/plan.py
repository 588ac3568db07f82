"""From a manifest to tasks and arrays: pure, the same for the same manifest and the same files."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.data.identity import identify
from jobs.data.settings import Data
from jobs.data.shards import shard_tasks
from jobs.errors import InputError
from jobs.models import Recipe
from jobs.search.study import Definition
from jobs.settings import ModelSettings, Value, beside, deciding, values
from jobs.task import STAGES, Task
from pipeline.manifest.model import Manifest, Resources, Run, Search

DATA_GROUP = "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A task with its place in the manifest, which is no part of its identity.

    ``after`` are tasks that must be over, whatever their fate; the task's own ``needs`` must be done.
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

    @property
    def fixed(self) -> dict[str, Value]:
        """The settings that the manifest itself decides."""
        return {name: value for name, value in values(self.settings).items() if name not in self.searched}


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

    ``missing`` says which data files are not there; ids that build on them are provisional.
    """

    manifest: Manifest
    tasks: tuple[Planned, ...]
    rows: tuple[Row, ...]
    searches: tuple[PlannedSearch, ...]
    missing: tuple[str, ...] = ()

    def by_id(self) -> dict[str, Planned]:
        return {planned.id: planned for planned in self.tasks}


def make_plan(manifest: Manifest, *, only: str | None = None, provisional: bool = False) -> Plan:
    """The plan of a manifest, or of one of its groups or searches.

    Reads the data files' fingerprints and nothing else. Raises FileNotFoundError for a data file that is not
    there, unless a ``provisional`` plan will do; ValueError for a group that the manifest lacks.
    """
    names = dict.fromkeys([*(run.group for run in manifest.runs), *(search.name for search in manifest.searches)])
    if only is not None and only not in names:
        raise InputError(f"{manifest.path}: no group or search {only!r}: must be one of {', '.join(names)}")
    builder = _PlanBuilder(manifest, provisional=provisional)
    for run in manifest.runs:
        if only in (None, run.group):
            builder.add_run(run)
    for search in manifest.searches:
        if only in (None, search.name):
            builder.add_search(search)
    return Plan(
        manifest=manifest,
        tasks=tuple(sorted(builder.tasks.values(), key=lambda planned: STAGES.index(planned.stage))),
        rows=tuple(builder.rows),
        searches=tuple(builder.searches),
        missing=tuple(builder.missing),
    )


class _PlanBuilder:
    """Collects tasks by id: what two runs share is planned once, under the first that asks for it."""

    def __init__(self, manifest: Manifest, *, provisional: bool) -> None:
        self.manifest = manifest
        self.missing: list[str] = []
        self._provisional = provisional
        self.tasks: dict[str, Planned] = {}
        self.rows: list[Row] = []
        self.searches: list[PlannedSearch] = []
        self._datasets: dict[str, str] = {}

    def add(self, planned: Planned) -> str:
        return self.tasks.setdefault(planned.id, planned).id

    def add_dataset(self, data: Data, resources: Mapping[str, Resources]) -> str:
        # The same for hundreds of runs: fingerprints of its files are taken once.
        key = data.model_dump_json()
        if key not in self._datasets:
            settings, plumbing = self._identify(data)
            given = resources["preprocess"]
            task = Task(stage="preprocess", settings=settings, plumbing={**plumbing, "shards": given.shards})
            place: dict[str, Any] = {"group": DATA_GROUP, "settings": data, "resources": given}
            name = data.language or "all"
            shards = shard_tasks(task, given.shards) if "sources" in settings else ()
            after = tuple(
                self.add(Planned(task=shard, run=f"{name} shard {number}", **place))
                for number, shard in enumerate(shards)
            )
            self._datasets[key] = self.add(Planned(task=task, run=name, after=after, **place))
        return self._datasets[key]

    def _identify(self, data: Data) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            return identify(data)
        except FileNotFoundError as error:
            if not self._provisional:
                raise
            self.missing.append(str(error))
            return {"provisional": data.model_dump()}, {}

    def add_run(self, run: Run) -> None:
        dataset = self.add_dataset(run.data, run.resources)
        train = _train_task(Recipe(architecture=run.architecture, dataset=dataset, settings=run.settings))
        place: dict[str, Any] = {
            "group": run.group,
            "run": run.name,
            "architecture": run.architecture,
            "seed": run.seed,
        }
        self.add(Planned(task=train, settings=run.settings, resources=run.resources["train"], **place))
        evaluate = Task(stage="evaluate", settings={"train": train.id}, needs=(dataset, train.id))
        self.add(Planned(task=evaluate, settings=run.settings, resources=run.resources["evaluate"], **place))
        self.rows.append(
            Row(
                settings=run.settings,
                dataset=dataset,
                train=train.id,
                evaluate=evaluate.id,
                reference=run.reference,
                **place,
            )
        )

    def add_search(self, search: Search) -> None:
        dataset = self.add_dataset(search.data, search.resources)
        definition = _definition(search, dataset)
        search_id = definition.id
        place: dict[str, Any] = {"group": search.name, "architecture": search.architecture}
        trials = tuple(
            self.add(
                Planned(
                    task=Task(
                        stage="trial",
                        settings={"search": definition.document, "number": number},
                        needs=(dataset,),
                        plumbing=beside(search.settings),
                    ),
                    run=f"trial {number}",
                    seed=search.seed,
                    settings=search.settings,
                    resources=search.resources["train"],
                    **place,
                )
            )
            for number in range(search.trials)
        )
        self.searches.append(PlannedSearch(id=search_id, search=search, dataset=dataset, trials=trials))
        winner = {"search": search_id, "trials": search.trials}
        for rank in range(1, search.evaluate_best + 1):
            name = "winner" if rank == 1 else f"rank {rank}"
            evaluate = Task(stage="evaluate", settings={**winner, "rank": rank}, needs=(dataset,))
            self._add_row(search, search_id, dataset, trials, evaluate, None, name, search.seed)
        for seed in search.refit_seeds:
            train = Task(
                stage="train",
                settings={**winner, "dataset": dataset, "seed": seed},
                needs=(dataset,),
                plumbing=beside(search.settings),
            )
            self.add(
                Planned(
                    task=train,
                    run="refit",
                    seed=seed,
                    settings=search.settings,
                    resources=search.resources["train"],
                    after=trials,
                    **place,
                )
            )
            evaluate = Task(stage="evaluate", settings={"train": train.id}, needs=(dataset, train.id))
            self._add_row(search, search_id, dataset, (), evaluate, train.id, "refit", seed)

    def _add_row(
        self,
        search: Search,
        search_id: str,
        dataset: str,
        after: tuple[str, ...],
        evaluate: Task,
        train: str | None,
        name: str,
        seed: int,
    ) -> None:
        place: dict[str, Any] = {"group": search.name, "run": name, "architecture": search.architecture, "seed": seed}
        resources = search.resources["evaluate"]
        self.add(Planned(task=evaluate, settings=search.settings, resources=resources, after=after, **place))
        self.rows.append(
            Row(
                settings=search.settings,
                dataset=dataset,
                train=train,
                evaluate=evaluate.id,
                reference=search.reference,
                search=search_id,
                searched=search.searched,
                **place,
            )
        )


def _train_task(recipe: Recipe) -> Task:
    return Task(stage="train", settings=recipe.identity, needs=(recipe.dataset,), plumbing=beside(recipe.settings))


def _definition(search: Search, dataset: str) -> Definition:
    fixed = deciding(search.settings)
    return Definition(
        architecture=search.architecture,
        dataset=dataset,
        algorithm=search.algorithm,
        metric=search.metric,
        space=search.space,
        stopping=search.stopping,
        seed=search.seed,
        settings={name: value for name, value in fixed.items() if name not in search.searched},
    )


def make_arrays(tasks: Iterable[Planned]) -> tuple[PlannedArray, ...]:
    """Group tasks into arrays by stage, group and resources, each array after those it waits for."""
    kinds: dict[tuple[str, str, Resources, bool], list[Planned]] = {}
    for planned in tasks:
        # A refit waits for its search: it must not hold up the group's other training tasks.
        key = (planned.stage, planned.group, planned.resources, bool(planned.after))
        kinds.setdefault(key, []).append(planned)
    where = {planned.id: position for position, members in enumerate(kinds.values()) for planned in members}
    order = _topological(len(kinds), lambda position: _waits(list(kinds.values())[position], where) - {position})
    place = {old: new for new, old in enumerate(order)}
    members = list(kinds.values())
    return tuple(
        PlannedArray(
            stage=members[old][0].stage,
            group=members[old][0].group,
            tasks=tuple(members[old]),
            resources=members[old][0].resources,
            after=tuple(sorted(place[other] for other in _waits(members[old], where) - {old})),
        )
        for old in order
    )


def _waits(members: Iterable[Planned], where: Mapping[str, int]) -> set[int]:
    """Positions of the arrays that hold what these tasks wait for; a need that is met is in none."""
    return {where[need] for planned in members for need in (*planned.task.needs, *planned.after) if need in where}


def _topological(count: int, before: Callable[[int], set[int]]) -> list[int]:
    order: list[int] = []
    waiting = list(range(count))
    while waiting:
        ready = [position for position in waiting if before(position) <= set(order)]
        order += ready
        waiting = [position for position in waiting if position not in ready]
    return order


# Which task a person means: by id, by the start of an id, or by GROUP/RUN/STAGE.


def find_task(plan: Plan, words: str) -> Planned:
    """The one task that ``words`` name: an id or its start, RUN, GROUP/RUN or GROUP/RUN/STAGE.

    A run names its training (or trial) rather than its evaluation. Raises ValueError, with what would be right,
    where no task or more than one is meant.
    """
    found = [planned for planned in plan.tasks if planned.id.startswith(words)] if len(words) >= 4 else []
    if not found:
        found = [planned for planned in plan.tasks if words in _names(planned)]
    trained = [planned for planned in found if planned.stage != "evaluate"]
    if len(trained or found) == 1:
        return (trained or found)[0]
    if found:
        options = ", ".join(f"{planned.group}/{planned.run}/{planned.stage} {planned.id}" for planned in found[:8])
        raise InputError(f"{words!r} names {len(found)} tasks: {options}")
    known = sorted({name for planned in plan.tasks for name in _names(planned)})
    near = difflib.get_close_matches(words, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; runs: {', '.join(known[:12])}"
    raise InputError(f"no task {words!r} in {plan.manifest.path}{hint}")


def _names(planned: Planned) -> tuple[str, ...]:
    group = f"{planned.group}/{planned.run}"
    return planned.run, group, f"{group}/{planned.stage}", f"{planned.group}/{planned.stage}"
