"""Small plans of named tasks, and where they stand, for the tables of what is decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from jobs.task import Task
from pipeline.decisions.task_state import TaskState
from pipeline.manifest.model import Resources
from pipeline.plan import Planned


class Tasks:
    """Planned tasks by a name a person can read; their ids are digests, as in a real plan."""

    def __init__(self) -> None:
        self.planned: dict[str, Planned] = {}

    def add(self, name: str, stage: str, needs: Iterable[str] = (), after: Iterable[str] = (), **more: Any) -> None:
        task = Task(stage=stage, settings={"name": name}, needs=tuple(self.id(need) for need in needs))
        self.planned[name] = Planned(
            task=task, group="g", run=name, settings={}, after=tuple(self.id(earlier) for earlier in after),
            resources=Resources(mem_gb=8.0), **more,
        )  # fmt: skip

    @property
    def all(self) -> tuple[Planned, ...]:
        return tuple(self.planned.values())

    def id(self, name: str) -> str:
        return self.planned[name].id

    def ids(self, *names: str) -> tuple[str, ...]:
        return tuple(self.id(name) for name in names)

    def names(self, ids: Iterable[str]) -> list[str]:
        """The names of these ids, in the plan's order."""
        found = set(ids)
        assert found <= {planned.id for planned in self.all}
        return [name for name, planned in self.planned.items() if planned.id in found]

    def states(self, states: Mapping[str, TaskState]) -> dict[str, TaskState]:
        """A state for every task: done, where none is given."""
        assert states.keys() <= self.planned.keys()
        return {
            planned.id: replace(states.get(name, stands("done")), id=planned.id)
            for name, planned in self.planned.items()
        }


def runs() -> Tasks:
    """A data set of two shards, two trainings on it, an evaluation of each."""
    tasks = Tasks()
    tasks.add("shard 0", "preprocess")
    tasks.add("shard 1", "preprocess")
    tasks.add("data", "preprocess", after=("shard 0", "shard 1"))
    for run in "ab":
        tasks.add(f"train {run}", "train", needs=("data",))
    for run in "ab":
        tasks.add(f"evaluate {run}", "evaluate", needs=("data", f"train {run}"))
    return tasks


def search() -> Tasks:
    """A data set, three trials on it, the winner's refit and its evaluation."""
    tasks = Tasks()
    tasks.add("data", "preprocess")
    trials = tuple(f"trial {number}" for number in range(3))
    for trial in trials:
        tasks.add(trial, "trial", needs=("data",))
    tasks.add("refit", "train", needs=("data",), after=trials)
    tasks.add("winner", "evaluate", needs=("data",), after=trials)
    tasks.add("evaluate refit", "evaluate", needs=("data", "refit"))
    return tasks


def stands(state: str, cause: str | None = None, **facts: Any) -> TaskState:
    return TaskState(id="", state=state, cause=cause, **facts)


def queued(job: str, *, state: str = "waiting", executor: str = "slurm", **facts: Any) -> TaskState:
    return stands(state, job=job, executor=executor, queued=True, shown=state != "unknown", **facts)
