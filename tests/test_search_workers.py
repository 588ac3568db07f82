"""Many workers on one storage: no trial is taken twice, none is lost, and points differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from search_fixture import fake_train, make_study, run_pool, trials

from jobs import attempt, metrics_log
from jobs.search.next_trial import next_promotable, rung
from jobs.search.study import Study
from jobs.task import read_record
from sharedfs.documents import read_json

ASHA = {"asha": {"grace_epochs": 1, "reduction": 3}}


def check_results(study: Study, count: int) -> None:
    """Exactly so many results, each trial its own point, task and run, each journal whole and in order."""
    found = trials(study.storage, study.id)
    assert [trial.number for trial in found] == list(range(count))
    assert {trial.state for trial in found} <= {"done", "stopped"}
    assert len({json.dumps(trial.point, sort_keys=True) for trial in found}) == count
    assert len({trial.task for trial in found}) == count
    for trial in found:
        record = read_record(trial.folder)
        assert record is not None and record.id == trial.task and record.files_intact(study.storage)
        lines = metrics_log.read(trial.folder)
        assert [line["epoch"] for line in lines] == list(range(1, trial.epochs + 1))
        assert trial.epochs == record.result["epochs_run"]
        assert not attempt.live(trial.folder)
    hidden = [path.name for path in (study.folder / "trials").iterdir() if not path.name.isdigit()]
    assert all(name.startswith(".") for name in hidden)


def check_halving(study: Study, count: int, epochs: int) -> None:
    """The share that is due has gone on at every rung, and nobody waits to be continued."""
    assert next_promotable(study, "another task") is None
    for here, beyond in ((1, 3), (3, 9)):
        reached = rung(study, here)
        best = sorted(reached, key=lambda number: (-reached[number], number))[: len(reached) // 3]
        assert set(best) <= {trial.number for trial in trials(study.storage, study.id) if trial.epochs >= beyond}
    assert len(rung(study, 1)) == count
    assert any(trial.epochs == epochs for trial in trials(study.storage, study.id))


def test_64_workers_at_once_take_64_trials(tmp_path: Path) -> None:
    study = make_study(tmp_path, 64, epochs=2)
    statuses = run_pool(study, range(64), fake_train(epoch_s=0.02), at_once=64)
    assert statuses == {number: [0] for number in range(64)}
    check_results(study, 64)
    tasks = [read_json(study.trial(number) / "point.json")["task"] for number in range(64)]
    assert tasks == [study.task(number).id for number in range(64)]


def test_halving_with_many_workers_continues_each_trial_in_one_place_at_a_time(tmp_path: Path) -> None:
    study = make_study(tmp_path, 24, epochs=9, stopping=ASHA, algorithm="random")
    statuses = run_pool(study, range(24), fake_train(epoch_s=0.01), at_once=12)
    assert {status[-1] for status in statuses.values()} == {0}
    check_results(study, 24)
    check_halving(study, 24, 9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_16_elements_4_at_a_time_with_a_quarter_killed_end_in_16_results(tmp_path: Path, seed: int) -> None:
    study = make_study(tmp_path, 16, epochs=9, stopping=ASHA, seed=seed)
    statuses = run_pool(study, range(16), fake_train(epoch_s=0.1), at_once=4, kills=4, seed=seed)
    assert sum(status == -9 for tries in statuses.values() for status in tries) == 4
    check_results(study, 16)
    check_halving(study, 16, 9)
