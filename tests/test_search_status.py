"""What `tanda status` says of searches: the best so far, trials by state, epochs saved by stopping."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
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

from jobs.storage import write_json
from pipeline.status import print_states, states_document


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
    asked = made.plan.searches[0].search.settings["epochs"]
    assert deep["epochs_spent"] == 4 + 4 + 1 + 2 and deep["epochs_saved"] == asked - 1
    assert following["best"] is None and following["states"] == {"waiting": 2} and following["epochs_spent"] == 0


def test_people_read_a_line_a_search(made: Made) -> None:
    text = _printed(made)
    saved = made.plan.searches[0].search.settings["epochs"] - 1
    assert "search deep: best validation_balanced_accuracy 0." in text and "(trial 1)" in text
    assert f"1 stopped, 1 failed, 2 done, 2 waiting; 11 epochs spent, {saved} saved by stopping" in text
    assert "search next: no result yet; trials: 2 waiting; 0 epochs spent" in text


def test_a_damaged_search_hides_nothing_else(made: Made) -> None:
    write_json(made.storage.search(made.plan.searches[0].id) / "search.json", {"damaged": True})
    text = _printed(made)
    assert "search deep:" in text and "search.json" in text and "search next: no result yet" in text


def _printed(made: Made) -> str:
    out = io.StringIO()
    print_states(made.plan, made.states, Console(file=out, width=400))
    return out.getvalue()
