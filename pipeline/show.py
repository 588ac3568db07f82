"""A plan for people and for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from jobs.settings import values
from pipeline.plan import Plan, Planned, PlannedArray, make_arrays
from pipeline.power import power_lines
from sharedfs.typed_json import Json

NAMED_MOST = 6  # of the tasks that a change concerns
GAIN_SHOWN_FROM = 20  # trials of tpe: ten of them did no better than ten random ones (benchmarks/search_ten.py)


def plan_document(plan: Plan, done: Mapping[str, Sequence[str]]) -> Mapping[str, Json]:
    """The plan as one JSON document, for ``plan --json``: its tasks, searches and arrays."""
    return {
        "manifest": plan.manifest.name,
        "storage": str(plan.manifest.storage),
        "tasks": [
            {
                "id": planned.id,
                "stage": planned.stage,
                "group": planned.group,
                "run": planned.run,
                "architecture": planned.architecture,
                "seed": planned.seed,
                "settings": values(planned.settings),
                "needs": list(planned.task.needs),
                "done": planned.id in done,
                "changed": list(done.get(planned.id, ())),
            }
            for planned in plan.tasks
        ],
        "searches": [
            {
                "id": planned.id,
                "name": planned.search.name,
                "architecture": planned.search.architecture,
                "algorithm": planned.search.algorithm,
                "trials": planned.search.trials,
                "parallel": planned.search.parallel,
                "startup": planned.search.startup,
                "points": list(planned.search.points),
                "continue": planned.search.continues,
                "metric": planned.search.metric,
                "space": planned.search.space,
                "stopping": planned.search.stopping,
            }
            for planned in plan.searches
        ],
        "arrays": [
            {
                "stage": array.stage,
                "group": array.group,
                "tasks": [planned.id for planned in array.tasks],
                "resources": asdict(array.resources),
                "after": list(array.after),
            }
            for array in make_arrays(plan.tasks)
        ],
        "sizings": [
            {**asdict(sizing.kind), "resources": asdict(sizing.resources), "sources": dict(sizing.sources)}
            for sizing in plan.sizings
        ],
    }


def plan_table(plan: Plan, done: Collection[str]) -> Table:
    """One line an array: what it holds, what it waits for, what it asks for, what is done already."""
    arrays = make_arrays(plan.tasks)
    table = Table(title=f"{plan.manifest.name} on {plan.manifest.storage}", title_justify="left")
    for name in ("#", "stage", "group", "tasks", "done", "after", "each task asks for", "at most GPU-hours"):
        table.add_column(name, justify="right" if name in ("#", "tasks", "done", "at most GPU-hours") else "left")
    for number, array in enumerate(arrays):
        finished = sum(planned.id in done for planned in array.tasks)
        left = len(array.tasks) - finished
        table.add_row(
            str(number),
            array.stage,
            array.group,
            str(len(array.tasks)),
            str(finished),
            ", ".join(map(str, array.after)) or "-",
            _asks(array, _least_min(plan, array)),
            f"{left * array.resources.gpus * array.resources.time_min / 60 / array.resources.pack:.1f}",
        )
    return table


def _least_min(plan: Plan, array: PlannedArray) -> int | None:
    """The minutes with which the site may start its tasks sooner, where those are fewer than they ask for."""
    least = plan.manifest.cluster.site(array.stage).least_min if plan.manifest.cluster.executor == "slurm" else None
    return least if least is not None and least < array.resources.time_min else None


def _asks(array: PlannedArray, least_min: int | None) -> str:
    given = array.resources
    minutes = f"{given.time_min} min" if least_min is None else f"{least_min} to {given.time_min} min"
    parts = [f"{given.cpus} CPUs", f"{given.mem_gb:g} GB", minutes]
    if given.gpus:
        parts.insert(0, f"{given.gpus} GPU")
    if given.throttle:
        parts.append(f"{given.throttle} at once")
    if given.pack > 1:
        parts.append(f"{given.pack} to an allocation")
    return ", ".join(parts)


def print_plan(plan: Plan, done: Mapping[str, Sequence[str]], console: Console) -> None:
    """The plan for people: arrays, totals, then what earlier code made; ``done`` as by ``done_on_storage``."""
    console.print(plan_table(plan, done))
    stages = Counter(planned.stage for planned in plan.tasks)
    left = sum(planned.id not in done for planned in plan.tasks)
    counts = ", ".join(f"{number} {stage}" for stage, number in stages.items())
    console.print(f"{len(plan.tasks)} tasks ({counts}); {left} to do, {len(plan.tasks) - left} done")
    for line in (*(sizing.line for sizing in plan.sizings), *startup_lines(plan), *power_lines(plan, done)):
        console.print(line, soft_wrap=True)
    for line in (*changed_lines(plan.tasks, done), *cost_lines(plan)):
        console.print(line, style="yellow", soft_wrap=True)


def startup_lines(plan: Plan) -> list[str]:
    """From which trial on each search's algorithm proposes; before, points are drawn at random."""
    lines = []
    for search in (planned.search for planned in plan.searches):
        if search.startup is None:
            continue
        first = search.startup + 1
        text = f"{search.name}: {search.algorithm} proposes from trial {first} on, those before are random"
        if search.trials < first:
            text = f"{text}: all {search.trials} are; raise `trials` or lower `startup`"
        elif search.algorithm == "tpe" and search.trials < GAIN_SHOWN_FROM:
            text = f"{text}; no gain over random trials was measured with fewer than {GAIN_SHOWN_FROM}"
        lines.append(text)
    return lines


def cost_lines(plan: Plan) -> list[str]:
    """What settings say of the time that they take, a line each, with the trainings that have them."""
    notes: dict[str, list[str]] = {}
    for row in plan.rows:
        if row.search is None and (note := row.settings.cost_note()):
            notes.setdefault(note, []).append(f"{row.group}/{row.run}")
    for planned in plan.searches:
        for note in {each for _, settings in planned.search.examples if (each := settings.cost_note())}:
            notes.setdefault(note, []).append(f"trials of {planned.search.name}")
    return [f"{_listed(dict.fromkeys(names))}: {note}" for note, names in sorted(notes.items())]


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - NAMED_MOST} more" if len(names) > NAMED_MOST else ""
    return ", ".join([*names][:NAMED_MOST]) + more


def changed_lines(tasks: Iterable[Planned], changed: Mapping[str, Sequence[str]]) -> list[str]:
    """What earlier code made of a plan, a line a change: how many tasks, which; then which of them can be made again.

    Trials can't: see ``pipeline.decisions.submission.to_remake``.
    """
    made: dict[str, list[Planned]] = {}
    for planned in tasks:
        for change in changed.get(planned.id, ()):
            made.setdefault(change, []).append(planned)
    lines = []
    for change, which in sorted(made.items()):
        lines.append(f"{len(which)} done, {change}: {_listed([_name(planned) for planned in which])}")
    trials = {planned.id for which in made.values() for planned in which if planned.stage == "trial"}
    if trials != {planned.id for which in made.values() for planned in which}:
        lines.append("they stay as they are; `tanda submit --rerun changed` makes them again")
    if trials:
        lines.append(
            f"{len(trials)} trials of them are never made again, as they were compared with each other: another seed "
            "of their search makes another search"
        )
    return lines


def _name(planned: Planned) -> str:
    seed = "" if planned.seed is None else f" seed {planned.seed}"
    return f"{planned.group}/{planned.run}/{planned.stage}{seed}"
