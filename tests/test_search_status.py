"""What `tanda status` says of searches: the best so far, trials by state, epochs saved by stopping."""

from __future__ import annotations

import io
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from recording_fixture import Recording
from report_fixture import (
    SPACE,
    Made,
    data_files,
    fail,
    finish_trial,
    make,
    make_search,
)
from rich.console import Console

from jobs import metrics_log
from jobs.attempt import begin_after, numbers
from jobs.task import Provenance
from pipeline import submit
from pipeline.decisions.retry import Retry
from pipeline.manifest.model import Resources
from pipeline.status import done_on_storage, print_states, states_document, task_states
from pipeline.submit import submit_plan
from sharedfs.documents import write_json


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A search of six trials: two done, one stopped after one epoch, one failed, two to come; and one not begun."""
    data = data_files(tmp_path / "data")
    stopping = {"asha": {"grace_epochs": 1, "reduction": 3}}
    search = make_search(data, name="deep", space=SPACE, trials=6, stopping=stopping)
    made = make(tmp_path, searches=(search, make_search(data, name="next", space=SPACE, trials=2)))
    finish_trial(made, 0, 0, skill=0.5)
    finish_trial(made, 0, 1, skill=0.8)
    finish_trial(made, 0, 2, skill=0.3, stopped="asha")
    fail(made, finish_trial(made, 0, 3, skill=0.2), "diverged", "the training loss is NaN", epochs=2)
    return made


def test_json_has_a_search_with_its_best_its_states_and_its_epochs(made: Made) -> None:
    deep, following = states_document(made.plan, made.states)["searches"]
    assert deep["name"] == "deep" and deep["id"] == made.plan.searches[0].id and deep["trials"] == 6
    assert deep["best"]["trial"] == 1 and deep["best"]["task"] == made.plan.searches[0].trials[1]
    assert set(deep["best"]["point"]) == set(SPACE) and 0.6 < deep["best"]["value"] < 0.9
    assert deep["states"] == {"stopped": 1, "failed": 1, "done": 2, "waiting": 2}
    asked = made.plan.searches[0].search.settings.epochs
    assert deep["epochs_spent"] == 4 + 4 + 1 + 2 and deep["epochs_saved"] == asked - 1
    assert following["best"] is None and following["states"] == {"waiting": 2} and following["epochs_spent"] == 0


def test_people_read_a_line_a_search(made: Made) -> None:
    text = _printed(made)
    saved = made.plan.searches[0].search.settings.epochs - 1
    assert "search deep: best validation_balanced_accuracy 0." in text and "(trial 1)" in text
    assert f"1 stopped, 1 failed, 2 done, 2 waiting; 11 epochs spent, {saved} saved by stopping" in text
    assert "search next: no result yet; trials: 2 waiting; 0 epochs spent" in text


def test_a_damaged_search_hides_nothing_else(made: Made) -> None:
    write_json(made.storage.search(made.plan.searches[0].id) / "search.json", {"damaged": True})
    text = _printed(made)
    assert "search deep:" in text and "search.json" in text and "search next: no result yet" in text


def test_a_stopped_trial_that_is_continued_is_running_then_lost_and_its_record_stays(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = made.plan.searches[0].trials[2]
    folder = made.storage.run(task)
    record = (folder / "record.json").read_bytes()
    monkeypatch.setattr("jobs.attempt.socket.gethostname", lambda: "elsewhere")
    attempt = begin_after(folder, len(numbers(folder)), Provenance(), by=made.plan.searches[0].trials[0])
    assert attempt is not None
    (attempt.path / "alive").touch()
    monkeypatch.undo()
    metrics_log.append(folder, {"epoch": 2, "validation_balanced_accuracy": 0.95, "ended": 1.0})
    assert task_states(made.plan)[task].state == "running" and task not in done_on_storage(made.plan)
    deep = states_document(made.plan, made.states)["searches"][0]
    assert deep["states"]["running"] == 1 and "stopped" not in deep["states"]
    assert (deep["best"]["trial"], deep["best"]["value"]) == (2, 0.95)
    os.utime(attempt.path / "alive", (0, 0))  # no sign of life
    lost = task_states(made.plan)[task]
    assert (lost.state, lost.message) == ("lost", "stopped by its search, then continued; that was interrupted")
    # Submitted again it goes on from what it has: the record is not set aside.
    manifest = replace(made.plan.manifest, resources={"close": Resources()})
    monkeypatch.setattr(submit, "make_executor", lambda _name, _manifest: Recording())
    submit_plan(replace(made.plan, manifest=manifest), executor="slurm", changes={task: Retry(reason="lost")})
    assert (folder / "record.json").read_bytes() == record
    # One that failed leaves the trial as it was before, with a journal that is longer.
    attempt.end(state="failed", ended=time.time(), cause="error", message="CUDA error")
    assert task_states(made.plan)[task].state == "done" and task in done_on_storage(made.plan)
    again = states_document(made.plan, made.states)["searches"][0]
    assert again["states"]["stopped"] == 1 and again["best"]["trial"] == 1


def _printed(made: Made) -> str:
    out = io.StringIO()
    print_states(made.plan, made.states, Console(file=out, width=400))
    return out.getvalue()
