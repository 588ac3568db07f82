"""What of a plan is submitted, released or cancelled, given where its tasks stand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.decisions.task_state import TaskState
from slurm.reasons import is_launch_held

if TYPE_CHECKING:
    from pipeline.plan import Planned

# A data set is the same bytes whenever it is built; a model trained on a GPU is not: what read it is stale.
NONDETERMINISTIC = ("train", "trial")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """Elements to cancel by executor; how many tasks that ends, and how many are unknown."""

    elements: Mapping[str, tuple[str, ...]]
    ending: int
    unknown: int


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


def met_upstream(tasks: Sequence[Planned], states: Mapping[str, TaskState], executor: str) -> frozenset[str]:
    """What those queued tasks wait for of which Slurm says that they wait, although all of it is done."""
    waiting = [planned for planned in tasks if _is_met(planned, states) and _waits(states[planned.id], executor)]
    return frozenset(need for planned in waiting for need in _upstream(planned))


def stale_dependents(
    tasks: Sequence[Planned],
    states: Mapping[str, TaskState],
    executor: str,
    submitted: Iterable[Planned],
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
        if _waits(states[planned.id], executor) and (met or not (renewed | stale).isdisjoint(upstream)):
            stale.add(planned.id)
    # An element is cancelled whole: not where another task in it has something to wait for.
    shared = {state.job for task, state in states.items() if task not in stale and is_queued(state)}
    return frozenset(task for task in stale if states[task].job not in shared)


def _upstream(planned: Planned) -> tuple[str, ...]:
    return (*planned.task.needs, *planned.after)


def _waits(state: TaskState, executor: str) -> bool:
    return state.state == "waiting" and state.queued and _is_ours(state, executor) and state.job is not None


def _is_met(planned: Planned, states: Mapping[str, TaskState]) -> bool:
    met = all(states[need].state == "done" for need in _upstream(planned) if need in states)
    return met and states[planned.id].reason == "Dependency"


def launch_held(states: Mapping[str, TaskState], executor: str) -> tuple[str, ...]:
    """Elements that the scheduler holds since a start failed on their node: they go on when released."""
    held = _queued(states, executor)
    return tuple(sorted({job for _, job, state in held if _is_ours(state, executor) and is_launch_held(state.reason)}))


def queued_elements(states: Mapping[str, TaskState], executor: str, stale: Collection[str]) -> dict[str, str]:
    """Element ids of the tasks that this executor has already: what needs those tasks can wait for them."""
    return {task: job for task, job, _ in _queued(states, executor) if task not in stale}


def _queued(states: Mapping[str, TaskState], executor: str) -> list[tuple[str, str, TaskState]]:
    return [
        (task, state.job, state)
        for task, state in states.items()
        if state.job is not None
        and is_queued(state)
        and state.executor == executor
        # Local processes are each user's own: ids of another's mean nothing in ours.
        and (state.mine or executor != "local")
    ]


def _is_ours(state: TaskState, executor: str) -> bool:
    return state.executor == executor and state.mine


def out_of_reach(
    tasks: Sequence[Planned], states: Mapping[str, TaskState], submitted: Sequence[Planned]
) -> dict[str, str]:
    """Those submitted that need what another user's local processes have still to do, and so can't wait for it: why."""
    theirs = {
        task for task, state in states.items() if is_queued(state) and state.executor == "local" and not state.mine
    }
    held: dict[str, str] = {}
    for planned in tasks:
        needs = (*planned.task.needs, *planned.after)
        if planned in submitted and not (theirs | held.keys()).isdisjoint(needs):
            held[planned.id] = "another user's local processes are at what it needs"
    return held


def cancellable(states: Mapping[str, TaskState], *, executor: str) -> Cancellation:
    """The elements of this user's tasks that wait or run, whole; ``executor`` is that of tasks that name none.

    What another user queued is theirs: the same id may name another element of ours. A task that no executor
    shows as ours and live is left alone.
    """
    live = [state for state in states.values() if state.job and state.mine and state.shown]
    elements: dict[str, set[str]] = {}
    for state in live:
        elements.setdefault(state.executor or executor, set()).add(str(state.job))
    return Cancellation(
        elements={name: tuple(sorted(jobs)) for name, jobs in elements.items()},
        ending=len(live),
        unknown=sum(state.state == "unknown" for state in states.values()),
    )
