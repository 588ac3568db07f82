"""Cancels what of a plan is queued or running."""

from __future__ import annotations

from pipeline.decisions.submission import cancellable
from pipeline.plan import Plan
from pipeline.queue import make_executor
from pipeline.status import task_states


def cancel_plan(plan: Plan) -> tuple[int, int]:
    """Cancel every element of this user's that holds a live task of the plan; how many tasks that ends, and how many
    are unknown.

    A packed element is cancelled whole. Tasks stay in their folders with their checkpoints: submitting again
    goes on from there. What somebody else queued is theirs: the same id may name another element of ours. A job of
    which Slurm does not say that it is ours and live is left alone.
    """
    chosen = cancellable(task_states(plan), executor=plan.manifest.cluster.executor)
    for name, elements in chosen.elements.items():
        make_executor(name, plan.manifest).cancel(elements)
    return chosen.ending, chosen.unknown
