"""Cancels what of a plan is queued or running."""

from __future__ import annotations

from pipeline.executors import make_executor
from pipeline.plan import Plan
from pipeline.status import task_states


def cancel_plan(plan: Plan) -> int:
    """Cancel every element that holds a live task of the plan; returns how many tasks that ends.

    A packed element is cancelled whole. Tasks stay in their folders with their checkpoints: submitting again
    goes on from there.
    """
    live = [state for state in task_states(plan).values() if state.job and state.state in ("waiting", "running")]
    by_executor: dict[str, set[str]] = {}
    for state in live:
        by_executor.setdefault(state.executor or plan.manifest.cluster.executor, set()).add(str(state.job))
    for name, elements in by_executor.items():
        make_executor(name, plan.manifest).cancel(sorted(elements))
    return len(live)
