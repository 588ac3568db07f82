"""Cancels what of a plan is queued or running."""

from __future__ import annotations

from pipeline.executors import make_executor
from pipeline.plan import Plan
from pipeline.status import task_states


def cancel_plan(plan: Plan) -> tuple[int, int]:
    """Cancel every element of this user's that holds a live task of the plan; how many tasks that ends, and how many
    are unknown.

    A packed element is cancelled whole. Tasks stay in their folders with their checkpoints: submitting again
    goes on from there. What somebody else queued is theirs: the same id may name another element of ours. A job of
    which Slurm does not say that it is ours and live is left alone.
    """
    states = task_states(plan)
    live = [state for state in states.values() if state.job and state.mine and state.state in ("waiting", "running")]
    by_executor: dict[str, set[str]] = {}
    for state in live:
        by_executor.setdefault(state.executor or plan.manifest.cluster.executor, set()).add(str(state.job))
    for name, elements in by_executor.items():
        make_executor(name, plan.manifest).cancel(sorted(elements))
    return len(live), sum(state.state == "unknown" for state in states.values())
