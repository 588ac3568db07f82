"""A submission whose sbatch, lock or storage fails it midway: nothing is queued that is not on record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from decisions_fixture import search
from recording_fixture import Recording
from slurm_fixture import make_array
from slurm_output_fixture import fake_slurm, queue_of
from test_rerun import made, use

from jobs.task import RECORD, is_done
from pipeline import submit
from pipeline.arrays import ArrayRequest, _after
from pipeline.queue import still_waiting
from pipeline.submission import Submission, read_all
from pipeline.submit import submit_plan
from sharedfs.lock import LockLostError, hold
from slurm.array import Array, Submitted
from slurm.errors import SubmitError
from slurm.executors.slurm import SlurmArrays

__all__ = ["fake_slurm", "made", "use"]
COMMENT = "tanda 20261126-m train g"
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


def _answer(folder: Path, program: str, text: str, status: int = 0) -> None:
    path = folder / program
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\necho '{TIMED_OUT}' >&2\nexit {status}\n")
    path.chmod(0o755)


@pytest.fixture
def silent_sbatch(fake_slurm: Path) -> Path:
    """An sbatch of which no answer comes; the queue has other arrays of ours, by the same name, and what it says."""
    _answer(fake_slurm, "sbatch", "", status=1)
    _answer(fake_slurm, "scontrol", "ClusterName = lab\nMaxArraySize = 1001\nMaxJobCount = 10000")
    return fake_slurm


def test_a_job_that_is_queued_although_sbatch_gave_no_answer_is_taken(silent_sbatch: Path, tmp_path: Path) -> None:
    whose = ("lab", "1000", "m-g-train", COMMENT)
    rows = [queue_of("PENDING", id_=f"14_{index}", whose=whose) for index in range(2)]
    rows.append(queue_of("RUNNING", id_="13_0", whose=(*whose[:3], "tanda of another submission")))
    (silent_sbatch / "squeue.txt").write_text("\n".join(rows) + "\n")
    array = make_array(tmp_path, "exit 0", "exit 0", name="m-g-train", comment=COMMENT)
    submitted = SlurmArrays().submit(array)
    assert (submitted.ids, submitted.refused) == (("14_0", "14_1"), None)
    (folder,) = {script.parent for script in submitted.scripts}
    assert sorted(path.name for path in folder.iterdir()) == [
        "14_0_submitted.pkl", "14_1_submitted.pkl", "14_submission.sh",
    ]  # fmt: skip


@pytest.mark.parametrize("said", ["", "exit 1"])
def test_a_job_that_nobody_knows_of_is_refused_in_sbatchs_words(silent_sbatch: Path, tmp_path: Path, said: str) -> None:
    (silent_sbatch / "squeue.answer").write_text(f"{said}\n")
    with pytest.raises(SubmitError, match="Socket timed out"):
        SlurmArrays().submit(make_array(tmp_path, "exit 0", name="m-g-train", comment=COMMENT))
    assert list((tmp_path / "submission").iterdir()) == []


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


def test_what_cannot_be_put_on_record_is_cancelled(
    made: Any, use: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _all_missing(made)
    executor, write = use(Recording()), Submission.write

    def full(self: Submission, storage: Any) -> None:
        if len(self.arrays) == 2:
            raise OSError(28, "No space left on device")
        write(self, storage)

    monkeypatch.setattr(Submission, "write", full)
    with pytest.raises(OSError, match="No space left"):
        submit_plan(made.plan, executor="slurm")
    (made_of,) = read_all(made.storage)
    assert len(executor.arrays) == 2 and len(made_of.arrays) == 1
    ((order, cancelled),) = executor.orders
    assert order == "cancel" and cancelled and not set(cancelled) & set(made_of.arrays[0].elements)


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
    element, (task,) = next(iter(first.arrays[0].elements.items()))
    executor.pretend(element, state="waiting")
    assert still_waiting(made.storage, tasks) == {task}
    assert submit.still_waiting(made.storage, ()) == frozenset()
