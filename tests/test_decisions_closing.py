"""What a closing job does about where its submission stands: tables of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from decisions_fixture import Tasks, queued, runs, search, stands

from jobs.task import CAUSES
from pipeline.arrays import make_requests
from pipeline.decisions.closing import (
    GIVEN_UP,
    ClosingActions,
    ClosingEvidence,
    chain,
    closing_actions,
    exit_status,
    finished_submissions,
    lost_candidates,
    resumable,
    tells_end,
)
from pipeline.decisions.retry import FINAL, RESUMED, Retry, made_progress
from pipeline.decisions.task_state import STATES, TaskState
from pipeline.queue import QueuedAs
from pipeline.submission import Queued, Submission
from slurm.job_state import JobIdentity

RUNS, SEARCH = runs(), search()
TIMES = {"earlier": 100.0, "mine": 200.0, "later": 300.0}


def submission(name: str, *tasks: str, manifest: str = "m", held: Mapping[str, str] | None = None) -> Submission:
    """A submission of an array with an element for each of these task ids."""
    array = Queued(
        stage="train",
        group="g",
        job_ids=("7",),
        elements={f"7_{place}": (task,) for place, task in enumerate(tasks)},
        mem_gb=8.0,
    )
    return Submission(
        name=name, manifest=manifest, executor="slurm", user="u", time=TIMES[name], git_commit=None,
        arrays=(array,) if tasks else (), held=held or {},
    )  # fmt: skip


def element(submission: str, mem_gb: float = 8.0) -> QueuedAs:
    return QueuedAs(
        submission=submission, executor="slurm", element="7_0", time=TIMES[submission], mem_gb=mem_gb, packed=1,
        sent=JobIdentity(),
    )  # fmt: skip


def actions(
    tasks: Tasks,
    stood: Mapping[str, TaskState],
    *,
    elements: Mapping[str, Sequence[QueuedAs]] | None = None,
    held: Mapping[str, str] | None = None,
    **evidence: Any,
) -> ClosingActions:
    """What is done where tasks stand so; each was in one element, of this submission, unless ``elements`` says else."""
    history: dict[str, Sequence[QueuedAs]] = {name: (element("mine"),) for name in tasks.planned}
    history |= elements or {}
    mine = submission("mine", held={tasks.id(name): reason for name, reason in (held or {}).items()})
    facts = ClosingEvidence(
        tasks=tasks.all,
        states=tasks.states(stood),
        retries=2,
        submission=mine,
        submissions=(mine,),
        queue_history={tasks.id(name): places for name, places in history.items() if places},
    )
    return closing_actions(replace(facts, **evidence))


def retried(tasks: Tasks, done: ClosingActions) -> dict[str, Retry]:
    return {tasks.names([task])[0]: retry for task, retry in done.retries.items()}


# One task, by how it ended: each state and each cause.

FIRST_TRY: dict[str | None, Retry | None] = {
    None: Retry(reason="failed"),
    "error": None,
    "out of memory": Retry(reason="out of memory", memory_factor=1.5),
    "GPU out of memory": None,
    "time limit": Retry(reason="time limit"),
    "preempted too often": Retry(reason="preempted too often"),
    "node failure": Retry(reason="node failure", exclude="n3"),
    "no GPU": Retry(reason="no GPU", exclude="n3"),
    "GPU failure": Retry(reason="GPU failure", exclude="n3"),
    "GPU idle": None,
    "storage": Retry(reason="storage", exclude="n3"),
    "cancelled": None,
    "diverged": None,
    "at chance": None,
    "upstream failed": Retry(reason="upstream failed"),
    "killed": Retry(reason="killed"),
}


@pytest.mark.parametrize("cause", [None, *CAUSES])
def test_a_task_that_failed_is_tried_again_by_its_cause(cause: str | None) -> None:
    done = actions(RUNS, {"evaluate a": stands("failed", cause, node="n3")})
    expected = FIRST_TRY[cause]
    assert retried(RUNS, done) == ({} if expected is None else {"evaluate a": expected})
    assert done.exit_status == int(expected is None)


@pytest.mark.parametrize("state", STATES)
def test_only_what_ended_without_a_result_is_tried_again(state: str) -> None:
    expected = {"failed": Retry(reason="failed"), "lost": Retry(reason="lost")}.get(state)
    assert retried(RUNS, actions(RUNS, {"evaluate a": stands(state)})) == (
        {} if expected is None else {"evaluate a": expected}
    )


@pytest.mark.parametrize("cause", [cause for cause in CAUSES if cause not in FINAL])
@pytest.mark.parametrize(("tries", "again"), [(1, True), (2, True), (3, False)])
def test_the_budget_counts_every_element_that_a_task_was_in(cause: str, tries: int, again: bool) -> None:
    elements = {"evaluate a": (*(element("earlier"),) * (tries - 1), element("mine"))}
    done = actions(RUNS, {"evaluate a": stands("failed", cause)}, elements=elements)
    assert (list(retried(RUNS, done)), done.exit_status) == (["evaluate a"] * again, int(not again))


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("got_further", [True, False])
def test_past_the_budget_only_what_got_further_goes_on(cause: str, got_further: bool) -> None:
    elements = {"evaluate a": (*(element("earlier"),) * 9, element("mine"))}
    progressed = RUNS.ids("evaluate a") if got_further else RUNS.ids("evaluate b")
    done = actions(RUNS, {"evaluate a": stands("failed", cause)}, elements=elements, progressed=progressed)
    expected = Retry(reason=f"{cause}, and it made progress") if got_further and cause in RESUMED else None
    assert retried(RUNS, done).get("evaluate a") == expected


@pytest.mark.parametrize(
    ("mem_gb", "again"),
    [pytest.param(8.0, True, id="memory as planned"), pytest.param(12.0, False, id="memory raised already")],
)
def test_memory_is_raised_once(mem_gb: float, again: bool) -> None:
    done = actions(
        RUNS, {"train a": stands("failed", "out of memory")}, elements={"train a": [element("mine", mem_gb)]}
    )
    assert list(retried(RUNS, done)) == ["train a"] * again


@pytest.mark.parametrize("cause", ["GPU failure", "GPU out of memory"])
def test_tasks_that_shared_a_gpu_are_tried_alone(cause: str) -> None:
    places = {name: [replace(element("mine"), packed=2)] for name in ("train a", "train b")}
    done = actions(RUNS, dict.fromkeys(places, stands("failed", cause)), elements=places)
    again = [task for task in RUNS.all if task.id in done.retries and task.stage == "train"]
    assert [request.packs for request in make_requests(again, done.retries, canary=False)] == [
        tuple((task,) for task in again)
    ]
    assert len(again) == 2


def test_only_the_newest_element_says_whether_memory_was_raised() -> None:
    elements = {"train a": [element("earlier", 12.0), element("mine", 8.0)]}
    done = actions(RUNS, {"train a": stands("failed", "out of memory")}, elements=elements)
    assert retried(RUNS, done) == {"train a": Retry(reason="out of memory", memory_factor=1.5)}


# Whose a task is: that of the submission that queued it last.


@pytest.mark.parametrize(
    ("places", "again"),
    [
        pytest.param([element("mine")], True, id="mine"),
        pytest.param([element("earlier"), element("mine")], True, id="an earlier submission's, then mine"),
        pytest.param([element("mine"), element("later")], False, id="mine, then taken over by a later submission"),
        pytest.param([element("earlier")], False, id="an earlier submission's alone"),
        pytest.param([], False, id="nobody's"),
    ],
)
def test_a_task_is_tried_again_by_the_submission_that_queued_it_last(places: Sequence[QueuedAs], again: bool) -> None:
    done = actions(RUNS, {"evaluate a": stands("failed", "killed")}, elements={"evaluate a": places})
    assert list(retried(RUNS, done)) == ["evaluate a"] * again
    assert done.exit_status == int(not again)


HELD = Retry(reason="not queued before: the QOS allows no more")


@pytest.mark.parametrize(
    ("state", "places", "expected"),
    [
        pytest.param(stands("waiting"), [], HELD, id="there may be room now"),
        pytest.param(stands("failed", "error"), [], HELD, id="what failed before is due all the same"),
        pytest.param(stands("lost"), [element("earlier")], HELD, id="lost by an earlier submission"),
        pytest.param(
            stands("failed", "killed"), [element("mine")], HELD, id="the limit's reason is said, not the failure's"
        ),
        pytest.param(stands("done"), [], None, id="done meanwhile"),
        pytest.param(queued("8_0"), [element("earlier")], None, id="queued meanwhile"),
        pytest.param(queued("8_0", state="unknown"), [element("earlier")], None, id="unknown, and so not queued again"),
        pytest.param(stands("waiting"), [element("later")], None, id="taken over by a later submission"),
        pytest.param(
            stands("lost"), [element("mine"), element("later")], None, id="tried and lost by a later submission"
        ),
    ],
)
def test_what_a_limit_kept_from_the_queue_is_queued(
    state: TaskState, places: Sequence[QueuedAs], expected: Retry | None
) -> None:
    done = actions(
        RUNS, {"evaluate a": state}, elements={"evaluate a": places}, held={"evaluate a": "the QOS allows no more"}
    )
    assert retried(RUNS, done) == ({} if expected is None else {"evaluate a": expected})


# What waits for a task goes again with it.

UPSTREAM = stands("failed", "upstream failed")


def again(name: str) -> Retry:
    return Retry(reason=f"{RUNS.id(name)} is retried")


UPSTREAM_TABLE: dict[str, tuple[Mapping[str, TaskState], dict[str, Retry]]] = {
    "a training and its evaluation": (
        {"train a": stands("lost"), "evaluate a": UPSTREAM},
        {"train a": Retry(reason="lost"), "evaluate a": again("train a")},
    ),
    "a data set and all that is built on it": (
        {"data": stands("lost"), "train a": UPSTREAM, "evaluate a": UPSTREAM},
        {"data": Retry(reason="lost"), "train a": again("data"), "evaluate a": again("data")},
    ),
    "a shard, and the data set that waited for it": (
        {"shard 1": stands("lost"), "data": UPSTREAM},
        {"shard 1": Retry(reason="lost"), "data": again("shard 1")},
    ),
    "an evaluation that failed by itself": (
        {"train a": stands("lost"), "evaluate a": stands("failed", "error")},
        {"train a": Retry(reason="lost"), "evaluate a": again("train a")},
    ),
    "an evaluation of which nobody knows where it stands": (
        {"train a": stands("lost"), "evaluate a": queued("9_0", state="unknown")},
        {"train a": Retry(reason="lost"), "evaluate a": again("train a")},
    ),
    "an evaluation that is done": ({"train a": stands("lost")}, {"train a": Retry(reason="lost")}),
    "a training that is not tried again": (
        {"train a": stands("failed", "error"), "evaluate a": UPSTREAM}, {},
    ),
    "a need that is done meanwhile": ({"evaluate a": UPSTREAM}, {"evaluate a": Retry(reason="upstream failed")}),
    "a need that is still running": ({"train a": queued("8_0", state="running"), "evaluate a": UPSTREAM}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("stood", "expected"), UPSTREAM_TABLE.values(), ids=UPSTREAM_TABLE.keys())
def test_what_needs_a_task_is_tried_again_with_it(stood: Mapping[str, TaskState], expected: dict[str, Retry]) -> None:
    assert retried(RUNS, actions(RUNS, stood)) == expected


def test_what_needs_a_task_that_a_limit_held_goes_with_it() -> None:
    stood = {"train a": stands("waiting"), "evaluate a": UPSTREAM}
    done = actions(RUNS, stood, elements={"train a": []}, held={"train a": "no more"})
    assert retried(RUNS, done) == {
        "train a": Retry(reason="not queued before: no more"),
        "evaluate a": again("train a"),
    }


# Trials that nobody tries again: their search goes on without them.

WAITED = {"refit": UPSTREAM, "winner": UPSTREAM, "evaluate refit": UPSTREAM}
TOO_OFTEN = (*(element("earlier"),) * 3, element("mine"))


@pytest.mark.parametrize(
    ("state", "places", "recorded", "lost"),
    [
        pytest.param(stands("lost"), TOO_OFTEN, False, True, id="lost too often"),
        pytest.param(stands("failed", "killed"), TOO_OFTEN, False, True, id="killed too often"),
        pytest.param(stands("failed", "cancelled"), [element("mine")], False, True, id="cancelled"),
        pytest.param(stands("failed", "diverged"), [element("mine")], True, False, id="it said its end itself"),
        pytest.param(stands("lost"), [element("mine")], False, False, id="tried again"),
        pytest.param(stands("lost"), [element("mine"), element("later")], False, False, id="a later submission's"),
        pytest.param(stands("lost"), [element("earlier")], False, False, id="an earlier submission's"),
        pytest.param(stands("lost"), [], False, False, id="never submitted"),
        pytest.param(queued("7_1", state="unknown"), TOO_OFTEN, False, False, id="unknown"),
        pytest.param(queued("7_1", state="running"), TOO_OFTEN, False, False, id="running"),
    ],
)
def test_trials_that_are_given_up(state: TaskState, places: Sequence[QueuedAs], recorded: bool, lost: bool) -> None:
    stood = {**WAITED, "trial 1": state}
    candidates = lost_candidates(SEARCH.all, SEARCH.states(stood))
    done = actions(SEARCH, stood, elements={"trial 1": places}, unrecorded=() if recorded else candidates)
    assert SEARCH.names(done.lost_trials) == ["trial 1"] * lost


def test_what_waited_for_a_trial_that_is_given_up_is_tried_again_without_it() -> None:
    # Its needs are there; it failed for want of the trials that it came after, and has used up its tries.
    stood = {**WAITED, "trial 1": stands("lost")}
    elements = dict.fromkeys(("trial 1", "refit", "winner", "evaluate refit"), TOO_OFTEN)
    done = actions(SEARCH, stood, elements=elements, unrecorded=SEARCH.ids("trial 1"))
    assert retried(SEARCH, done) == dict.fromkeys(("refit", "winner", "evaluate refit"), Retry(reason=GIVEN_UP))
    assert done.exit_status == 1  # the trial itself


def test_what_has_its_result_or_another_cause_is_not_tried_again_without_a_trial() -> None:
    stood = {"refit": stands("done"), "winner": stands("failed", "error"), "trial 1": stands("lost")}
    done = actions(SEARCH, stood, elements={"trial 1": TOO_OFTEN}, unrecorded=SEARCH.ids("trial 1"))
    assert SEARCH.names(done.lost_trials) == ["trial 1"] and retried(SEARCH, done) == {}


def test_a_training_without_a_record_is_no_lost_trial() -> None:
    stood = {"train a": stands("lost")}
    assert lost_candidates(RUNS.all, RUNS.states(stood)) == ()


# Progress: a checkpoint newer than the start of the newest attempt.


@pytest.mark.parametrize(
    ("started", "saved", "expected"),
    [
        pytest.param(100.0, 150.0, True, id="saved since"),
        pytest.param(100.0, 100.0, True, id="saved in the same moment"),
        pytest.param(100.0, 50.0, False, id="saved by an earlier attempt"),
        pytest.param(100.0, None, False, id="never saved"),
        pytest.param(None, 50.0, False, id="no word of its start"),
        pytest.param(None, None, False, id="neither"),
    ],
)
def test_progress_is_a_checkpoint_of_the_newest_attempt(
    started: float | None, saved: float | None, expected: bool
) -> None:
    assert made_progress(started=started, saved=saved) is expected


def test_progress_matters_where_a_task_was_cut_short() -> None:
    stood = {"train a": stands("failed", "time limit"), "train b": stands("failed", "preempted too often")}
    stood |= {"evaluate a": stands("failed", "out of memory"), "evaluate b": stands("lost")}
    assert RUNS.names(resumable(RUNS.states(stood))) == ["train a", "train b"]


# What is cleared away, and how the job ends.


@pytest.mark.parametrize(
    ("tasks", "manifest", "finished"),
    [
        pytest.param(("train a", "evaluate a"), "m", True, id="all done"),
        pytest.param(("train a", "train b"), "m", False, id="one failed"),
        pytest.param(("train a", "evaluate b"), "m", False, id="one unknown"),
        pytest.param((), "m", True, id="nothing was queued"),
        pytest.param(("train a",), "another", False, id="another manifest's"),
    ],
)
def test_files_of_a_submission_are_removed_once_all_its_tasks_are_done(
    tasks: Sequence[str], manifest: str, finished: bool
) -> None:
    states = RUNS.states({"train b": stands("failed", "error"), "evaluate b": queued("7_0", state="unknown")})
    sent = submission("earlier", *RUNS.ids(*tasks), manifest=manifest)
    assert finished_submissions("m", [sent], states) == ("earlier",) * finished


def test_a_submission_with_tasks_that_the_plan_does_not_have_is_left_alone() -> None:
    # The manifest was edited and submitted again under the same name: its jobs start from what lies there.
    sent = submission("later", RUNS.id("train a"), "0123456789abcdef")
    assert finished_submissions("m", [sent], RUNS.states({})) == ()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("tried_again", [True, False])
def test_the_exit_status_is_1_where_something_that_ended_is_left(state: str, tried_again: bool) -> None:
    states = RUNS.states({"train a": stands(state)})
    expected = int(state in ("failed", "lost") and not tried_again)
    assert exit_status(states, RUNS.ids("train a") if tried_again else ()) == expected


@pytest.mark.parametrize(
    ("own", "others", "told", "tells"),
    [
        (("mine", "t"), (), (), True),
        (("mine", "t"), (), ("mine",), False),
        (("mine", "t"), (), ("earlier",), True),
        # It goes on in a later one; one that could queue nothing is no such.
        (("mine", "t"), (("later", "t", "mine"),), (), False),
        (("mine", "t"), (("later", None, "mine"),), (), True),
        (("mine", "t"), (("later", "t", "earlier"), ("earlier", "t", None)), (), True),
        # It tries again what failed of an earlier one, told or not: its end is another.
        (("mine", "t", "earlier"), (("earlier", "t", None),), (), True),
        (("mine", "t", "earlier"), (("earlier", "t", None),), ("earlier",), True),
        # A closing job alone makes up for another's, unless that one had told it.
        (("mine", None, "earlier"), (("earlier", "t", None),), (), True),
        (("mine", None, "earlier"), (("earlier", "t", None),), ("earlier",), False),
        (("mine", None, "earlier"), (("earlier", None, "1st"), ("1st", "t", None)), ("1st",), False),
        (("mine", None, "earlier"), (("earlier", "t", "1st"), ("1st", "t", None)), ("1st",), True),
        (("mine", None, "gone"), (), (), True),
    ],
)
def test_the_end_is_told_once_by_the_last_that_goes_on(
    own: tuple[Any, ...], others: Sequence[tuple[Any, ...]], told: Sequence[str], tells: bool
) -> None:
    first, *rest = [_continuing(*each) for each in (own, *others)]
    assert tells_end(first, [first, *rest], told) == tells


def _continuing(name: str, task: str | None, continues: str | None = None) -> Submission:
    made = submission("mine", *([task] if task else []))
    return replace(made, name=name, continues=continues)


def test_a_chain_goes_back_in_time_alone() -> None:
    one, two = _continuing("1st", "t", "2nd"), _continuing("2nd", "t", "1st")
    assert [link.name for link in chain(two, [one, two])] == ["2nd", "1st"]
    assert [link.name for link in chain(one, [one, two])] == ["1st"]
    assert [link.name for link in chain(_continuing("1st", "t", "1st"), [one])] == ["1st"]
