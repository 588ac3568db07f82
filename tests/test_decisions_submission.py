"""What is submitted, released and cancelled, by where the tasks of a plan stand: tables of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from decisions_fixture import Tasks, queued, runs, search, stands

from pipeline.decisions.submission import (
    cancellable,
    dependents_of,
    is_queued,
    launch_held,
    met_upstream,
    out_of_reach,
    pending,
    queued_elements,
    stale_dependents,
    superseded_shards,
    to_remake,
    to_submit,
)
from pipeline.decisions.task_state import STATES, TaskState

RUNS, SEARCH = runs(), search()
EVERYTHING = list(RUNS.planned)
LAUNCH_HELD = "launch failed requeued held"


@pytest.mark.parametrize(
    ("state", "in_queue", "expected"),
    [
        *((state, False, state == "running") for state in STATES),
        *((state, True, state in ("running", "waiting", "unknown")) for state in STATES),
    ],
)
def test_what_an_executor_has_or_may_have_is_queued(state: str, in_queue: bool, expected: bool) -> None:
    assert is_queued(stands(state, queued=in_queue)) is expected


@pytest.mark.parametrize(
    ("tasks", "missing", "expected"),
    [
        pytest.param(RUNS, [], [], id="nothing, where all is done"),
        pytest.param(RUNS, EVERYTHING, EVERYTHING, id="everything, where nothing is done"),
        pytest.param(RUNS, ["evaluate a"], ["evaluate a"], id="an evaluation alone"),
        pytest.param(RUNS, ["train a"], ["train a", "evaluate a"], id="a training with what read its model"),
        pytest.param(RUNS, ["data"], ["data"], id="a data set alone: it comes out as it was"),
        pytest.param(RUNS, ["shard 0"], ["shard 0"], id="a shard alone"),
        pytest.param(
            SEARCH, ["trial 1"], ["trial 1", "refit", "winner", "evaluate refit"], id="a trial with all that it may win"
        ),
        pytest.param(SEARCH, ["winner"], ["winner"], id="a winner's evaluation alone"),
    ],
)
def test_what_is_pending(tasks: Tasks, missing: Sequence[str], expected: Sequence[str]) -> None:
    done = {planned.id for name, planned in tasks.planned.items() if name not in missing}
    assert [planned.run for planned in pending(tasks.all, done)] == expected


def test_shards_of_a_finished_data_set_are_not_needed() -> None:
    assert superseded_shards(RUNS.all, RUNS.ids("data")) == set(RUNS.ids("shard 0", "shard 1"))
    assert superseded_shards(RUNS.all, RUNS.ids("shard 0", "train a")) == set()
    assert superseded_shards(SEARCH.all, SEARCH.ids("refit")) == set()


@pytest.mark.parametrize(
    ("state", "submitted"),
    [
        pytest.param(stands("done"), False, id="done"),
        pytest.param(stands("waiting"), True, id="never submitted"),
        pytest.param(queued("7_0"), False, id="in the queue"),
        pytest.param(queued("7_0", state="running"), False, id="running"),
        pytest.param(stands("running"), False, id="running by its heartbeat alone"),
        pytest.param(queued("7_0", state="unknown"), False, id="unknown, in the queue as far as anybody knows"),
        pytest.param(stands("waiting", reason="held: canary"), True, id="held, and out of the queue"),
        pytest.param(stands("failed", "error"), True, id="failed"),
        pytest.param(stands("lost"), True, id="lost"),
    ],
)
def test_what_is_submitted(state: TaskState, submitted: bool) -> None:
    states = RUNS.states({"evaluate a": state})
    assert [planned.run for planned in to_submit(RUNS.all, states)] == ["evaluate a"] * submitted


def test_what_reads_a_model_that_is_trained_again_is_submitted_with_it_unless_it_is_queued() -> None:
    missing = {"train a": stands("lost"), "train b": stands("lost"), "evaluate b": queued("7_1")}
    submitted = to_submit(RUNS.all, RUNS.states(missing))
    assert [planned.run for planned in submitted] == ["train a", "train b", "evaluate a"]


def test_a_closing_job_submits_what_it_names_and_nothing_else() -> None:
    states = RUNS.states({"train a": stands("lost"), "train b": stands("lost"), "evaluate b": stands("lost")})
    assert [planned.run for planned in to_submit(RUNS.all, states, RUNS.ids("evaluate b", "train b"))] == [
        "train b", "evaluate b",
    ]  # fmt: skip
    assert to_submit(RUNS.all, states, ()) == ()


def test_what_a_closing_job_names_is_left_to_who_has_queued_it_meanwhile() -> None:
    """It saw the tasks over before it held the lock: a person may have submitted them since."""
    taken = {"train a": queued("8_0"), "train b": queued("8_1", state="unknown"), "evaluate a": stands("done")}
    states = RUNS.states({**taken, "evaluate b": stands("lost")})
    named = RUNS.ids("train a", "train b", "evaluate a", "evaluate b")
    assert [planned.run for planned in to_submit(RUNS.all, states, named)] == ["evaluate b"]


STALE: dict[str, tuple[Mapping[str, TaskState], Sequence[str], Sequence[str]]] = {
    # how tasks stand, which are submitted again, and which queued ones are stale by that
    "an evaluation that waits for a training submitted again": (
        {"train a": stands("lost"), "evaluate a": queued("9_0")}, ["train a"], ["evaluate a"],
    ),
    "nothing submitted again": ({"train a": queued("8_0"), "evaluate a": queued("9_0")}, [], []),
    "another's training submitted again": (
        {"train b": stands("lost"), "train a": queued("8_0"), "evaluate a": queued("9_0")}, ["train b"], [],
    ),
    "one thing after the other": (
        {"data": stands("lost"), "train a": queued("8_0"), "evaluate a": queued("9_0")},
        ["data"], ["train a", "evaluate a"],
    ),
    "one that runs already": (
        {"train a": stands("lost"), "evaluate a": queued("9_0", state="running")}, ["train a"], [],
    ),
    "one of which nobody knows where it stands": (
        {"train a": stands("lost"), "evaluate a": queued("9_0", state="unknown")}, ["train a"], [],
    ),
    "one that is not queued": ({"train a": stands("lost"), "evaluate a": stands("waiting")}, ["train a"], []),
    "one of another executor": (
        {"train a": stands("lost"), "evaluate a": queued("9_0", executor="local")}, ["train a"], [],
    ),
    "one that is about to start": ({"evaluate a": queued("9_0", reason="Dependency")}, [], []),
    "one that waits for its turn": ({"evaluate a": queued("9_0", reason="Priority")}, [], []),
    "one that waits for what is running": (
        {"train a": queued("8_0", state="running"), "evaluate a": queued("9_0", reason="Dependency")}, [], [],
    ),
    "packed with one that has something to wait for": (
        {
            "train a": stands("lost"), "train b": queued("8_1"),
            "evaluate a": queued("9_0"), "evaluate b": queued("9_0"),
        },
        ["train a"], [],
    ),
    "packed with one that is stale too": (
        {
            "train a": stands("lost"), "train b": stands("lost"),
            "evaluate a": queued("9_0"), "evaluate b": queued("9_0"),
        },
        ["train a", "train b"], ["evaluate a", "evaluate b"],
    ),
    "packed with one that is over": (
        {"train a": stands("lost"), "evaluate a": queued("9_0"), "evaluate b": stands("failed", "error", job="9_0")},
        ["train a"], ["evaluate a"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("stood", "submitted", "stale"), STALE.values(), ids=STALE.keys())
def test_queued_tasks_whose_dependency_can_no_longer_be_met_are_stale(
    stood: Mapping[str, TaskState], submitted: Sequence[str], stale: Sequence[str]
) -> None:
    restarted = [RUNS.planned[name] for name in submitted]
    assert RUNS.names(stale_dependents(RUNS.all, RUNS.states(stood), "slurm", restarted)) == stale


def test_what_waits_for_an_element_that_slurm_holds_of_what_is_done_is_stale() -> None:
    """And not what is about to start: Slurm looks at dependencies only so often."""
    states = RUNS.states({"evaluate a": queued("9_0", reason="Dependency"), "evaluate b": queued("9_1")})
    assert RUNS.names(met_upstream(RUNS.all, states, "slurm")) == ["data", "train a"]
    assert met_upstream(RUNS.all, states, "local") == frozenset()
    for blocking, expected in ((RUNS.ids("train a"), ["evaluate a"]), (RUNS.ids("train b"), []), ((), [])):
        assert RUNS.names(stale_dependents(RUNS.all, states, "slurm", [], None, blocking)) == expected


def test_what_waits_for_a_trial_submitted_anew_is_stale() -> None:
    states = SEARCH.states({"trial 1": stands("lost"), "refit": queued("9_0"), "evaluate refit": queued("9_1")})
    stale = stale_dependents(SEARCH.all, states, "slurm", [SEARCH.planned["trial 1"]])
    assert SEARCH.names(stale) == ["refit", "evaluate refit"]


def test_elements_held_after_a_start_that_failed_are_released() -> None:
    states = RUNS.states(
        {
            "train a": queued("7_2", reason=LAUNCH_HELD),
            "train b": queued("7_2", reason=LAUNCH_HELD),
            "evaluate a": queued("7_1", reason=LAUNCH_HELD),
            "evaluate b": queued("7_3", reason="JobHeldUser"),
            "shard 0": stands("failed", "error", job="7_4", executor="slurm", reason=LAUNCH_HELD),
        }
    )
    assert launch_held(states, "slurm") == ("7_1", "7_2")
    assert launch_held(states, "local") == ()


def test_what_an_executor_has_already_can_be_waited_for() -> None:
    states = RUNS.states(
        {
            "data": queued("7"),
            "train a": queued("8_0", state="running"),
            "train b": queued("8_1", executor="local"),
            "evaluate a": queued("9_0"),
            "evaluate b": stands("failed", "error", job="9_1", executor="slurm"),
        }
    )
    stale = RUNS.ids("evaluate a")
    assert queued_elements(states, "slurm", stale) == {RUNS.id("data"): "7", RUNS.id("train a"): "8_0"}
    assert queued_elements(states, "local", ()) == {RUNS.id("train b"): "8_1"}


@pytest.mark.parametrize(
    ("state", "elements", "ending", "unknown"),
    [
        pytest.param(queued("7_0"), {("slurm", None): ("7_0",)}, 1, 0, id="waiting in the queue"),
        pytest.param(queued("7_0", state="running"), {("slurm", None): ("7_0",)}, 1, 0, id="running"),
        pytest.param(queued("3", executor="local"), {("local", None): ("3",)}, 1, 0, id="of another executor"),
        pytest.param(
            stands("running", job="7_0", shown=True), {("inline", None): ("7_0",)}, 1, 0, id="of an executor not named"
        ),
        pytest.param(stands("running", job="7_0", queued=True), {}, 0, 0, id="running by its heartbeat alone"),
        pytest.param(stands("waiting", job="7_0", reason="held: canary"), {}, 0, 0, id="held, and out of the queue"),
        pytest.param(stands("waiting"), {}, 0, 0, id="never submitted"),
        pytest.param(queued("7_0", state="unknown"), {}, 0, 1, id="unknown"),
        pytest.param(stands("done", job="7_0"), {}, 0, 0, id="done"),
        pytest.param(stands("failed", "error", job="7_0"), {}, 0, 0, id="failed"),
        pytest.param(stands("lost", job="7_0"), {}, 0, 0, id="lost"),
    ],
)
def test_what_is_cancelled(state: TaskState, elements: Mapping[str, Sequence[str]], ending: int, unknown: int) -> None:
    chosen = cancellable(RUNS.states({"train a": state}), executor="inline")
    assert (chosen.elements, chosen.ending, chosen.unknown) == (elements, ending, unknown)


def test_a_packed_element_is_cancelled_once_and_ends_all_its_tasks() -> None:
    packed = {"train a": queued("7_0", state="running"), "train b": queued("7_0"), "evaluate a": queued("6_0")}
    chosen = cancellable(RUNS.states(packed), executor="slurm")
    assert (chosen.elements, chosen.ending) == ({("slurm", None): ("6_0", "7_0")}, 3)


THEIRS = {"mine": False}


def test_what_somebody_else_queued_is_theirs_to_cancel_release_and_wait_for() -> None:
    states = RUNS.states({"train a": queued("9_0", **THEIRS), "train b": queued("9_1")})
    chosen = cancellable(states, executor="slurm")
    assert (chosen.elements, sum(chosen.left.values())) == ({("slurm", None): ("9_1",)}, 1)
    held = {"reason": "launch failed requeued held"}
    states = RUNS.states({"train a": queued("9_0", **held, **THEIRS), "train b": queued("9_1", **held)})
    assert launch_held(states, "slurm") == ("9_1",)
    restarted = [planned for planned in RUNS.all if planned.id == RUNS.id("train a")]
    states = RUNS.states({"evaluate a": queued("9_2", **THEIRS)})
    assert stale_dependents(RUNS.all, states, "slurm", restarted) == frozenset()


def test_what_needs_another_users_local_processes_is_held_and_on_slurm_it_waits() -> None:
    states = RUNS.states({"train a": queued("1_0", executor="local", **THEIRS)})
    evaluate = [planned for planned in RUNS.all if planned.id == RUNS.id("evaluate a")]
    assert out_of_reach(RUNS.all, states, evaluate).keys() == {RUNS.id("evaluate a")}
    assert queued_elements(states, "local", ()) == {}
    states = RUNS.states({"train a": queued("1_0", **THEIRS)})
    assert out_of_reach(RUNS.all, states, evaluate) == {}
    assert queued_elements(states, "slurm", ()) == {RUNS.id("train a"): "1_0"}


@pytest.mark.parametrize(
    ("tasks", "done", "chosen", "restarted"),
    [
        pytest.param(RUNS, None, ["train a"], ["train a", "evaluate a"], id="a training with its evaluation"),
        pytest.param(RUNS, None, ["data"], list(RUNS.planned), id="a data set with its shards and all made of it"),
        pytest.param(RUNS, None, ["shard 0"], list(RUNS.planned), id="a shard with its data set, and so the others"),
        pytest.param(RUNS, ["shard 0", "shard 1", "data"], ["train a"], [], id="what is not done goes on"),
        pytest.param(
            RUNS, ["shard 0", "shard 1", "data"], ["data"], list(RUNS.planned), id="what had begun on it starts over"
        ),
        pytest.param(SEARCH, None, ["trial 1", "winner"], ["winner"], id="never a trial"),
    ],
)
def test_what_is_made_from_the_start(
    tasks: Tasks, done: Sequence[str] | None, chosen: Sequence[str], restarted: Sequence[str]
) -> None:
    finished = tasks.ids(*(tasks.planned if done is None else done))
    assert tasks.names(to_remake(tasks.all, finished, tasks.ids(*chosen))) == restarted


# Several of Slurm's clusters: their jobs can be cancelled together, but not wait for each other.

ON_OTHER = {"cluster": "other"}


def test_what_is_cancelled_is_cancelled_on_its_own_cluster() -> None:
    states = RUNS.states({"train a": queued("9_0", **ON_OTHER), "train b": queued("9_0")})
    chosen = cancellable(states, executor="slurm")
    assert chosen.elements == {("slurm", "other"): ("9_0",), ("slurm", None): ("9_0",)} and chosen.ending == 2


@pytest.mark.parametrize(
    ("there", "here", "reason"),
    [
        (ON_OTHER, None, "cluster other is at what it needs"),
        ({}, "other", "another cluster is at what it needs"),
        (ON_OTHER, "other", None),
        ({}, None, None),
    ],
)
def test_what_another_cluster_has_can_not_be_waited_for(
    there: Mapping[str, str], here: str | None, reason: str | None
) -> None:
    states = RUNS.states({"train a": queued("9_0", **there)})
    evaluate = [planned for planned in RUNS.all if planned.id == RUNS.id("evaluate a")]
    found = out_of_reach(RUNS.all, states, evaluate, here)
    assert found == ({} if reason is None else {RUNS.id("evaluate a"): reason})
    assert queued_elements(states, "slurm", (), here) == ({RUNS.id("train a"): "9_0"} if reason is None else {})
    held = RUNS.states({"train a": queued("9_0", reason=LAUNCH_HELD, **there)})
    assert launch_held(held, "slurm", here) == (("9_0",) if reason is None else ())


@pytest.mark.parametrize(
    ("refused", "among", "expected"),
    [
        pytest.param(["train a"], EVERYTHING, ["evaluate a"], id="an evaluation of what was refused"),
        pytest.param(["data"], EVERYTHING, ["train a", "train b", "evaluate a", "evaluate b"], id="all that follows"),
        pytest.param(["shard 0"], ["data"], ["data"], id="what waits for it to end"),
        pytest.param(["shard 0"], ["train a"], [], id="not what needs one that may yet come"),
        pytest.param(["evaluate a"], EVERYTHING, [], id="nothing needs an evaluation"),
    ],
)
def test_what_can_never_run_without_what_was_refused(
    refused: Sequence[str], among: Sequence[str], expected: Sequence[str]
) -> None:
    reasons = dict.fromkeys(RUNS.ids(*refused), "no such partition")
    found = dependents_of(reasons, RUNS.all, RUNS.ids(*among))
    assert RUNS.names(found) == expected and set(found.values()) <= {"no such partition"}
