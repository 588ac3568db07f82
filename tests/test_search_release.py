"""A trial that can't tell its end is tried again, or given up: either way its search comes to a winner."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest
from report_fixture import (
    DROPOUT,
    Made,
    data_files,
    finish_evaluate,
    finish_trial,
    make,
    make_search,
)

from jobs.attempt import begin, begin_after, history, numbers
from jobs.search.summary import NoWinnerError, summary, winner
from jobs.task import Provenance, is_done, read_record
from pipeline.close import record_lost_trial, unrecorded_trials
from pipeline.decisions.closing import lost_candidates, retries_without
from pipeline.decisions.retry import Retry


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A search of four trials of which two were killed; its winner and its refit have waited in vain."""
    search = make_search(data_files(tmp_path / "data"), name="deep", space=DROPOUT, trials=4, refit_seeds=(1,))
    made = make(tmp_path, searches=(search,))
    for number in range(4):
        task = finish_trial(made, 0, number, skill=0.3 + 0.1 * number)
        if number >= 2:
            begin(made.storage.run(task))
            (made.storage.run(task) / "record.json").unlink()
            made.state(task, "failed", cause="killed", attempts=1)
    for row in made.plan.rows:
        for waiting in filter(None, (row.train, row.evaluate)):
            made.state(waiting, "failed", cause="upstream failed")
    return made


def release(made: Made, mine: Collection[str]) -> dict[str, Retry]:
    """Give up the trials among ``mine`` that nobody tries again, as a closing job does; what is tried again then."""
    lost = unrecorded_trials(made.storage, lost_candidates(made.plan.tasks, made.states)).intersection(mine)
    for trial in lost:
        record_lost_trial(made.storage, made.states[trial])
    return retries_without(made.plan.tasks, made.states, lost)


def test_no_trial_has_won_while_one_may_still_come(made: Made) -> None:
    search = made.plan.searches[0]
    with pytest.raises(NoWinnerError, match=r"2 of 4 trials have not ended \(2, 3\)"):
        winner(made.storage, search.id, 4)
    assert winner(made.storage, search.id, 2).name == search.trials[1]


def test_trials_that_are_given_up_count_as_failed_and_the_others_have_a_winner(made: Made) -> None:
    search = made.plan.searches[0]
    freed = release(made, search.trials)
    ends = [read_record(made.storage.run(trial)) for trial in search.trials]
    assert [(end.state, end.cause) for end in ends if end] == [("done", None)] * 2 + [("failed", "killed")] * 2
    assert winner(made.storage, search.id, 4).name == search.trials[1]
    glance = summary(made.storage, search.id)
    assert glance is not None and glance.states == {"done": 2, "failed": 2}
    assert set(freed) == {task for row in made.plan.rows for task in (row.train, row.evaluate) if task}


def test_what_is_tried_again_or_was_recorded_is_left_alone(made: Made) -> None:
    search = made.plan.searches[0]
    assert release(made, search.trials[:3]).keys() == release(made, ()).keys() | {
        row.evaluate for row in made.plan.rows
    } | {made.plan.rows[1].train}
    assert read_record(made.storage.run(search.trials[3])) is None
    winner_row = made.plan.rows[0]
    finish_evaluate(made, winner_row.evaluate, skill=0.5)
    assert winner_row.evaluate not in release(made, search.trials)


def test_a_trial_whose_continuation_is_given_up_keeps_the_result_that_it_had(made: Made) -> None:
    search = made.plan.searches[0]
    release(made, search.trials[2:])
    best = finish_trial(made, 0, 1, skill=0.9, stopped="asha")
    folder = made.storage.run(best)
    begin_after(folder, len(numbers(folder)), Provenance(), by=search.trials[0])  # and its process is no more
    made.state(best, "lost", attempts=2)
    with pytest.raises(NoWinnerError, match=r"1 of 4 trials have not ended \(1\)"):
        winner(made.storage, search.id, 4)
    freed = release(made, search.trials)
    assert set(freed) == {task for row in made.plan.rows for task in (row.train, row.evaluate) if task}
    assert is_done(made.storage, best) and history(folder)[-1].state == "failed"
    assert winner(made.storage, search.id, 4).name == best
