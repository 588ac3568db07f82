"""The state of a task from its evidence: a table of cases, and what holds for every combination of evidence."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from jobs.context import Progress
from jobs.task import CAUSES, Provenance, Record
from pipeline.decisions.task_state import (
    STATES,
    AttemptEvidence,
    Evidence,
    QueueEvidence,
    TaskState,
    decide,
    with_upstream_cause,
)
from slurm.job_state import CAUSES as JOB_CAUSES
from slurm.job_state import STATES as JOB_STATES
from slurm.job_state import JobState

STALE_S = 60.0
BROKEN = "runs/t/record.json: not a record"


def record(state: str = "failed", *, attempt: int = 1, cause: str | None = None, **about: Any) -> Record:
    return Record(
        id="t", stage="train", state=state, cause=cause, message=None if state == "done" else "its own message",
        started=0.0, ended=7200.0, running_s=7200.0, attempt=attempt, about=Provenance(**about),
    )  # fmt: skip


def job(state: str, cause: str | None = None, *, packed: int = 1, **facts: Any) -> QueueEvidence:
    return QueueEvidence(executor="slurm", job=JobState(id="7_0", state=state, cause=cause, **facts), packed=packed)


def attempts(*ages_s: float | None, over: bool = False) -> tuple[AttemptEvidence, ...]:
    """One attempt for each age of a heartbeat; with ``over`` the last said its end."""
    begun = [
        AttemptEvidence(
            number=number, started=0.0, heartbeat_age_s=age_s, last_heartbeat=None if age_s is None else 1000.0 - age_s
        )
        for number, age_s in enumerate(ages_s, 1)
    ]
    return (*begun[:-1], replace(begun[-1], ended=1000.0)) if over else tuple(begun)


def state_of(**evidence: Any) -> TaskState:
    return decide(Evidence(id="t", **evidence), stale_s=STALE_S)


DONE: dict[str, Any] = {"record": record("done"), "files_intact": True}
FILES_GONE: dict[str, Any] = {"record": record("done"), "files_intact": False}
FAILED: dict[str, Any] = {"record": record(cause="diverged")}
# What a decided state says where neither record nor executor has a word.
FILES = "its record says done, but files that it names are gone"
NO_WORD = "it ended without a record"
SILENT = "its state is not known at the moment"
OWN = "its own message"
TABLE: dict[str, tuple[dict[str, Any], str, str | None, str | None]] = {
    # evidence, then the state, its cause, and its message or reason
    "never submitted": ({}, "waiting", None, "not submitted"),
    "held before it was ever submitted": (
        {"held_note": "the canary failed"}, "waiting", None, "held: the canary failed",
    ),
    "done": (DONE, "done", None, None),
    "done, whatever the executor says": ({**DONE, "queue": job("failed", "cancelled")}, "done", None, None),
    "done, though a later attempt began": ({**DONE, "attempts": attempts(5.0, 5.0)}, "done", None, None),
    "a shard whose data set is done": ({"superseded": True}, "done", None, "its data set is whole"),
    "a shard whose data set is done and whose record failed": (
        {**FAILED, "superseded": True}, "done", None, "its data set is whole",
    ),
    "files gone": (FILES_GONE, "lost", None, FILES),
    "files gone, its element ended well": ({**FILES_GONE, "queue": job("done")}, "lost", None, FILES),
    "files gone and made again": ({**FILES_GONE, "queue": job("running")}, "running", None, None),
    "a record that cannot be read": ({"record_error": BROKEN}, "failed", "error", BROKEN),
    "a record that cannot be read, tried again": (
        {"record_error": BROKEN, "queue": job("waiting")}, "waiting", None, None,
    ),
    "a record that cannot be read, Slurm silent": (
        {"record_error": BROKEN, "queue": job("unknown")}, "failed", "error", BROKEN,
    ),
    "failed by its record": (FAILED, "failed", "diverged", OWN),
    "failed by its record, which knows more than Slurm": (
        {**FAILED, "queue": job("failed", "error", reason="NonZeroExitCode"), "attempts": attempts(90.0)},
        "failed", "diverged", OWN,
    ),
    "failed by its record, and Slurm is silent": ({**FAILED, "queue": job("unknown")}, "failed", "diverged", OWN),
    "failed by its record, written by its newest attempt": (
        {"record": record(cause="error", attempt=2), "attempts": attempts(500.0, 90.0)}, "failed", "error", OWN,
    ),
    "failed before, tried again, queued": (
        {**FAILED, "attempts": attempts(90.0), "queue": job("waiting", reason="Priority")}, "waiting", None, "Priority",
    ),
    "failed before, tried again, at it": ({**FAILED, "queue": job("running")}, "running", None, None),
    "failed before, then killed without a record": (
        {**FAILED, "attempts": attempts(500.0, 90.0), "queue": job("failed", "time limit")},
        "failed", "time limit", None,
    ),
    "failed before, then lost without a word": (
        {**FAILED, "attempts": attempts(500.0, 90.0), "queue": job("gone")}, "lost", None, NO_WORD,
    ),
    "failed before, at it again, Slurm silent": (
        {**FAILED, "attempts": attempts(500.0, 5.0), "queue": job("unknown")}, "running", None, None,
    ),
    "queued": ({"queue": job("waiting", reason="Priority")}, "waiting", None, "Priority"),
    "queued, held when its turn came": ({"queue": job("waiting"), "held_note": "canary"}, "waiting", None, "canary"),
    "running": ({"queue": job("running")}, "running", None, None),
    "running, held note of before": ({"queue": job("running"), "held_note": "canary"}, "running", None, None),
    "held when its turn came": (
        {"queue": job("failed", "error"), "held_note": "canary"}, "waiting", None, "held: canary",
    ),
    "Slurm silent": ({"queue": job("unknown", reason="slurmctld is down")}, "unknown", None, "slurmctld is down"),
    "Slurm silent and without a word": ({"queue": job("unknown")}, "unknown", None, SILENT),
    "Slurm silent, a fresh heartbeat": ({"queue": job("unknown"), "attempts": attempts(5.0)}, "running", None, None),
    "Slurm silent, an old heartbeat": (
        {"queue": job("unknown"), "attempts": attempts(STALE_S)}, "unknown", None, SILENT,
    ),
    "Slurm silent, a heartbeat of an attempt that ended": (
        {"queue": job("unknown"), "attempts": attempts(5.0, over=True)}, "unknown", None, SILENT,
    ),
    "Slurm silent, an exit code": ({"queue": job("unknown"), "exit_code": 1}, "unknown", None, SILENT),
    "gone from the queue": ({"queue": job("gone", reason="nobody knows it")}, "lost", None, "nobody knows it"),
    "gone from the queue, a fresh heartbeat": (
        {"queue": job("gone"), "attempts": attempts(5.0)}, "running", None, None,
    ),
    "gone from the queue, heartbeats of an earlier attempt alone": (
        {"queue": job("gone"), "attempts": attempts(5.0, None)}, "lost", None, NO_WORD,
    ),
    "gone from the queue, an old heartbeat": (
        {"queue": job("gone"), "attempts": attempts(90.0)}, "lost", None, NO_WORD,
    ),
    "gone from the queue, its process failed": ({"queue": job("gone"), "exit_code": 1}, "failed", "error", None),
    "gone from the queue, its process was killed": ({"queue": job("gone"), "exit_code": -9}, "failed", "killed", None),
    "its element ended well, it left nothing": ({"queue": job("done")}, "lost", None, NO_WORD),
    "its element ended well, its process was killed": (
        {"queue": job("done"), "exit_code": -9}, "failed", "killed", None,
    ),
    "its element ended well, its process did not": ({"queue": job("done"), "exit_code": 1}, "failed", "error", None),
    "its element failed, its process was killed": (
        {"queue": job("failed", "error"), "exit_code": -15}, "failed", "killed", None,
    ),
    "its element failed with a fresh heartbeat": (
        {"queue": job("failed", "error"), "attempts": attempts(5.0)}, "failed", "error", None,
    ),
    "its node failed, whatever its process wrote": (
        {"queue": job("failed", "node failure", reason="NodeFail"), "exit_code": -9},
        "failed", "node failure", "NodeFail",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("evidence", "state", "cause", "words"), TABLE.values(), ids=TABLE.keys())
def test_the_state_follows_from_the_evidence(
    evidence: dict[str, Any], state: str, cause: str | None, words: str | None
) -> None:
    decided = state_of(**evidence)
    assert (decided.state, decided.cause, decided.message or decided.reason) == (state, cause, words)


CAUSE_OF_JOB_CAUSE = {
    "error": "error",
    "out of memory": "out of memory",
    "time limit": "time limit",
    "node failure": "node failure",
    "cancelled": "cancelled",
    "preempted": "preempted too often",
    "killed": "killed",
    "paused": "preempted too often",
    "storage": "storage",
}


@pytest.mark.parametrize("job_cause", JOB_CAUSES)
def test_each_cause_of_an_element_is_a_cause_of_its_task(job_cause: str) -> None:
    decided = state_of(queue=job("failed", job_cause, reason="why"))
    assert (decided.state, decided.cause, decided.message) == ("failed", CAUSE_OF_JOB_CAUSE[job_cause], "why")
    assert decided.cause in CAUSES


@pytest.mark.parametrize("cause", CAUSES)
def test_a_record_has_the_word_on_its_cause(cause: str) -> None:
    decided = state_of(record=record(cause=cause), queue=job("failed", "cancelled"), attempts=attempts(90.0))
    assert (decided.state, decided.cause, decided.message) == ("failed", cause, "its own message")


RECORDS: list[dict[str, Any]] = [
    {}, DONE, FILES_GONE, FAILED, {"record": record(cause="error", attempt=2)}, {"record_error": BROKEN},
]  # fmt: skip
QUEUES = [
    None,
    *(job(state) for state in JOB_STATES if state != "failed"),
    *(job("failed", cause) for cause in JOB_CAUSES),
]
ATTEMPTS = [(), attempts(5.0), attempts(90.0), attempts(5.0, over=True), attempts(500.0, 5.0), attempts(500.0, 90.0)]
EVERYTHING = [
    Evidence(id="t", **facts, queue=queue, attempts=tries, exit_code=code, held_note=note, superseded=superseded)
    for facts, queue, tries, code, note, superseded in product(
        RECORDS, QUEUES, ATTEMPTS, (None, 0, 1, -9), (None, "canary"), (False, True)
    )
]


def test_what_holds_of_every_combination_of_evidence() -> None:
    assert len(EVERYTHING) == 6 * 15 * 6 * 4 * 2 * 2
    for evidence in EVERYTHING:
        decided = decide(evidence, stale_s=STALE_S)
        job_state = evidence.queue.job.state if evidence.queue else None
        of_record = (
            evidence.record is not None
            and (evidence.attempts[-1].number if evidence.attempts else 0) <= evidence.record.attempt
        )
        told_by_storage = evidence.record_error is not None or of_record or evidence.record == FILES_GONE["record"]
        assert decided.state in STATES, evidence
        # A cause belongs to a failure, and to nothing else.
        assert (decided.cause in CAUSES) == (decided.state == "failed"), evidence
        # Done is a fact on storage.
        assert (decided.state == "done") == (evidence.files_intact or evidence.superseded), evidence
        if decided.state == "done":
            continue
        # What the executor says is live is neither failed nor lost, and not queued a second time.
        if job_state in ("waiting", "running"):
            assert (decided.state, decided.queued) == (job_state, True), evidence
        # No answer is not an answer: only storage can say that a task failed meanwhile.
        if job_state == "unknown":
            assert decided.queued, evidence
            assert decided.state in ("unknown", "running", "waiting") or told_by_storage, evidence
        # Only a task that the executor does not answer for is unknown.
        if decided.state == "unknown":
            assert job_state == "unknown", evidence
        if job_state is None:
            assert (decided.job, decided.executor, decided.queued) == (None, None, False), evidence


# GPU-hours: each task has its share of what was allotted to the element that it shared.


def test_gpu_hours_of_a_finished_task_are_its_share_of_the_time_at_work() -> None:
    done = {"record": record("done", gpus=2), "files_intact": True}
    assert state_of(**done).gpu_hours == 4.0
    assert state_of(**done, pack=4).gpu_hours == 1.0


def test_gpu_hours_of_slurm_are_divided_by_how_many_were_packed() -> None:
    assert state_of(queue=job("running", gpu_hours=6.0)).gpu_hours == 6.0
    assert state_of(queue=job("running", gpu_hours=6.0, packed=3), pack=5).gpu_hours == 2.0


def test_gpu_hours_of_attempts_are_summed_and_divided_by_the_planned_pack() -> None:
    ended = AttemptEvidence(number=1, started=0.0, ended=3600.0, last_heartbeat=3000.0, gpus=2)
    silent = AttemptEvidence(number=2, started=4000.0, last_heartbeat=4000.0 + 1800.0, gpus=1)
    unsaid = AttemptEvidence(number=3, gpus=8)
    backwards = AttemptEvidence(number=4, started=5000.0, ended=4000.0, gpus=8)
    tries = (ended, silent, unsaid, backwards)
    assert state_of(queue=job("failed", "error"), attempts=tries).gpu_hours == 2.5
    assert state_of(queue=job("failed", "error", packed=9), attempts=tries, pack=5).gpu_hours == 0.5
    assert state_of(attempts=()).gpu_hours == 0.0


def test_peak_memory_is_the_most_of_any_attempt_or_of_slurm() -> None:
    tries = (AttemptEvidence(number=1, peak_mb=2048.0), AttemptEvidence(number=2, peak_mb=1024.0))
    assert state_of(queue=job("running"), attempts=tries).peak_mem_gb == 2.0
    assert state_of(queue=job("running", max_rss_mb=3072.0), attempts=tries).peak_mem_gb == 3.0
    assert state_of(queue=job("running")).peak_mem_gb is None
    assert state_of(record=record("done", peak_mb=512.0), files_intact=True).peak_mem_gb == 0.5


def test_what_the_executor_knows_is_handed_on() -> None:
    decided = state_of(
        queue=job("running", node="n3", waited_s=9.0), attempts=attempts(5.0, 5.0), progress=Progress(epoch=2)
    )
    assert (decided.job, decided.executor, decided.node, decided.waited_s) == ("7_0", "slurm", "n3", 9.0)
    assert (decided.attempts, decided.progress) == (2, Progress(epoch=2))
    by_heartbeat = state_of(queue=job("unknown"), attempts=attempts(5.0), progress=Progress(epoch=2))
    assert (by_heartbeat.progress, by_heartbeat.queued) == (Progress(epoch=2), True)
    assert state_of(record=record("done", attempt=3), files_intact=True).attempts == 3


# Upstream: a cancellation that is Slurm's own has the cause of what it waited for.

UPSTREAM_FAILED = ("upstream failed", "needs data, which failed")
CANCELLED = ("cancelled", "by a person")


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        ("failed", UPSTREAM_FAILED),
        ("lost", UPSTREAM_FAILED),
        ("done", CANCELLED),
        ("waiting", CANCELLED),
        ("running", CANCELLED),
        ("unknown", CANCELLED),
    ],
)
def test_a_cancelled_task_whose_needs_failed_failed_for_want_of_them(needed: str, expected: tuple[str, str]) -> None:
    cancelled = TaskState(id="t", state="failed", cause="cancelled", message="by a person", job="7_0")
    told = with_upstream_cause(cancelled, ("data",), {"data": TaskState(id="data", state=needed)})
    assert (told.cause, told.message, told.job) == (*expected, "7_0")


@pytest.mark.parametrize("cause", [cause for cause in CAUSES if cause != "cancelled"])
def test_any_other_cause_is_the_tasks_own(cause: str) -> None:
    failed = TaskState(id="t", state="failed", cause=cause)
    assert with_upstream_cause(failed, ("data",), {"data": TaskState(id="data", state="failed")}) == failed


def test_needs_outside_the_plan_say_nothing_and_all_that_failed_are_named() -> None:
    cancelled = TaskState(id="t", state="failed", cause="cancelled")
    assert with_upstream_cause(cancelled, ("elsewhere",), {}) == cancelled
    both = {name: TaskState(id=name, state="failed") for name in ("a", "b")}
    assert with_upstream_cause(cancelled, ("a", "b"), both).message == "needs a, b, which failed"


@pytest.mark.parametrize(
    ("continued", "queue", "state", "cause"),
    [
        (None, None, "done", None),
        ("running", None, "running", None),
        ("running", job("gone"), "running", None),
        ("lost", None, "lost", None),
        ("paused", job("failed", "node failure"), "lost", None),
        ("lost", job("waiting"), "waiting", None),
        ("lost", job("running"), "running", None),
    ],
)
def test_a_stopped_trial_that_is_being_continued_is_not_done(
    continued: str | None, queue: QueueEvidence | None, state: str, cause: str | None
) -> None:
    decided = state_of(**DONE, continued=continued, queue=queue)
    assert (decided.state, decided.cause) == (state, cause)


@pytest.mark.parametrize(
    ("queue", "begun", "node"),
    [
        (job("gone"), 1, "n3"),  # no accounting, and the controller has forgotten it
        (job("failed", "error", node="n4"), 1, "n4"),
        (job("gone"), 2, None),  # where a later attempt was lost is not known
    ],
)
def test_where_a_forgotten_job_failed_is_in_its_record(queue: QueueEvidence, begun: int, node: str | None) -> None:
    broken = record(cause="GPU failure", slurm={"slurmd_nodename": "n3"})
    assert state_of(record=broken, queue=queue, attempts=attempts(*[9e9] * begun)).node == node
