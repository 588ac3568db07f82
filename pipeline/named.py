"""Which task, run or search of a plan a person means: by id, its start, or GROUP/RUN/STAGE and GROUP/RUN:SEED."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.manifest.yaml_nodes import composed
from pipeline.plan import Plan, Planned, PlannedSearch, Row
from sharedfs.errors import InputError, did_you_mean


def find_task(plan: Plan, query: str) -> Planned:
    """The one task that ``query`` names: an id or its start, RUN, GROUP/RUN, GROUP/RUN:SEED or GROUP/RUN/STAGE.

    A run names its training (or trial) rather than its evaluation. Raises ValueError, with what would be right,
    where no task or more than one is meant.
    """
    query = composed(query)
    matches = [planned for planned in plan.tasks if planned.id.startswith(query)] if len(query) >= 4 else []
    if not matches:
        matches = [planned for planned in plan.tasks if query in _names(planned)]
    trained = [planned for planned in matches if planned.stage != "evaluate"]
    if len(trained or matches) == 1:
        return (trained or matches)[0]
    if matches:
        options = ", ".join(f"{planned.group}/{planned.run}/{planned.stage} {planned.id}" for planned in matches[:8])
        raise InputError(f"{query!r} names {len(matches)} tasks: {options}")
    raise _no_task(plan, query)


def find_tasks(plan: Plan, query: str) -> tuple[Planned, ...]:
    """All tasks that ``query`` names: a group, or what ``find_task`` takes. Raises ValueError where there are none."""
    query = composed(query)
    named = [planned for planned in plan.tasks if query == planned.group or query in _names(planned)]
    matches = named or [planned for planned in plan.tasks if len(query) >= 4 and planned.id.startswith(query)]
    if not matches:
        raise _no_task(plan, query, {planned.group for planned in plan.tasks})
    return tuple(matches)


def find_rows(plan: Plan, query: str) -> tuple[Row, ...]:
    """All runs that ``query`` names: GROUP, RUN or GROUP/RUN, of one seed with ``:SEED``, or an id or its start.

    The id is that of the training or of the evaluation. Raises InputError where there are none.
    """
    query = composed(query)
    named = [row for row in plan.rows if query == row.group or query in _run_names(row)]
    if not named and len(query) >= 4:
        ids = [(row, (row.train or "", row.evaluate)) for row in plan.rows]
        named = [row for row, both in ids if any(id_.startswith(query) for id_ in both)]
    if not named:
        hint = did_you_mean(query, (name for row in plan.rows for name in _run_names(row)), listed_max=12)
        raise InputError(f"no run {query!r} in {plan.manifest.path}{hint}")
    return tuple(named)


def find_row(plan: Plan, query: str) -> Row:
    """The one run that ``query`` names, as ``find_rows`` takes it; raises InputError where it is none or several."""
    # Two groups may share a run: it is one, whichever of its names is meant.
    rows = list({row.evaluate: row for row in find_rows(plan, query)}.values())
    if len(rows) > 1:
        options = ", ".join(f"{row.group}/{row.run}:{row.seed}" for row in rows[:8])
        raise InputError(f"{query!r} names {len(rows)} runs: {options}")
    return rows[0]


def find_search(plan: Plan, name: str) -> PlannedSearch:
    """The search of that name; raises InputError where there is none."""
    searches = {planned.search.name: planned for planned in plan.searches}
    if (name := composed(name)) not in searches:
        raise InputError(f"no search {name!r} in {plan.manifest.path}{did_you_mean(name, searches)}")
    return searches[name]


def _no_task(plan: Plan, query: str, groups: Collection[str] = ()) -> InputError:
    names = (name for planned in plan.tasks for name in _names(planned))
    hint = did_you_mean(query, {*groups, *names}, listed_max=12)
    return InputError(f"no task {query!r} in {plan.manifest.path}{hint}")


def _names(planned: Planned) -> tuple[str, ...]:
    names = _run_names(planned)
    return *names, f"{planned.group}/{planned.run}/{planned.stage}", f"{planned.group}/{planned.stage}"


def _run_names(run: Row | Planned) -> tuple[str, ...]:
    names = (run.run, f"{run.group}/{run.run}")
    return names if run.seed is None else (*names, *(f"{name}:{run.seed}" for name in names))
