"""What of a plan is submitted, released or cancelled, given where its tasks stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.decisions.task_state import TaskState
from slurm.reasons import is_launch_held

if TYPE_CHECKING:
    from pipeline.plan import Planned

# A data set is the same bytes whenever it is built; a model trained on a GPU is not: what read it is stale.
NONDETERMINISTIC = ("train", "trial")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """Elements to cancel, by executor and named cluster; how many tasks that ends, how many are unknown, and how many
    are left to whom."""

    elements: Mapping[tuple[str, str | None], tuple[str, ...]]
    ending: int
    unknown: int
    left: Mapping[str, int] = field(default_factory=dict)


def done_tasks(states: Mapping[str, TaskState]) -> frozenset[str]:
    return frozenset(task for task, state in states.items() if state.state == "done")


def is_queued(state: TaskState) -> bool:
    """Whether an executor has the task, or may have it: a second element would run it twice."""
    return state.state == "running" or (state.state in ("waiting", "unknown") and state.queued)


def superseded_shards(tasks: Iterable[Planned], done: Collection[str]) -> frozenset[str]:
    """Shards of a preprocess whose data set is done: what they read is in it, whether they are kept or not."""
    return frozenset(
        shard for planned in tasks if planned.stage == "preprocess" and planned.id in done for shard in planned.after
    )


def pending(tasks: Sequence[Planned], done: Collection[str]) -> tuple[Planned, ...]:
    """What is not done, and what reads the result of a training that is not done, in the plan's order."""
    missing: set[str] = set()
    rerun: set[str] = set()
    for planned in tasks:
        if planned.id not in done or rerun.intersection((*planned.task.needs, *planned.after)):
            missing.add(planned.id)
            if planned.stage in NONDETERMINISTIC:
                rerun.add(planned.id)
    return tuple(planned for planned in tasks if planned.id in missing)


def to_submit(
    tasks: Sequence[Planned], states: Mapping[str, TaskState], only: Collection[str] | None = None
) -> tuple[Planned, ...]:
    """What is pending and not queued; with ``only`` those of these tasks that nobody has queued or done meanwhile.

    Whoever names tasks has seen them over, without holding the lock: somebody else may have been first.
    """
    if only is not None:
        taken = {task for task, state in states.items() if state.state == "done" or is_queued(state)}
        return tuple(planned for planned in tasks if planned.id in only and planned.id not in taken)
    return tuple(planned for planned in pending(tasks, done_tasks(states)) if not is_queued(states[planned.id]))


def to_remake(tasks: Sequence[Planned], done: Collection[str], chosen: Collection[str]) -> frozenset[str]:
    """The tasks that are made from the start: those chosen that are done, and whatever is made of their results.

    A data set is made again with its shards, and what had begun on the former one starts over. Never a trial: its
    value was compared with those of the other trials, which then stopped or went on.
    """
    sets = [planned for planned in tasks if planned.stage == "preprocess" and planned.after]
    shards = [{planned.id, *planned.after} for planned in sets]
    wanted = set(chosen).union(*(ids for ids in shards if not ids.isdisjoint(chosen))).intersection(done)
    again: set[str] = set()
    for planned in tasks:
        upstream = (*planned.task.needs, *planned.after)
        if planned.stage != "trial" and (planned.id in wanted or not again.isdisjoint(upstream)):
            again.add(planned.id)
    return frozenset(again)


def met_upstream(
    tasks: Sequence[Planned], states: Mapping[str, TaskState], executor: str, cluster: str | None = None
) -> frozenset[str]:
    """What those queued tasks wait for of which Slurm says that they wait, although all of it is done."""
    waiting = (planned for planned in tasks if _waits(states[planned.id], executor, cluster))
    return frozenset(need for planned in waiting if _is_met(planned, states) for need in _upstream(planned))


def stale_dependents(
    tasks: Sequence[Planned],
    states: Mapping[str, TaskState],
    executor: str,
    submitted: Iterable[Planned],
    cluster: str | None = None,
    blocking: Collection[str] = (),
) -> frozenset[str]:
    """Queued tasks whose dependency can no longer be met, or was: on what is submitted again, or done.

    Left there, Slurm would cancel the first a moment later, as if a person had; the others would wait for an element
    that Slurm started again after its task was done, and holds. ``blocking`` are the done tasks that have such an
    element: behind any other what waits is about to start.
    """
    renewed = {planned.id for planned in submitted}
    stale: set[str] = set()
    for planned in tasks:
        upstream = _upstream(planned)
        met = _is_met(planned, states) and not set(blocking).isdisjoint(upstream)
        if _waits(states[planned.id], executor, cluster) and (met or not (renewed | stale).isdisjoint(upstream)):
            stale.add(planned.id)
    # An element is cancelled whole: not where another task in it has something to wait for.
    shared = {state.job for task, state in states.items() if task not in stale and is_queued(state)}
    return frozenset(task for task in stale if states[task].job not in shared)


