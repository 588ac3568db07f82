"""A search on storage: claims, points, resuming, failing, raising, halving and promotions, with a stand-in engine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from search_fixture import diverge, fake_train, make_study, objective, run_inline, start, submit, trials
from small_manifest import MANIFEST, write_titles

from jobs import attempt, metrics_log
from jobs.context import TaskFailedError
from jobs.search import next_trial
from jobs.search.algorithms import random
from jobs.search.next_trial import claim_point, next_promotable, observations_of, propose, rung
from jobs.search.stopping import asha
from jobs.search.study import Proposal, Study, best_so_far, read_trials, study_of
from jobs.search.summary import NoWinnerError, summary, winner, winner_recipe
from jobs.settings import values
from jobs.storage import Storage
from jobs.task import is_done, read_record
from pipeline.manifest.load import load
from pipeline.plan import make_plan
from sharedfs.documents import read_json
from sharedfs.errors import DamagedFileError

ASHA = {"asha": {"grace_epochs": 1, "reduction": 3}}


def points(study: Study) -> list[Mapping[str, Any]]:
    return [trial.point for trial in read_trials(study)]


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_one_worker_and_the_same_seed_give_the_same_points(tmp_path: Path, algorithm: str) -> None:
    studies = [make_study(tmp_path / name, 14, algorithm=algorithm, epochs=1) for name in ("a", "b")]
    for study in studies:
        assert run_inline(study, range(14), fake_train()) == [0] * 14
    assert points(studies[0]) == points(studies[1])
    other = make_study(tmp_path / "c", 1, algorithm=algorithm, epochs=1, seed=1)
    run_inline(other, [0], fake_train())
    assert points(other)[0] != points(studies[0])[0]


def test_raised_trials_go_on_from_what_is_there(tmp_path: Path) -> None:
    whole, grown = make_study(tmp_path / "whole", 13, epochs=1), make_study(tmp_path / "grown", 11, epochs=1)
    run_inline(whole, range(13), fake_train())
    run_inline(grown, range(11), fake_train())
    before = points(grown)
    submit(grown, 13)
    run_inline(grown, range(13), fake_train())
    assert points(grown)[:11] == before
    assert points(grown) == points(whole)


def test_a_trial_says_what_it_came_to_and_where_its_run_is(tmp_path: Path) -> None:
    study = make_study(tmp_path, 3, epochs=4)
    assert trials(study.storage, study.id) == [] and summary(study.storage, study.id) is None
    run_inline(study, [0, 1, 2], fake_train())
    found = trials(study.storage, study.id)
    assert [(trial.number, trial.state, trial.epochs, trial.epochs_asked) for trial in found] == [
        (number, "done", 4, 4) for number in range(3)
    ]
    reached = [objective(SimpleNamespace(**{"dropout": 0.0, **trial.point}), 4) for trial in found]
    assert [trial.value for trial in found] == pytest.approx(reached)
    best = max(found, key=lambda trial: trial.value or 0)
    assert winner(study.storage, study.id, 3, 1) == best.folder == study.storage.run(study.task(best.number).id)
    recipe = winner_recipe(study.storage, study.id, 3, {})
    assert recipe == study.recipe(best.point)
    assert recipe.architecture == "mlp" and recipe.dataset == study.definition.dataset
    assert recipe.settings.epochs == 4 and values(recipe.settings).items() >= best.point.items()
    glance = summary(study.storage, study.id)
    assert glance is not None and glance.best == best and glance.epochs_spent == 12 and glance.states == {"done": 3}


def test_the_best_so_far_follows_the_metric_and_is_none_before_the_first_value() -> None:
    values = [None, 0.5, None, 0.2, 0.9, 0.9]
    assert list(best_so_far("validation_accuracy", values)) == [None, 0.5, 0.5, 0.5, 0.9, 0.9]
    assert list(best_so_far("validation_loss", values)) == [None, 0.5, 0.5, 0.2, 0.2, 0.2]


def test_a_loss_is_minimised_and_keep_last_takes_the_last_epoch(tmp_path: Path) -> None:
    study = make_study(tmp_path / "loss", 5, epochs=3, metric="validation_loss")
    run_inline(study, range(5), fake_train())
    found = trials(study.storage, study.id)
    assert winner(study.storage, study.id, 5).name == min(found, key=lambda trial: trial.value or 9).task
    last = make_study(tmp_path / "last", 1, epochs=3, settings={"epochs": 3, "keep": "last"})
    run_inline(last, [0], fake_train())
    lines = metrics_log.read(last.storage.run(last.task(0).id))
    assert trials(last.storage, last.id)[0].value == lines[-1]["validation_balanced_accuracy"]


def test_a_failed_trial_counts_as_failed_and_the_search_goes_on(tmp_path: Path) -> None:
    study = make_study(tmp_path, 16, epochs=2)
    statuses = run_inline(study, range(16), fake_train(check=diverge))
    found = trials(study.storage, study.id)
    assert {trial.state for trial in found} == {"done", "failed"}
    assert [trial.state == "failed" for trial in found] == [status == 1 for status in statuses]
    assert all((trial.point["learning_rate"] > 1e-2) == (trial.state == "failed") for trial in found)
    assert {trial.cause for trial in found if trial.state == "failed"} == {"diverged"}
    assert len(observations_of(study, found)) == 16
    with pytest.raises(NoWinnerError, match=r"rank 15 was asked for and \d+ of 16 trials ended with a result") as error:
        winner(study.storage, study.id, 16, 15)
    assert error.value.cause == "upstream failed"


def test_a_failure_that_is_not_the_settings_fault_is_not_held_against_them(tmp_path: Path) -> None:
    def check(settings: Mapping[str, Any], epoch: int) -> None:
        raise TaskFailedError("node failure", "gone")

    study = make_study(tmp_path, 1)
    run_inline(study, [0], fake_train(check=check))
    assert observations_of(study, trials(study.storage, study.id)) == []


def test_a_search_that_has_not_begun_has_no_winner(tmp_path: Path) -> None:
    with pytest.raises(NoWinnerError, match="no trial has started"):
        winner(Storage(tmp_path), "0123456789abcdef", 3)


def test_the_first_to_publish_a_point_decides_and_all_get_it(tmp_path: Path) -> None:
    study = make_study(tmp_path, 2)
    first = claim_point(study, 1)
    home = study.trial(1)
    before = (home / "point.json").read_bytes()
    assert claim_point(study, 1) == first and (home / "point.json").read_bytes() == before
    assert [path.name for path in home.parent.iterdir()] == ["0001"]  # nothing temporary is left


@pytest.mark.parametrize("fails", [False, True])
def test_who_comes_second_or_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    study, propose_point = make_study(tmp_path, 1), next_trial._propose_point
    others: list[Mapping[str, Any]] = []

    def propose_slowly(study: Study, number: int) -> Proposal:
        if fails:
            raise OSError("no answer")
        monkeypatch.undo()
        others.append(claim_point(study, number))  # another process is first
        return propose_point(study, number)

    monkeypatch.setattr(next_trial, "_propose_point", propose_slowly)
    if fails:
        with pytest.raises(OSError, match="no answer"):
            claim_point(study, 0)
    else:
        assert claim_point(study, 0) == others[0]
    assert [path.name for path in study.trial(0).parent.iterdir()] == ([] if fails else ["0000"])


def test_a_damaged_rule_is_named_with_its_file(tmp_path: Path) -> None:
    study = make_study(tmp_path, 1, stopping={"asha": {"grace_epochs": "x", "reduction": 3}})
    with pytest.raises(DamagedFileError, match=rf"^{study.folder}/search\.json: not settings of stopping: asha\.gra"):
        study.stopping()


def test_a_point_is_not_drawn_twice_while_there_are_others(tmp_path: Path) -> None:
    space = {"hidden_layers": {"choice": [[1], [2], [3], [4]]}}
    study = make_study(tmp_path, 5, space=space, algorithm="random", epochs=1)
    run_inline(study, range(5), fake_train())
    widths = [point["hidden_layers"] for point in points(study)]
    assert sorted(widths[:4]) == [(1,), (2,), (3,), (4,)]  # a fifth has to repeat one


def test_a_killed_trial_resumes_its_own_point_from_its_checkpoint(tmp_path: Path) -> None:
    study = make_study(tmp_path, 1, epochs=8)
    process = start(study, 0, fake_train(epoch_s=0.05))
    folder = study.storage.run(study.task(0).id)
    _wait_until(lambda: len(metrics_log.read(folder)) >= 3)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (lost,) = trials(study.storage, study.id)
    assert lost.state == "lost" and lost.epochs >= 3 and lost.value is not None
    assert [past.loss for past in observations_of(study, [lost])] == [-lost.value]  # not counted as running
    assert run_inline(study, [0], fake_train()) == [0]
    (done,) = trials(study.storage, study.id)
    assert (done.state, done.epochs, done.point) == ("done", 8, lost.point)
    lines = metrics_log.read(folder)
    assert [line["attempt"] for line in lines][:2] == [1, 1] and lines[-1]["attempt"] == 2


def test_a_running_trial_is_counted_in_and_a_paused_one_too(tmp_path: Path) -> None:
    study = make_study(tmp_path, 2, epochs=50)
    process = start(study, 0, fake_train(epoch_s=0.05))
    _wait_until(lambda: bool(trials(study.storage, study.id)))
    (running,) = trials(study.storage, study.id)
    assert running.state == "running" and [past.loss for past in observations_of(study, [running])] == [None]
    process.terminate()
    process.join()
    assert process.exitcode == 75
    (paused,) = trials(study.storage, study.id)
    assert paused.state == "paused" and [past.loss for past in observations_of(study, [paused])] == [None]


def test_a_searchs_points_do_not_depend_on_the_data_set(tmp_path: Path) -> None:
    """Its digest holds that of the test file: with the test titles shuffled, another search was run."""
    one = make_study(tmp_path, 1)
    other = Study(one.storage, replace(one.definition, dataset="0" * 16))
    assert one.id != other.id
    assert next_trial.seed_of(one, 3, 0) == next_trial.seed_of(other, 3, 0) != next_trial.seed_of(one, 4, 0)
    again = Study(one.storage, replace(one.definition, seed=1))
    assert next_trial.seed_of(again, 3, 0) != next_trial.seed_of(one, 3, 0)


def test_a_stopped_trials_early_value_is_not_taken_for_its_last(tmp_path: Path) -> None:
    study = make_study(tmp_path, 9, epochs=9, stopping=ASHA, algorithm="random")
    run_inline(study, range(9), fake_train())
    found = read_trials(study)
    whole = [trial for trial in found if trial.state == "done"]
    stopped = [trial for trial in found if trial.state == "stopped"]
    assert whole and len({trial.epochs for trial in stopped}) > 1
    losses = dict(zip([trial.number for trial in found], observations_of(study, found), strict=True))
    ranked = sorted(found, key=lambda trial: losses[trial.number].loss or 0.0)
    assert ranked[: len(whole)] == sorted(whole, key=lambda trial: -(trial.value or 0.0))
    assert [trial.epochs for trial in ranked] == sorted((trial.epochs for trial in found), reverse=True)


@pytest.mark.parametrize(("startup", "random_ones"), [(None, 10), (5, 5), (2, 2)])
def test_an_algorithm_proposes_once_so_many_trials_have_a_result(
    startup: int | None, random_ones: int, tmp_path: Path
) -> None:
    """With ten before the first proposal, a search of ten trials, the usual number, was a random one."""
    study = make_study(tmp_path, 12, epochs=1, startup=startup)
    run_inline(study, range(12), fake_train())
    drawn = [dict(trial.draws) for trial in read_trials(study)]
    plain = [random.propose(study.space(), [], next_trial.seed_of(study, number, 0)) for number in range(12)]
    assert [one == other for one, other in zip(drawn, plain, strict=True)] == [n < random_ones for n in range(12)]


def test_rungs_and_their_bar() -> None:
    rule = asha.Rule(grace_epochs=2, reduction=3)
    assert rule.milestones(18) == (2, 6)
    assert rule.milestones(19) == (2, 6, 18)
    assert rule.milestones(2) == ()
    values = {0: 0.5, 1: 0.7, 2: 0.7, 3: 0.1, 4: 0.2, 5: 0.3, 6: 0.4}
    assert rule.promoted(values, final=False) == {1, 2}
    assert rule.promoted({4: 0.9, 7: 0.1}, final=False) == set()
    assert rule.promoted({4: 0.9, 7: 0.1}, final=True) == {4}


def test_halving_stops_trials_and_continues_those_that_rise_into_the_share(tmp_path: Path) -> None:
    study = make_study(tmp_path, 12, epochs=9, stopping=ASHA, seed=1)
    assert run_inline(study, range(12), fake_train()) == [0] * 12
    found = trials(study.storage, study.id)
    assert {trial.state for trial in found} <= {"done", "stopped"} and len(found) == 12
    first, second = rung(study, 1), rung(study, 3)
    assert len(first) == 12 and len(second) >= 12 // 3
    best_at_first = sorted(first, key=lambda number: -first[number])[: 12 // 3]
    assert set(best_at_first) <= set(second)  # whoever the bar fell to was continued, whenever it came
    assert next_promotable(study, "another task") is None
    # The first trial comes to an empty rung and is stopped there: that it went on is another's doing.
    early = next(trial for trial in found if trial.number in best_at_first and trial.number < 3)
    attempts = attempt.history(early.folder)
    assert len(attempts) > 1 and attempts[-1].by is not None
    lines = metrics_log.read(early.folder)
    assert [line["epoch"] for line in lines] == list(range(1, early.epochs + 1))
    assert {line["attempt"] for line in lines} == {entry.number for entry in attempts}


def test_the_winner_of_a_halved_search_has_trained_to_its_last_epoch(tmp_path: Path) -> None:
    study = make_study(tmp_path, 4, epochs=20, stopping=ASHA)
    run_inline(study, range(4), fake_train())
    found = {trial.folder: trial for trial in trials(study.storage, study.id)}
    best = found[winner(study.storage, study.id, 4)]
    assert (best.state, best.epochs) == ("done", 20)
    glance = summary(study.storage, study.id)
    assert glance is not None
    assert glance.epochs_saved == sum(20 - trial.epochs for trial in found.values()) > 30
    assert glance.epochs_spent == sum(trial.epochs for trial in found.values())


def test_a_stopped_trial_is_done_with_its_record_and_checkpoint(tmp_path: Path) -> None:
    study = make_study(tmp_path, 4, stopping=ASHA)
    run_inline(study, [0], fake_train())
    folder = study.storage.run(study.task(0).id)
    record = read_record(folder)
    assert record is not None and record.state == "done" and record.files_intact(study.storage)
    assert {name: record.result[name] for name in ("stopped", "epochs_run", "trial")} == {
        "stopped": "asha",
        "epochs_run": 1,
        "trial": 0,
    }
    assert (folder / "checkpoint.json").exists()
    assert read_json(study.trial(0) / "rungs" / "000001.json")["epochs"] == 1


def test_a_verdict_given_before_a_kill_is_given_again(tmp_path: Path) -> None:
    study = make_study(tmp_path, 4, stopping=ASHA)
    run_inline(study, [0], fake_train())
    folder = study.storage.run(study.task(0).id)
    (folder / "record.json").unlink()  # killed between the verdict and the record
    run_inline(study, [0], fake_train())
    (trial,) = trials(study.storage, study.id)
    assert (trial.state, trial.epochs) == ("stopped", 1)


def test_whoever_is_cut_short_while_continuing_another_trial_takes_it_up_again(tmp_path: Path) -> None:
    study = make_study(tmp_path, 3, epochs=9, stopping=ASHA, seed=1)  # the second is the best
    run_inline(study, [0, 1], fake_train())
    # The third trial's process is asked to stop while it trains another trial on.
    process = start(study, 2, fake_train(epoch_s=0.1))
    own = study.storage.run(study.task(2).id)
    others = [study.storage.run(study.task(number).id) for number in (0, 1)]
    _wait_until(lambda: read_record(own) is not None and bool(_running(study) & set(others)))
    (taken,) = _running(study) & set(others)
    before = (taken / "record.json").read_bytes()
    process.terminate()
    process.join()
    assert process.exitcode == 75
    assert {trial.folder: trial.state for trial in trials(study.storage, study.id)}[taken] == "paused"
    assert (taken / "record.json").read_bytes() == before
    assert run_inline(study, [2], fake_train()) == [0]  # requeued: its own trial is done, the other's is taken up
    states = {trial.folder: trial for trial in trials(study.storage, study.id)}
    assert states[taken].state == "done" and states[taken].epochs == 9
    assert len(attempt.history(own)) == 1


def test_a_trial_lost_while_another_continued_it_can_be_started_as_itself(tmp_path: Path) -> None:
    study = make_study(tmp_path, 3, epochs=9, stopping=ASHA, seed=1)  # the second is the best
    run_inline(study, [0, 1], fake_train())
    process = start(study, 2, fake_train(epoch_s=0.1))
    others = [study.storage.run(study.task(number).id) for number in (0, 1)]
    # Killed once it has trained further: the record of before must hold although the journal has grown.
    _wait_until(lambda: any(len(metrics_log.read(folder)) > 2 for folder in _running(study) & set(others)))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (lost,) = [trial for trial in trials(study.storage, study.id) if trial.state == "lost"]
    assert lost.folder in others and lost.epochs > 2 and lost.value is not None
    former = read_record(lost.folder)
    assert former is not None and is_done(study.storage, lost.task) and former.result["epochs_run"] == 1
    with pytest.raises(NoWinnerError, match=rf"1 of 3 trials have not ended \({lost.number}\)"):
        winner(study.storage, study.id, 3)
    assert run_inline(study, [lost.number], fake_train()) == [0]
    assert {trial.state for trial in trials(study.storage, study.id)} == {"stopped", "done"}
    assert [line["epoch"] for line in metrics_log.read(lost.folder)] == list(range(1, 10))
    assert winner(study.storage, study.id, 3) == lost.folder


def test_a_proposal_does_not_see_the_trial_it_is_for(tmp_path: Path) -> None:
    study = make_study(tmp_path, 12, epochs=1)
    run_inline(study, range(12), fake_train())
    found = read_trials(study)
    assert propose(study, 11, found)[1] == found[11].point


def test_a_plans_trials_are_the_tasks_that_a_search_knows(tmp_path: Path) -> None:
    write_titles(tmp_path / "titles.csv")
    searches = """
searches:
  tuned:
    architecture: mlp
    algorithm: tpe
    trials: 4
    parallel: 2
    metric: validation_balanced_accuracy
    space: {dropout: {uniform: [0, 0.5]}, batch_size: {quniform: [32, 128, 32]}}
    stopping: {asha: {grace_epochs: 1, reduction: 3}}
"""
    (tmp_path / "small.yaml").write_text(MANIFEST + searches)
    plan = make_plan(load(tmp_path / "small.yaml"))
    (planned,) = plan.searches
    tasks = [plan.by_id()[task_id].task for task_id in planned.trials]
    study = study_of(Storage(tmp_path), tasks[0])
    assert study.id == planned.id
    assert [study.task(number).id for number in range(4)] == [task.id for task in tasks]
    assert claim_point(study, 0).keys() == {"dropout", "batch_size"}


def _running(study: Study) -> set[Path]:
    return {trial.folder for trial in trials(study.storage, study.id) if trial.state == "running"}


def _wait_until(true: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)
