"""A submission that others overtake, and what it must not wait for, leave or cancel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from decisions_fixture import search
from recording_fixture import Recording
from test_rerun import made, use

from jobs.task import RECORD, is_done
from pipeline import submit
from pipeline.arrays import ArrayRequest, _after
from pipeline.queue import still_waiting
from pipeline.submit import submit_plan
from sharedfs.lock import LockLostError, hold
from slurm.array import Array, Submitted

__all__ = ["made", "use"]


def test_what_a_trial_that_fails_must_not_stop_waits_for_its_end_alone() -> None:
    """Slurm would cancel the winner's evaluation where the one trial submitted again fails: nobody would submit it."""
    tasks = search()
    winner, refit = tasks.planned["winner"], tasks.planned["evaluate refit"]
    (waits,) = _after(ArrayRequest(stage="evaluate", group="g", packs=((winner,),)), {tasks.id("trial 1"): "7"})
    assert (waits.way, waits.jobs) == ("afterany", ("7",))
    (waits,) = _after(ArrayRequest(stage="evaluate", group="g", packs=((refit,),)), {tasks.id("refit"): "8"})
    assert (waits.way, waits.jobs) == ("aftercorr", ("8",))


def test_an_evaluation_of_a_model_that_is_trained_again_is_made_again(made: Any, use: Callable[..., Any]) -> None:
    use(Recording())
    train, evaluate = (
        next(planned.id for planned in made.plan.tasks if (planned.stage, planned.group) == (stage, "g"))
        for stage in ("train", "evaluate")
    )
    (made.storage.run(train) / RECORD).unlink()
    result = submit_plan(made.plan, executor="slurm")
    assert result.submission is not None and sum(len(array.elements) for array in result.submission.arrays) == 3
    assert not is_done(made.storage, evaluate)


def _all_missing(made: Any) -> None:
    for planned in made.plan.tasks:
        (made.storage.run(planned.id) / RECORD).unlink(missing_ok=True)


class _Sleeping(Recording):
    """Its process sleeps after the first array, for so long that another takes over its lock."""

    def __init__(self, locks: Path) -> None:
        super().__init__()
        self.locks = locks

    def submit(self, array: Array) -> Submitted:
        for alive in self.locks.glob("submit/alive-*.json"):
            alive.unlink()
        return super().submit(array)


def test_a_submitter_that_lost_its_lock_queues_no_more_tasks(made: Any, use: Callable[..., Any]) -> None:
    _all_missing(made)
    executor = use(_Sleeping(made.storage.locks))
    result = submit_plan(made.plan, executor="slurm")
    assert [array.name.rpartition("-")[2] for array in executor.arrays] == ["preprocess", "close"]
    assert result.held and all("this process slept, and another took over" in reason for reason in result.held.values())


def test_a_lock_says_when_it_is_lost(tmp_path: Path) -> None:
    with hold(tmp_path / "lock") as lock:
        lock.check()
        lock.alive.unlink()
        with pytest.raises(LockLostError, match="another took over; try again"):
            lock.check()


def test_an_element_that_waits_is_seen_among_all_of_a_task(
    made: Any, use: Callable[..., Any], monkeypatch: Any
) -> None:
    """Not the newest alone: what waits behind it may have been queued before that."""
    _all_missing(made)
    executor = use(Recording())
    monkeypatch.setattr("pipeline.queue.make", lambda *_, **__: executor)
    first = submit_plan(made.plan, executor="slurm").submission
    assert first is not None
    for element in (element for array in first.arrays for element in array.elements):
        executor.pretend(element, state="gone")
    second = submit_plan(made.plan, executor="slurm").submission
    assert second is not None
    for element in (element for array in second.arrays for element in array.elements):
        executor.pretend(element, state="done")
    tasks = [planned.id for planned in made.plan.tasks]
    assert still_waiting(made.storage, tasks) == frozenset()
    array = first.arrays[0]
    executor.pretend(next(iter(array.elements)), state="waiting")
    # All of the array: what depends on one of its tasks waits for the whole of it.
    assert still_waiting(made.storage, tasks) == {task for tasks in array.elements.values() for task in tasks}
    assert submit.still_waiting(made.storage, ()) == frozenset()