def _upstream(planned: Planned) -> tuple[str, ...]:
    return (*planned.task.needs, *planned.after)


def _waits(state: TaskState, executor: str, cluster: str | None) -> bool:
    return state.state == "waiting" and state.queued and _is_ours(state, executor, cluster) and state.job is not None


def _is_met(planned: Planned, states: Mapping[str, TaskState]) -> bool:
    met = all(states[need].state == "done" for need in _upstream(planned) if need in states)
    return met and states[planned.id].reason == "Dependency"


def launch_held(states: Mapping[str, TaskState], executor: str, cluster: str | None = None) -> tuple[str, ...]:
    """Elements that the scheduler holds since a start failed on their node: they go on when released."""
    held = _queued(states, executor, cluster)
    return tuple(sorted({job for _, job, state in held if state.mine and is_launch_held(state.reason)}))


def queued_elements(
    states: Mapping[str, TaskState], executor: str, stale: Collection[str], cluster: str | None = None
) -> dict[str, str]:
    """Element ids of the tasks that this executor has already: what needs those tasks can wait for them.

    ``cluster`` is the one that is named to it, None this machine's: jobs of another can't be waited for.
    """
    return {task: job for task, job, _ in _queued(states, executor, cluster) if task not in stale}


def _queued(states: Mapping[str, TaskState], executor: str, cluster: str | None) -> list[tuple[str, str, TaskState]]:
    return [
        (task, state.job, state)
        for task, state in states.items()
        if state.job is not None
        and is_queued(state)
        and (state.executor, state.cluster) == (executor, cluster)
        # Local processes are each user's own: ids of another's mean nothing in ours.
        and (state.mine or executor != "local")
    ]


def _is_ours(state: TaskState, executor: str, cluster: str | None) -> bool:
    return (state.executor, state.cluster) == (executor, cluster) and state.mine


def out_of_reach(
    tasks: Sequence[Planned],
    states: Mapping[str, TaskState],
    submitted: Sequence[Planned],
    cluster: str | None = None,
) -> dict[str, str]:
    """Those submitted that need what others have still to do, and so can't wait for it: why.

    Others are another user's local processes, and another of Slurm's clusters than the one that is submitted to.
    """
    elsewhere: dict[str, str] = {}
    for task, state in states.items():
        if is_queued(state) and state.executor == "local" and not state.mine:
            elsewhere[task] = "another user's local processes are at what it needs"
        elif is_queued(state) and state.executor == "slurm" and state.cluster != cluster:
            elsewhere[task] = (
                f"{f'cluster {state.cluster}' if state.cluster else 'another cluster'} is at what it needs"
            )
    return dependents_of(elsewhere, tasks, {planned.id for planned in submitted})


def dependents_of(reasons: Mapping[str, str], tasks: Sequence[Planned], among: Collection[str]) -> dict[str, str]:
    """Those of some tasks that need, directly or not, one that will not come: its reason, by task."""
    found: dict[str, str] = {}
    for planned in tasks:
        needs = (*planned.task.needs, *planned.after)
        reason = next((found.get(need) or reasons[need] for need in needs if need in found or need in reasons), None)
        if planned.id in among and planned.id not in reasons and reason is not None:
            found[planned.id] = reason
    return found


def cancellable(states: Mapping[str, TaskState], *, executor: str) -> Cancellation:
    """The elements of this user's tasks that wait or run, whole; ``executor`` is that of tasks that name none.

    What another user queued is theirs: the same id may name another element of ours. A task that no executor
    shows as ours and live is left alone.
    """
    queued = [state for state in states.values() if state.job and state.shown]
    live = [state for state in queued if state.mine]
    elements: dict[tuple[str, str | None], set[str]] = {}
    for state in live:
        elements.setdefault((state.executor or executor, state.cluster), set()).add(str(state.job))
    return Cancellation(
        elements={queue: tuple(sorted(jobs)) for queue, jobs in elements.items()},
        ending=len(live),
        unknown=sum(state.state == "unknown" and state.mine for state in states.values()),
        left=Counter(state.user or "another user" for state in queued if not state.mine),
    )
