"""What of a plan is done: asked of the storage, never of a scheduler."""

from __future__ import annotations

from jobs.record import is_done
from jobs.search.trial import is_continued
from jobs.storage import Storage
from pipeline.decisions.submission import superseded_shards
from pipeline.plan import Plan, Planned


def done_ids(plan: Plan) -> frozenset[str]:
    """Ids of the tasks whose record says done and whose files are whole; no trial that is being continued."""
    storage = Storage(plan.manifest.storage)
    if not storage.runs.is_dir():
        return frozenset()
    done = frozenset(planned.id for planned in plan.tasks if _is_done(storage, planned))
    return done | superseded_shards(plan.tasks, done)


def _is_done(storage: Storage, planned: Planned) -> bool:
    if not is_done(storage, planned.id):
        return False
    return planned.stage != "trial" or not is_continued(storage.run(planned.id))
