"""What of a plan is done: asked of the storage, never of a scheduler."""

from __future__ import annotations

from collections.abc import Collection

from jobs.record import is_done, read_record
from jobs.search.trial import continuation
from jobs.storage import Storage
from pipeline.plan import Plan, Planned

# A data set is the same bytes whenever it is built; a model trained on a GPU is not: what read it is stale.
REMADE = ("train", "trial")


def done_ids(plan: Plan) -> frozenset[str]:
    """Ids of the tasks whose record says done and whose files are whole; no trial that is being continued."""
    storage = Storage(plan.manifest.storage)
    if not storage.runs.is_dir():
        return frozenset()
    done = frozenset(planned.id for planned in plan.tasks if _is_done(storage, planned))
    return done | merged(plan, done)


def _is_done(storage: Storage, planned: Planned) -> bool:
    if not is_done(storage, planned.id):
        return False
    folder = storage.run(planned.id)
    return planned.stage != "trial" or continuation(folder, read_record(folder)) is None


def merged(plan: Plan, done: Collection[str]) -> frozenset[str]:
    """Shards of a preprocess whose data set is whole: what they read is in it, whether they are kept or not."""
    whole = [planned for planned in plan.tasks if planned.stage == "preprocess" and planned.id in done]
    return frozenset(shard for planned in whole for shard in planned.after)


def to_do(plan: Plan, done: frozenset[str]) -> tuple[Planned, ...]:
    """What is not done, and what reads the result of a training that is not done, in the plan's order."""
    missing: set[str] = set()
    remade: set[str] = set()
    for planned in plan.tasks:
        if planned.id not in done or remade.intersection((*planned.task.needs, *planned.after)):
            missing.add(planned.id)
            if planned.stage in REMADE:
                remade.add(planned.id)
    return tuple(planned for planned in plan.tasks if planned.id in missing)
