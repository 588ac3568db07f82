"""Continuing other trials in a process whose GPU dies, on trials that cannot go on, and on ones that diverge."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from search_fixture import fake_train, make_study, run_inline, trials

from jobs import attempt, entry, metrics_log
from jobs.context import Context, TaskFailedError
from jobs.search.next_trial import next_promotable, rung
from jobs.search.study import Study
from jobs.search.summary import winner
from jobs.stages import trial as stage
from jobs.task import is_done

ASHA = {"asha": {"grace_epochs": 1, "reduction": 3}}
DEAD = RuntimeError("CUDA error: uncorrectable ECC error encountered")


@pytest.fixture
def risen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Twelve trials of which the last waits; four of the others were stopped early and are among the best by now."""
    study = make_study(tmp_path, 12, epochs=9, stopping=ASHA, algorithm="random", seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "after_done", lambda *_: 0)
        run_inline(study, range(11), fake_train())
    return study


def _states(study: Study) -> dict[int, tuple[str, int, float | None]]:
    return {trial.number: (trial.state, trial.epochs, trial.value) for trial in trials(study.storage, study.id)}


@pytest.mark.parametrize("further", [0, 1])
def test_a_gpu_that_dies_ends_the_process_and_takes_no_trials_result_with_it(risen: Study, further: int) -> None:
    """``further`` is how many epochs the process still trains another's trial on before its GPU is gone."""
    study = risen
    before, taken = _states(study), list[tuple[Path, int]]()
    healthy = fake_train()

    def train(context: Context, settings: Mapping[str, Any], judge: Any) -> Any:
        if context.folder == study.storage.run(study.task(11).id):
            return healthy(context, settings, judge)
        taken.append((context.folder, len(metrics_log.read(context.folder))))

        def check(_settings: Mapping[str, Any], epoch: int) -> None:
            if epoch > taken[0][1] + further:
                raise DEAD

        return fake_train(check=check)(context, settings, judge)

    assert run_inline(study, [11], train) == [1]
    assert len(taken) == 1  # the next of the best trials was not even begun
    after = _states(study)
    assert after.pop(11)[0] in ("stopped", "done") and after == before
    (folder, epochs), end = taken[0], attempt.history(taken[0][0])[-1]
    assert (end.state, end.cause, end.message) == ("failed", "GPU failure", f"RuntimeError: {DEAD}")
    assert len(metrics_log.read(folder)) == epochs + further and is_done(study.storage, folder.name)
    best = max(after, key=lambda number: after[number][2] or 0)
    assert winner(study.storage, study.id, 11).name == study.task(best).id
    # Started again on a sound node, everything goes on from what was saved, as if nothing had happened.
    assert run_inline(study, [11], fake_train()) == [0]
    assert next_promotable(study, "another task") is None
    assert len(rung(study, 3)) >= 12 // 3
    lines = metrics_log.read(folder)
    assert [line["epoch"] for line in lines] == list(range(1, max(len(lines), epochs) + 1))


def test_one_that_cannot_go_on_does_not_stand_in_the_way_of_the_others(risen: Study) -> None:
    study = risen
    promoted = next_promotable(study, "another task")
    assert promoted is not None
    poisoned = promoted[0]

    def check(settings: Mapping[str, Any], epoch: int) -> None:
        if epoch > poisoned.epochs and settings.learning_rate == poisoned.point["learning_rate"]:
            raise MemoryError

    assert run_inline(study, [11, 11], fake_train(check=check)) == [1, 1]
    found = {trial.number: trial for trial in trials(study.storage, study.id)}
    assert found[poisoned.number].state == "stopped" and found[poisoned.number].value == poisoned.value
    last = next_promotable(study, "another task")
    assert last is not None and last[0].number == poisoned.number  # and no other is left


def test_a_trial_that_diverges_as_it_goes_on_has_failed_and_the_others_go_on(risen: Study) -> None:
    study = risen
    promoted = next_promotable(study, "another task")
    assert promoted is not None
    bad = promoted[0]

    def check(settings: Mapping[str, Any], epoch: int) -> None:
        if settings.learning_rate == bad.point["learning_rate"]:
            raise TaskFailedError("diverged", f"the training loss is NaN at epoch {epoch}")

    assert run_inline(study, [11], fake_train(check=check)) == [0]
    found = {trial.number: trial for trial in trials(study.storage, study.id)}
    assert (found[bad.number].state, found[bad.number].cause) == ("failed", "diverged")
    assert next_promotable(study, "another task") is None


def test_a_take_over_that_cannot_begin_ends_the_process_and_leaves_no_attempt(
    risen: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _states(risen)
    attempts = {number: attempt.numbers(risen.storage.run(risen.task(number).id)) for number in before}

    def full(path: Path, _value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(attempt, "write_json", full)
    assert entry._post_stage(risen.task(11), risen.storage, lambda: False) == 1
    assert _states(risen) == before
    assert {number: attempt.numbers(risen.storage.run(risen.task(number).id)) for number in before} == attempts
    assert next_promotable(risen, risen.task(11).id) is not None
